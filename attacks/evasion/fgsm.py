"""FGSM: one step to where the linearised loss is largest in the ball (Goodfellow et al., 2015, arXiv 1412.6572).

linf: eps sign(g). l2: eps g / ||g||. l1: the pixels of largest |g| go to the end of the box until eps is spent,
which is exact for ball and box together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths import losses, projections
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Goodfellow et al., 2015, arXiv:1412.6572",
    cost=lambda **_: Cost(forwards=1, backwards=1),
    family=("gradient",),
    **WHITE_BOX,
    least={"steps": 20},  # it has one: no number rests on it
)
def fgsm(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, loss: str = "ce"
) -> Tensor:
    """One step of steepest ascent to the edge of the ball.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. loss: ce, margin, dlr or pma.
    Deterministic. Raises UnknownName.
    """
    f, toward = losses.loss_named(loss), 1 if targets is None else -1
    goal = y if targets is None else targets[:, 0]

    def stepped(rows: Tensor) -> Tensor:
        g = model[rows].gradient(x[rows], lambda z: toward * f(z, goal[rows])).grad
        return projections.steepest(x[rows], g, budget.eps, budget.norm)

    batches = torch.split(torch.arange(len(x), device=x.device), model.width) if len(x) else ()
    return torch.cat([x[:0], *(stepped(rows) for rows in batches)])
