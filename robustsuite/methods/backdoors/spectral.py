"""Triggers that are a few frequencies of the colour channels; brightness stays as it was."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.maths.frequencies import cosines

LUMA = (0.299, 0.587, 0.114)
BLOCK = 32

YCRCB, YUV = (0.713, 0.564), (0.877, 0.492)
"""The two colour channels are the luma differences of red and of blue, at these scales (ITU-R BT.601)."""


def waves(height: int, width: int, magnitude: float) -> Tensor:
    """What a change of `magnitude` at the DCT places (15, 15) and (31, 31) of each 32 x 32 block adds (H, W)."""
    rows = cosines(BLOCK, BLOCK)[[BLOCK // 2 - 1, BLOCK - 1]]
    block = magnitude * torch.einsum("ki,kj->ij", rows, rows)
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    return block.repeat(down, across)[:height, :width].float()


def tinted(x: Tensor, wave: Tensor, scales: tuple[float, float], name: str) -> Tensor:
    """Pictures (N, 3, H, W) whose two colour channels gain `wave` (H, W), in [0, 1].

    The transform is linear, so the trigger is one fixed picture added. Raises BadValue for grey pictures, with the name
    of the attack.
    """
    if x.shape[1] != 3:
        raise BadValue(f"expected colour pictures for {name}, got {x.shape[1]} channels; choose another trigger")
    red, blue = (wave.to(x) / scale for scale in scales)  # luma stays, so red is luma and its difference over the scale
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return (x + torch.stack([red, green, blue])).clamp(0, 1)
