"""COIN: pixels re-sampled from random places nearby, which undoes class-wise convolution (Wang et al., 2311.18403)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.serve import stages
from robustsuite.serve.data import Split


def disrupted(x: Tensor, offset: Tensor) -> Tensor:
    """Pictures (N, C, H, W) read at each place + offset (N, 2, H, W), row and column; bilinear, wrapping around."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device)[:, None] + offset[:, 0]) % height
    columns = (torch.arange(width, device=x.device) + offset[:, 1]) % width
    wrapped = functional.pad(x, (0, 1, 0, 1), mode="circular")  # row H is row 0 again
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], -1)
    return functional.grid_sample(wrapped, grid, align_corners=True)


@stages.data(
    paper="Wang et al., 2023, Corrupting convolution-based unlearnable datasets with pixel-based image "
    "transformations, arXiv:2311.18403"
)
def coin(split: Split, *, alpha: float = 2.0) -> Split:
    """In every training batch anew, each pixel is read at its place + (dx, dy), each uniform in (-alpha, alpha).

    The same offsets for all channels of a picture. alpha: in pixels; the paper's severity 4 is 2.
    """
    before = split.augment

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        x = before(x, generator) if before else x
        u = torch.rand(len(x), 2, *x.shape[2:], generator=generator, device=x.device)
        return disrupted(x, alpha * (2 * u - 1))

    return replace(split, augment=augment, sha256=hashlib.sha256(f"{split.sha256}/coin {alpha}".encode()).hexdigest())
