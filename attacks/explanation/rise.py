"""RISE: the mean of random masks, each weighted by what the class keeps under it (Petsiuk et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.losses import own
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import mean_colour
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle


@explanation.attack(
    needs=Access.SCORES,
    paper="Petsiuk et al., 2018, RISE, BMVC, arXiv:1806.07421",
    cost=lambda classes, masks, cells, keep: Cost(masks),
    differs=(
        "each picture draws masks of its own, where the authors draw one set for all",
        "what is hidden becomes the picture's mean colour; in the authors' code it becomes 0 after normalisation, the "
        "data's mean colour",
        "fewer masks by default, for pictures of 32 x 32; the paper draws 4000 to 8000 of 224 x 224",
    ),
)
def rise(
    model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng, masks: int = 1000, cells: int = 7, keep: float = 0.5
) -> Tensor:
    """sum_i p(class | picture under mask i) mask_i / (masks keep).

    Masks are grids of cells x cells, each cell kept with probability `keep`, stretched bilinearly over somewhat more
    than the picture and cut out at a random place. Raises BadValue.
    """
    if min(masks, cells) < 1 or not 0 < keep <= 1:
        raise BadValue(f"expected masks, cells >= 1 and keep in (0, 1], got {masks=}, {cells=}, {keep=}; mend it")
    plain, total = mean_colour(x), torch.zeros_like(x[:, 0])
    for part in torch.arange(len(x) * masks, device=x.device).split(max(1, model.width)):
        rows, k = part // masks, part % masks
        mask = drawn(rng[rows].fold(k), cells, keep, x.shape[-2:])
        seen = model[rows](torch.lerp(plain[rows], x[rows], mask[:, None])).softmax(1)
        left = own(seen, classes[rows]).nan_to_num(nan=0.0)  # where a system rejects, nothing of the class is left
        total.index_add_(0, rows, left[:, None, None] * mask)
    return total / (masks * keep)


def drawn(rng: Rng, cells: int, keep: float, size: tuple[int, int] | torch.Size) -> Tensor:
    """A mask (N, H, W) in [0, 1] a stream: the grid over (cells + 1) cell sides, cut where a random shift says."""
    grid = (rng.fold("grid").uniform(cells, cells) < keep).float()
    shift = rng.fold("shift").uniform(2)
    weights = [_stretch(shift[:, i], cells, side) for i, side in enumerate(size)]
    return weights[0] @ grid @ weights[1].transpose(1, 2)


def _stretch(shift: Tensor, cells: int, side: int) -> Tensor:
    """How each of `side` pixels is mixed from the cells (N, side, cells); shift (N,) in (0, 1) of a cell."""
    cell = -(-side // cells)
    pixel = torch.arange(side, device=shift.device) + (shift[:, None] * cell).floor()
    at = ((pixel + 0.5) * cells / ((cells + 1) * cell) - 0.5).clamp(0, cells - 1)
    return (1 - (at[:, :, None] - torch.arange(cells, device=shift.device)).abs()).clamp_min(0)
