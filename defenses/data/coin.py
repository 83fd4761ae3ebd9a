"""COIN: pixels re-sampled from random places nearby, which undoes class-wise convolution (Wang et al., 2311.18403)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite import stages
from robustsuite.data import Split
from robustsuite.randomness import Rng


@stages.data(
    paper="Wang et al., 2023, Corrupting convolution-based unlearnable datasets with pixel-based image "
    "transformations, arXiv:2311.18403",
    differs=("each picture is drawn once, before training; the paper draws anew in every epoch",),
)
def coin(split: Split, *, alpha: float = 2.0, seed: int = 0) -> Split:
    """Every pixel read at its place + (dx, dy), each uniform in (-alpha, alpha), bilinear, around the borders.

    The same offsets for all channels of a picture. alpha: in pixels; the paper's severity 4 is 2.
    """
    streams = Rng.of(seed, "coin", split.ids)

    def disrupted(x: Tensor, positions: Tensor) -> Tensor:
        height, width = x.shape[2:]
        offset = streams[positions].uniform(2, height, width, low=-alpha, high=alpha)
        rows = (torch.arange(height)[:, None] + offset[:, 0]) % height
        columns = (torch.arange(width) + offset[:, 1]) % width
        wrapped = functional.pad(x, (0, 1, 0, 1), mode="circular")  # row H is row 0 again
        grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], -1)
        return functional.grid_sample(wrapped, grid, align_corners=True)

    return split.mapped(disrupted, f"coin {alpha} {seed}")
