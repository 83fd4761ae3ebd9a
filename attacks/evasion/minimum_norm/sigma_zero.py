"""sigma-zero: the fewest changed values, by a smooth count and a threshold that moves (Cina et al., 2025,
arXiv 2402.01879)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import nearest
from robustsuite.methods.evasion.nearest import Seen, Walk, adam, cosine
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State
from robustsuite.serve.oracle import Oracle

ETA, SIGMA = (1.0, 0.1), 1e-3
"""Step size, first and last, on a cosine between; where the smooth count of a change d, d^2 / (d^2 + sigma), is 1/2."""

TAU, SHIFT = 0.3, 0.01
"""The first threshold, below which a change is undone, and by how much of the step size it moves each time."""


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("l0",),
    goals=("untargeted", "targeted"),
    paper="Cina et al., 2025, arXiv:2402.01879",
    cost=nearest.cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 100},  # the default of the authors' code; 1000 in their tables
    minimum_norm=True,
    differs=(
        "the threshold moves, as in the paper; in the authors' code it is written to a copy and stays at 0.3",
        "the loss of an image does not depend on how many are attacked beside it",
        "towards a class by that class's margin; the reference codes are untargeted alone",
    ),
)
def sigma_zero(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 1000
) -> Tensor:
    """Adam on the margin and a smooth count of the changes, small changes undone after each step.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the adversarial with the
    fewest changed values even beyond budget.eps; where none was found the last iterate, projected onto the budget.
    Deterministic. Raises BadValue.
    """

    def begin(example: Tensor) -> State:
        none = torch.zeros_like(x[example])
        return {"mean": none, "square": none, "tau": torch.full((len(example),), TAU, device=x.device)}

    def move(rows: State, seen: Seen) -> State:
        change = rows["at"] - seen.clean
        count = 2 * SIGMA * change / (change.square() + SIGMA).square() / change[0].numel()
        grad = count - torch.where(per_row(seen.wrong, x), 0, seen.ask.grad)
        averages, mean, root = adam(rows, projections.unit(grad, "linf"), seen.k)
        eta = cosine(ETA, seen.part)
        new = (rows["at"] - per_row(eta, x) * mean / root).clamp(0, 1)
        tau = moved_threshold(rows["tau"], seen.wrong, eta)
        small = (new - seen.clean).abs() < per_row(tau, x)
        return {**averages, "at": torch.where(small, seen.clean, new), "tau": tau}

    return nearest.nearest(model, x, y, budget, targets, steps, Walk(losses.goal_margin, begin, move))


def moved_threshold(tau: Tensor, wrong: Tensor, eta: Tensor) -> Tensor:
    """The next threshold (N,) in [0, 1]: higher after a break, lower after none."""
    return (tau + SHIFT * torch.where(wrong, eta, -eta)).clamp(0, 1)
