"""ALMA: the distance under an augmented Lagrangian of the goal (Rony et al., 2021, arXiv 2011.11857).

A step descends distance + P(c, rho, mu), where c is the difference of logits ratio, positive until the goal is reached,
and P penalises it: mu follows P's slope, rho grows while c does not fall.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import nearest
from robustsuite.methods.evasion.nearest import Seen, Walk
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State
from robustsuite.serve.oracle import Oracle

FIRST = {"l2": 0.1, "l1": 0.5}
"""The length of the first step."""

DECAY, AVERAGED = 0.01, 0.9
"""What is left of the step size at the end, once an image broke; what an average keeps of itself in a step."""

PERIOD, IMPROVED, GROWTH = 10, 0.95, 1.2
"""Steps between two looks at c, to what share it has to fall between them, and by what rho grows where it does not."""

MU, TOLERANCE = (1e-6, 1e12), 1e-4
"""The bounds of mu; what is added to the difference of logits, so that c is not yet 0 where they are level."""


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Rony et al., 2021, arXiv:2011.11857",
    cost=nearest.cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 1000},  # the reference code's; at 100 it ends two to three times as far out as DDN on MNIST
    minimum_norm=True,
    differs=(
        "the first step has its length in closed form, over the values that the box lets move, instead of by a search",
    ),
)
def alma(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 1000
) -> Tensor:
    """Augmented Lagrangian method from the clean picture, by RMSProp with momentum.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the nearest adversarial
    found even beyond budget.eps; where none was found the last iterate, projected onto the budget. Needs 3 classes, 4
    where one is to be reached. Deterministic. Raises BadValue.
    """

    def begin(example: Tensor) -> State:
        one, flat = torch.ones(len(example), device=x.device), torch.zeros_like(x[example])
        return {"mu": one, "rho": one, "rate": one, "before": one, "since": one * (steps + 1), "square": flat + 1,
                "momentum": flat}  # fmt: skip

    def move(rows: State, seen: Seen) -> State:
        c, k, first, broken = -seen.ask.loss, seen.k, seen.k == 0, seen.least.isfinite()
        look = (k + 1) % PERIOD == 0
        stuck = look & ~broken & (c >= IMPROVED * rows["before"])
        rho = torch.where(stuck, GROWTH * rows["rho"], rows["rho"])
        mu = torch.lerp(rows["mu"], slope(c, rho, rows["mu"]), 1 - AVERAGED).clamp(*MU)
        mu = torch.where(first, rows["mu"], mu)
        since = torch.where(broken & (rows["since"] > steps), k, rows["since"])

        change = rows["at"] - seen.clean
        longer = change.sign() if budget.norm == "l1" else projections.unit(change, "l2")
        grad = longer - per_row(slope(c, rho, mu), x) * seen.ask.grad
        free = torch.where(grad > 0, rows["at"] > 0, rows["at"] < 1)
        length = projections.norm((grad * free).flatten(1), budget.norm).clamp_min(1e-12)
        rate = torch.where(first, FIRST[budget.norm] / length, rows["rate"])
        square = torch.lerp(rows["square"], grad.square(), 1 - AVERAGED)
        momentum = AVERAGED * rows["momentum"] + grad / (square.sqrt() + 1e-8)
        eta = rate * DECAY ** ((k - since).clamp_min(0) / (steps - since).clamp_min(1))
        at = (rows["at"] - per_row(eta, x) * momentum).clamp(0, 1)
        return {"at": at, "mu": mu, "rho": rho, "rate": rate, "before": torch.where(look | first, c, rows["before"]),
                "since": since, "square": square, "momentum": momentum}  # fmt: skip

    return nearest.nearest(model, x, y, budget, targets, steps, Walk(_ratio, begin, move))


def slope(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The slope of the penalty P in c, all (N,).

    P(c) = mu c + mu rho c^2 + rho^2 c^3 / 6 for c >= 0, else mu c / (1 - rho c): the paper's P2.
    """
    above = mu + 2 * mu * rho * c + 0.5 * rho.square() * c.square()
    return torch.where(c >= 0, above, mu / (1 - rho * c.clamp_max(0)).square())


def _ratio(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """The margin over the spread of the largest logits (N,), positive where the goal is reached."""
    largest = 3 if targets is None else 4
    if logits.shape[1] < largest:
        raise BadValue(f"expected at least {largest} classes for alma's loss, got {logits.shape[1]}; use fmn")
    z = logits.topk(largest, dim=1).values
    spread = z[:, 0] - (z[:, 2] if targets is None else (z[:, 2] + z[:, 3]) / 2)
    return (losses.goal_margin(logits, y, targets) - TOLERANCE) / (spread + 1e-8)
