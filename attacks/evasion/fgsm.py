"""FGSM: one step to where the linearised loss is largest in the ball (Goodfellow et al., 2015, arXiv 1412.6572).

linf: eps sign(g). l2: eps g / ||g||. l1: the pixels of largest |g| go to the end of the box until eps is spent,
which is exact for ball and box together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite import losses, projections
from robustsuite.oracle import Oracle
from robustsuite.randomness import Rng
from robustsuite.registry import Cost
from robustsuite.scenarios import evasion
from robustsuite.threats import Access, Ball


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    paper="Goodfellow et al., 2015, arXiv:1412.6572",
    cost=lambda classes, **_: Cost(forwards=1, backwards=1),
)
def fgsm(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, loss: str = "ce") -> Tensor:
    """One step of steepest ascent to the edge of the ball.

    x (N, C, H, W) in [0, 1], y (N,). loss: ce, margin, dlr or pma. Deterministic. Raises UnknownName.
    """
    f = losses.loss_named(loss)

    def stepped(rows: Tensor) -> Tensor:
        g = model[rows].gradient(x[rows], lambda z: f(z, y[rows])).grad
        return projections.steepest(x[rows], g, budget.eps, budget.norm)

    batches = torch.split(torch.arange(len(x)), model.width) if len(x) else ()
    return torch.cat([x[:0], *(stepped(rows) for rows in batches)])
