"""FMN: the smallest adversarial change, by a ball that shrinks and grows (Pintor et al., 2021, arXiv 2102.12827).

One run gives robust accuracy at every eps: what it returns is the nearest break found, inside budget.eps or not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import nearest
from robustsuite.methods.evasion.nearest import Seen, Walk, cosine
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State
from robustsuite.serve.oracle import Oracle

ALPHA, GAMMA = (1.0, 0.01), (0.05, 0.001)
"""Step length, and relative change of the ball: first and last, on a cosine between."""


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1", "l0"),
    goals=("untargeted", "targeted"),
    paper="Pintor et al., 2021, arXiv:2102.12827",
    cost=nearest.cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 100},  # the smaller of the paper's two settings, 100 and 1000
    minimum_norm=True,
    differs=(
        "before the first break the ball reaches 1 + gamma times the linearised distance: a tie is no break",
        "linf, l2, l1: a change inside the ball is stretched to its surface, as DDN does; nothing else takes it further"
        " out where slopes are flat",
        "l0: a step has its length in linf, not in l2, as in sigma-zero",
    ),
)
def fmn(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 100
) -> Tensor:
    """Fast minimum-norm attack from the clean picture, in the budget's norm.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the nearest adversarial
    found even beyond budget.eps; where none was found the last iterate, projected onto the budget. l0 counts pixel
    values. Deterministic. Raises BadValue.
    """
    norm, measured = budget.norm, "linf" if budget.norm == "l0" else "l2"

    def begin(example: Tensor) -> State:
        return {"eps": torch.full((len(example),), 1.0 if norm == "l0" else torch.inf, device=x.device)}

    def move(rows: State, seen: Seen) -> State:
        eps = _radius(rows["eps"], seen, cosine(GAMMA, seen.part), norm)
        step = per_row(cosine(ALPHA, seen.part), x) * projections.unit(seen.ask.grad, measured)
        change = rows["at"] + step - seen.clean
        if norm == "l0":  # the largest changes before the box cuts them, in the paper's order
            kept = change * projections.largest(change.abs(), eps.to(torch.int64))
            return {"at": (seen.clean + kept).clamp(0, 1), "eps": eps}
        stretch = eps / projections.norm(change.flatten(1), norm).clamp_min(1e-12)
        change = change * per_row(stretch.clamp_min(1), x)
        return {"at": projections.project(seen.clean, seen.clean + change, eps, norm), "eps": eps}

    return nearest.nearest(model, x, y, budget, targets, steps, Walk(losses.goal_margin, begin, move))


def _radius(eps: Tensor, seen: Seen, gamma: Tensor, norm: str) -> Tensor:
    """The next ball: smaller after a break, larger after none; before the first, the linearised distance."""
    if norm == "l0":
        smaller = torch.minimum(torch.minimum(eps - 1, (eps * (1 - gamma)).floor()), seen.least)
        larger = torch.maximum(eps + 1, (eps * (1 + gamma)).floor())
        return torch.where(seen.wrong, smaller, larger).clamp_min(0)
    slope = projections.norm(seen.ask.grad.flatten(1), projections.DUAL[norm]).clamp_min(1e-12)
    guess = (seen.length + seen.ask.loss.abs() / slope) * (1 + gamma)  # the boundary itself is a tie, which is no break
    smaller = torch.minimum(eps * (1 - gamma), seen.least)
    return torch.where(seen.wrong, smaller, torch.where(seen.least.isinf(), guess, eps * (1 + gamma)))
