"""One patch for every picture, wherever it lies (Brown et al., 2017, "Adversarial patch", arXiv 1712.09665)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.attacks.evasion.beyond._learnt import learnt
from robustsuite.config.registry import Cost
from robustsuite.config.sets import Patch
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access
from robustsuite.maths import warping
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

TURN = 45.0
"""Degrees to each side."""

SMALLEST = 0.6
"""Of the size that fits into the square of the threat."""

STEP = 0.1
"""Of the range of a pixel, at first."""


def _cost(*, steps: int, batch: int, **_: object) -> Cost:
    """Of the learning: nothing is asked about the pictures attacked."""
    return Cost(forwards=steps * batch, backwards=steps * batch)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES | Access.AUX_DATA,
    norms=("patch",),
    paper="Brown et al., 2017, arXiv:1712.09665",
    cost=_cost,
    learns=True,
    family=("gradient",),
    **WHITE_BOX,
    least={"steps_a_picture": 20},  # of which it has none: it is learnt on others
    differs=(
        "the loss of the true class is raised, where the authors raise the probability of one target class",
        "a turned patch is made so small that it stays inside the square that the threat allows",
    ),
)
def adversarial_patch(
    model: Oracle, x: Tensor, y: Tensor, budget: Patch, *, rng: Rng, aux: Aux, steps: int = 100, batch: int = 32
) -> Tensor:
    """The same patch for every picture, learnt on the adversary's own, and put down at random on those attacked.

    x (N, C, H, W) in [0, 1], y (N,). steps: of the learning, each on `batch` of the adversary's pictures. Each picture
    draws its place, size and turn once; nothing is asked about it. Raises BadValue.
    """
    side = budget.side(x)
    if not len(x) or not side:
        return x

    def shown(pictures: Tensor, content: Tensor, streams: Rng) -> Tensor:
        return _placed(pictures, content, side, streams)

    def moved(content: Tensor, slope: Tensor, left: float) -> Tensor:
        return (content + STEP * left * slope.sign()).clamp(0, 1)

    grey = torch.full((1, x.shape[1], side, side), 0.5, device=x.device)
    return _placed(x, learnt(model, aux, grey, shown, moved, steps=steps, batch=batch), side, rng.fold("placed"))


def _placed(x: Tensor, content: Tensor, side: int, streams: Rng) -> Tensor:
    """Pictures with the content (1, C, side, side) laid into a square of that side, turned and sized as is drawn."""
    angle, size, down, right = streams.uniform(4).unbind(1)
    angle = (2 * angle - 1) * math.radians(TURN)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    size = (SMALLEST + (1 - SMALLEST) * size).view(-1, 1, 1) / (cos.abs() + sin.abs())
    (rows, columns), middle = warping.places(x), (side - 1) / 2
    r, c = (axis - ((n - side + 1) * drawn).floor().view(-1, 1, 1) - middle
            for axis, n, drawn in ((rows, x.shape[2], down), (columns, x.shape[3], right)))  # fmt: skip
    row, column = (cos * r + sin * c) / size, (cos * c - sin * r) / size
    covered = ((row.abs() <= side / 2) & (column.abs() <= side / 2))[:, None]
    laid = warping.sampled(content.expand(len(x), -1, -1, -1), row + middle, column + middle, edge=True)
    return torch.where(covered, laid, x)
