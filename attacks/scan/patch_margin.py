"""How far a patch of one size leads to each class, wherever it is (Xiang et al., 2020, arXiv:1911.07970)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.inversion import driven
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect

PLACES = 3
"""Rows and columns of places that are tried, from border to border."""


@scan.attack(
    needs=Access.GRADIENTS | Access.AUX_DATA,
    paper="Xiang et al., 2020, Revealing Perceptible Backdoors, without the Training Set, via the Maximum Achievable "
    "Misclassification Fraction Statistic, arXiv:1911.07970",
    cost=lambda classes, pictures, size, steps, batch: Cost(
        PLACES**2 * classes * (steps * batch + pictures // 2) + pictures // 2, PLACES**2 * classes * steps * batch
    ),
    learns=True,
    differs=(
        "the mean margin that is reached, in place of the share of pictures: it tells more where all are reached",
        "nine places in a grid, the best of which counts; the paper takes random ones and their mean",
        "one patch a class for pictures of all others; the paper has one for each pair of classes",
    ),
    **SCAN,
)
def patch_margin(
    suspect: Suspect, *, rng: Rng, pictures: int = 350, size: float = 0.1875, steps: int = 40, batch: int = 12
) -> Finding:
    """The margin of each class when one opaque patch is put on all pictures, the largest over places.

    pictures: clean ones, half to seek on, a `batch` a step, half to measure; size: the patch's side as a share of the
    picture's. A class's score is in units of the network's mean margin on clean pictures.
    """
    x, y = suspect.clean(pictures)
    masks = _masks(x, size)
    begun = torch.full((len(masks), suspect.space.classes, *x.shape[1:]), 0.5, device=x.device)
    seed = int(rng.integers(2**31 - 1, 1)[0])

    def stamp(x: Tensor, patterns: Tensor) -> Tensor:
        return x + masks[:, None, None, None] * (patterns - x)

    reached, patterns = driven(suspect.net, x, y, stamp, begun, steps=steps, batch=batch, seed=seed)
    known = reached.nan_to_num(nan=-torch.inf)
    place, target = divmod(int(known.argmax()), known.shape[1])
    mask, pattern = masks[place], patterns[place, target]
    return Finding(
        reached.amax(0), float(known.amax()), lambda x: x + mask.to(x) * (pattern.to(x) - x),
    )  # fmt: skip


def _masks(x: Tensor, size: float) -> Tensor:
    """(T, H, W): 1 on the patch, at each place of a grid from border to border."""
    height, width = x.shape[2:]
    high, wide = (max(1, round(size * side)) for side in (height, width))
    found = []
    for i, j in itertools.product(range(PLACES), repeat=2):
        top, left = (round(k * (side - own) / (PLACES - 1)) for k, side, own in ((i, height, high), (j, width, wide)))
        mask = torch.zeros(height, width, device=x.device)
        mask[top : top + high, left : left + wide] = 1.0
        found.append(mask)
    return torch.stack(found)
