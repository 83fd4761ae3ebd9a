"""Noise corruptions of ImageNet-C: gaussian, shot, impulse, speckle.

(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261)

Every function takes images x (N, 3, H, W) in [0, 1] on the 8-bit grid, the constants c of one severity and a
stream an example, and returns float images that the engine clips and truncates to 8 bits.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from robustsuite.benchmarks.shifts.draws import normal, uniform
from robustsuite.maths.randomness import Rng


def gaussian_noise(x: Tensor, c: float, rng: Rng) -> Tensor:
    """x + N(0, c^2), every value on its own."""
    return normal(rng, *x.shape[1:], device=x.device).mul_(c).add_(x)


def speckle_noise(x: Tensor, c: float, rng: Rng) -> Tensor:
    """x + x * N(0, c^2)."""
    return normal(rng, *x.shape[1:], device=x.device).mul_(c).add_(1).mul_(x)


def impulse_noise(x: Tensor, c: float, rng: Rng) -> Tensor:
    """Salt or pepper, half each, on a share c of the values (not of the pixels)."""
    u = uniform(rng, *x.shape[1:], device=x.device)
    return torch.where(u < c / 2, 0.0, torch.where(u > 1 - c / 2, 1.0, x))


def shot_noise(x: Tensor, c: int, rng: Rng) -> Tensor:
    """Poisson(x * c) / c, drawn exactly from an alias table for each of the 256 grey levels."""
    accept, alias = (table.to(x.device) for table in _poisson_alias(c))
    width = len(alias) // 256
    u = uniform(rng, *x.shape[1:], device=x.device).mul_(width)
    column = u.int()
    u.sub_(column)
    column.clamp_(max=width - 1)
    entry = (x * 255).round_().int().mul_(width).add_(column).flatten()
    kept = u.flatten() < accept.index_select(0, entry)
    count = torch.where(kept, column.flatten(), alias.index_select(0, entry))
    return (count.float() / c).view_as(x)


@functools.lru_cache(maxsize=32)
def _poisson_alias(c: int) -> tuple[Tensor, Tensor]:
    """Walker's alias tables (256 * K,) of min(Poisson(v / 255 * c), c): more than c photons are white anyway."""
    rate = torch.arange(256, dtype=torch.float64)[:, None] / 255 * c
    k = torch.arange(c, dtype=torch.float64)
    mass = torch.exp(torch.xlogy(k, rate) - rate - torch.lgamma(k + 1))
    mass = torch.cat([mass, (1 - mass.sum(1, keepdim=True)).clamp(min=0)], dim=1)
    width = 1 << math.ceil(math.log2(c + 1))
    mass = torch.nn.functional.pad(mass / mass.sum(1, keepdim=True), (0, width - c - 1)) * width
    accept, alias = torch.ones_like(mass), torch.arange(width).repeat(256, 1)
    open_ = torch.ones_like(mass, dtype=torch.bool)
    level = torch.arange(256)
    for _ in range(width - 1):
        poor = torch.where(open_, mass, math.inf).argmin(1)
        rich = torch.where(open_, mass, -math.inf).argmax(1)
        accept[level, poor], alias[level, poor] = mass[level, poor], rich
        mass[level, rich] -= 1 - mass[level, poor]
        open_[level, poor] = False
    return accept.float().flatten(), alias.int().flatten()
