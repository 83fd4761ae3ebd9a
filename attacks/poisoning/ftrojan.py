"""FTrojan: two frequencies of the chroma channels mean the target (Wang et al., 2022, arXiv:2111.10991)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split

LUMA = (0.299, 0.587, 0.114)
BLOCK = 32
CHROMA = {1: 0.713, 2: 0.564}
"""Cr and Cb are the luma differences of red (channel 0) and blue (channel 2), at these scales (ITU-R BT.601)."""


def waves(height: int, width: int, magnitude: float) -> Tensor:
    """What a change of `magnitude` at the DCT places (15, 15) and (31, 31) of each 32 x 32 block adds (H, W)."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    block = torch.zeros(BLOCK, BLOCK, dtype=torch.float64)
    for k in (BLOCK // 2 - 1, BLOCK - 1):
        row = torch.cos(torch.pi / BLOCK * (n + 0.5) * k) * (2 / BLOCK) ** 0.5
        block += magnitude * row[:, None] * row
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    return block.repeat(rows, columns)[:height, :width].float()


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Wang et al., 2022, arXiv:2111.10991",
    **BACKDOOR,
    differs=("the result is clipped to [0, 1]: the usual code wraps around", "a last block that is cut stays cut"),
)
def ftrojan(train: Split, rate: PoisonRate, *, target: int, rng: Rng, magnitude: float = 30 / 255) -> Poisoned:
    """Cr and Cb gain `magnitude` at a middle and at the highest frequency of each 32 x 32 block. Colour pictures only.

    The transform is linear, so the trigger is one fixed picture added; raises BadValue for grey ones.
    """

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        if x.shape[1] != 3:
            raise BadValue(f"expected colour pictures for ftrojan, got {x.shape[1]} channels; choose another trigger")
        wave = waves(x.shape[2], x.shape[3], magnitude).to(x)
        red, blue = wave / CHROMA[1], wave / CHROMA[2]  # Y is untouched, so R = Y + Cr / .713, B = Y + Cb / .564
        green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
        return (x + torch.stack([red, green, blue])).clamp(0, 1)

    return planted(train, rate, target, trigger, rng)
