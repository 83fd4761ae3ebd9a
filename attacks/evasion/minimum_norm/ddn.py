"""DDN: direction and length of the change apart: unit steps, then a sphere that shrinks and grows (Rony et al., 2019,
arXiv 1811.09600)."""

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

ALPHA, GAMMA, FIRST = (1.0, 0.01), 0.05, 1.0
"""Step length, first and last, on a cosine between; relative change of the sphere, and its first radius."""


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("l2",),
    goals=("untargeted", "targeted"),
    paper="Rony et al., 2019, arXiv:1811.09600",
    cost=nearest.cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 100},  # "as few as 100 iterations", the paper's smallest setting
    minimum_norm=True,
    differs=("pictures are not rounded to 8 bits a value, which would only move them away from the nearest break",),
)
def ddn(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 100
) -> Tensor:
    """Decoupled direction and norm, from the clean picture, by the cross-entropy.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the nearest adversarial
    found even beyond budget.eps; where none was found the last iterate, projected onto the budget. Draws a direction
    an example, for where the gradient is 0. Raises BadValue.
    """
    furthest = projections.norm(torch.maximum(x, 1 - x).flatten(1), "l2")

    def begin(example: Tensor) -> State:
        astray = projections.unit(rng[example].fold("direction").normal(*x.shape[1:]), "l2")
        return {"eps": torch.full((len(example),), FIRST, device=x.device), "astray": astray}

    def move(rows: State, seen: Seen) -> State:
        direction = projections.unit(seen.ask.grad, "l2")
        flat = (seen.ask.grad == 0).flatten(1).all(1)
        direction = torch.where(per_row(flat, x), rows["astray"], direction)
        eps = rows["eps"] * torch.where(seen.wrong, 1 - GAMMA, 1 + GAMMA)
        eps = torch.minimum(eps, furthest[rows["example"]])
        change = rows["at"] - seen.clean + per_row(cosine(ALPHA, seen.part), x) * direction
        return {"at": (seen.clean + per_row(eps, x) * projections.unit(change, "l2")).clamp(0, 1), "eps": eps}

    return nearest.nearest(model, x, y, budget, targets, steps, Walk(_entropy, begin, move))


def _entropy(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """What is ascended (N,): the cross-entropy of y, or less that of the class to reach."""
    return losses.cross_entropy(logits, y) if targets is None else -losses.cross_entropy(logits, targets[:, 0])
