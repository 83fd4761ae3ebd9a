"""One perturbation for every picture (Moosavi-Dezfooli et al., 2017, arXiv 1610.08401), learnt by stochastic ascent.

Shafahi et al., 2020, "Universal adversarial training", arXiv 1811.11304: the clipped loss of a batch is raised by steps
on the perturbation, which is projected back onto the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.attacks.evasion.beyond._learnt import learnt
from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

STEP = 0.25
"""Of the radius, at first."""


def _cost(*, steps: int, batch: int, **_: object) -> Cost:
    """Of the learning: nothing is asked about the pictures attacked."""
    return Cost(forwards=steps * batch, backwards=steps * batch)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES | Access.AUX_DATA,
    norms=("linf", "l2"),
    paper="Shafahi et al., 2020, arXiv:1811.11304",
    cost=_cost,
    learns=True,
    family=("gradient",),
    **WHITE_BOX,
    least={"steps_a_picture": 20},  # of which it has none: it is learnt on others
    differs=("steps by sign (linf) or unit gradient (l2) shrink on a straight line, where the authors also use Adam",),
)
def universal(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, aux: Aux, steps: int = 100, batch: int = 32
) -> Tensor:
    """The same change for every picture, learnt on the adversary's own; nothing is asked about the pictures attacked.

    x (N, C, H, W) in [0, 1], y (N,). steps: of the learning, each on `batch` of the adversary's pictures. Raises
    BadValue.
    """
    if not len(x):
        return x

    def shown(pictures: Tensor, change: Tensor, _: Rng) -> Tensor:
        return pictures + change

    def moved(change: Tensor, slope: Tensor, left: float) -> Tensor:
        direction = slope.sign() if budget.norm == "linf" else projections.unit(slope, "l2")
        new = change + STEP * left * budget.eps * direction
        if budget.norm == "linf":
            return new.clamp(-budget.eps, budget.eps)
        return new * (budget.eps / projections.norm(new.flatten(1), "l2").clamp_min(1e-30)).clamp_max(1)

    change = learnt(model, aux, torch.zeros_like(x[:1]), shown, moved, steps=steps, batch=batch)
    return budget.project(x, x + change)
