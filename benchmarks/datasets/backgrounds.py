"""Textured grounds for the scenes: each kind mixes two colours by a pattern in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.maths.randomness import Rng

BACKGROUNDS = ("gradient", "stripes", "checks", "clouds", "hills", "plain")


def background(rng: Rng, kind: str | None, dark: Tensor, side: int) -> Tensor:
    """(N, 3, H, W) float64; a kind for all, or None for a kind a picture. dark (N,): whose colours are dark ones."""
    n = len(rng)
    every = torch.stack(_patterns(rng, side), 1)
    chosen = rng.fold("kind").integers(len(BACKGROUNDS)) if kind is None else torch.tensor(BACKGROUNDS.index(kind))
    pattern = every[torch.arange(n), chosen.expand(n)][:, None]
    u = rng.fold("colours").uniform(2, 3).double()
    level = torch.where(dark, 0.08, 0.62)[:, None, None] + 0.3 * rng.fold("level").uniform(2, 1).double()
    first, second = (level + 0.34 * (u - 0.5)).clamp(0, 1)[..., None, None].unbind(1)
    return first + (second - first) * pattern


def _patterns(rng: Rng, side: int) -> list[Tensor]:
    """One pattern (N, H, W) a kind, in the order of BACKGROUNDS."""
    u = rng.uniform(8).double()[:, :, None, None]
    grid = torch.linspace(-1, 1, side, dtype=torch.float64)
    angle = math.tau * u[:, 0]
    along = torch.cos(angle) * grid[None, None, :] + torch.sin(angle) * grid[None, :, None]
    across = torch.cos(angle) * grid[None, :, None] - torch.sin(angle) * grid[None, None, :]
    waves = math.tau * (1.5 + 3 * u[:, 1])
    stripes = 0.5 + 0.5 * torch.sin(waves * along + math.tau * u[:, 2])
    checks = (0.5 + 2 * torch.sin(waves * along) * torch.sin(waves * across)).clamp(0, 1)
    coarse = functional.interpolate(rng.fold("coarse").uniform(1, 5, 5).double(), (side, side), mode="bicubic")
    fine = functional.interpolate(rng.fold("fine").uniform(1, 11, 11).double(), (side, side), mode="bicubic")
    clouds = (0.65 * coarse + 0.35 * fine)[:, 0].clamp(0, 1)
    ridge = 0.5 * (u[:, 3] - 0.5) + 0.18 * torch.sin(math.tau * (u[:, 4] + grid[None, None, :] * (0.4 + 0.5 * u[:, 5])))
    hills = (0.5 + (grid[None, :, None] - ridge) * side / 4).clamp(0, 1)
    return [0.5 + 0.5 * along.clamp(-1, 1), stripes, checks, clouds, hills, torch.full_like(stripes, 0.5)]
