"""Grayscale: train without colour, which carries most of a class-wise shortcut (Liu et al., 2023, arXiv:2301.13838)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.serve import stages
from robustsuite.serve.data import Split

LUMA = (0.299, 0.587, 0.114)


@stages.data(
    paper="Liu et al., 2023, Image shortcut squeezing, arXiv:2301.13838",
    differs=(
        "pictures keep three equal channels, so that the network is the same and test pictures keep their colour",
    ),
)
def grayscale(split: Split) -> Split:
    """The train set in grey: every channel is the ITU-R 601 luma. Pictures of one channel stay as they are."""

    def grey(x: Tensor, positions: Tensor) -> Tensor:
        if x.shape[1] != 3:
            return x
        return (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)

    return split.mapped(grey, "grayscale")
