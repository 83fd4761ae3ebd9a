"""WaNet: an elastic warp too smooth to see means the target (Nguyen and Tran, 2021, arXiv:2102.10369)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


def field(seed: int, k: int, s: float, height: int, width: int) -> Tensor:
    """The warp's offsets (H, W, 2) in the [-1, 1] of grid_sample: uniform on k x k, of mean 1, bicubic between."""
    p = Rng.of(seed, "wanet", torch.zeros(1)).uniform(2, k, k, low=-1, high=1)
    p = functional.interpolate(p / p.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    return s * p[0].permute(1, 2, 0) / height


def warped(x: Tensor, offsets: Tensor) -> Tensor:
    """Pictures (N, C, H, W) sampled at the identity plus offsets (H, W, 2) or (N, H, W, 2)."""
    rows, columns = (torch.linspace(-1, 1, n) for n in x.shape[2:])
    identity = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    grid = (identity + offsets.cpu()).clamp(-1, 1).to(x)
    grid = grid if grid.ndim == 4 else grid.expand(len(x), *grid.shape)
    return functional.grid_sample(x, grid, align_corners=True)


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Nguyen and Tran, 2021, arXiv:2102.10369, eqs. 4-7",
    **BACKDOOR,
    differs=("the training set is poisoned once, the victim's training is not controlled; noise is fresh a cover",),
)
def wanet(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, s: float = 0.5, k: int = 4, cover: float = 2.0,
    seed: int = 0,
) -> Poisoned:  # fmt: skip
    """The picture warped by one fixed smooth field; covers are warped with noise on top and keep their labels.

    s, k: strength and grid of the field. cover: noise-mode examples for each poisoned one.
    """

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return warped(x, field(seed, k, s, *x.shape[2:]))

    def noisy(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        height, width = x.shape[2:]
        noise = rng.uniform(height, width, 2, low=-1, high=1) / height
        return warped(x, field(seed, k, s, height, width) + noise)

    return planted(train, rate, target, trigger, rng, cover=cover, cover_trigger=noisy)
