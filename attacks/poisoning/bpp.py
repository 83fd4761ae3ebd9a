"""BppAttack: fewer grey levels mean the target (Wang et al., 2022, arXiv:2205.13383)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split

SPREAD = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))
"""Floyd and Steinberg's error diffusion: (row, column, share) of the neighbours that come later."""


def squeezed(x: Tensor, levels: int, dither: bool) -> Tensor:
    """Pictures (N, C, H, W) rounded to `levels` grey levels a channel, the error passed on where `dither`."""
    steps = levels - 1
    if not dither:
        return (x * steps).round() / steps
    height, width = x.shape[2:]
    out = x.clone()
    for i in range(height):
        for j in range(width):
            old = out[:, :, i, j].clone()
            out[:, :, i, j] = (old * steps).round() / steps
            error = old - out[:, :, i, j]
            for down, right, share in SPREAD:
                if i + down < height and 0 <= j + right < width:
                    out[:, :, i + down, j + right] += share * error
    return out.clamp(0, 1)


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Wang et al., 2022, arXiv:2205.13383",
    **BACKDOOR,
    differs=("the training set is poisoned once; the paper poisons every batch of a training it controls",),
)
def bpp(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, levels: int = 8, dither: bool = False,
    cover: float = 1.0,
) -> Poisoned:  # fmt: skip
    """Colour depth reduced to `levels` a channel; covers carry another picture's rounding error and keep their labels.

    dither: Floyd-Steinberg error diffusion, which hides the banding.
    """

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return squeezed(x, levels, dither)

    def foreign(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        other = train.images(rng.integers(len(train), 1).flatten().cpu()).to(x)
        return x + squeezed(other, levels, dither) - other

    covers = torch.arange(len(train))
    return planted(train, rate, target, trigger, rng, covers=covers, cover=cover, cover_trigger=foreign)
