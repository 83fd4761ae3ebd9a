"""Blur corruptions of ImageNet-C: gaussian, defocus, glass, motion, zoom.

(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261)

Every function takes images x (N, 3, H, W) in [0, 1] on the 8-bit grid, the constants c of one severity and a
stream an example, and returns float images that the engine clips and truncates to 8 bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsuite.benchmarks.shifts.draws import integers
from robustsuite.benchmarks.shifts.filters import (
    centre_zoom,
    correlate,
    disk,
    floor8,
    gaussian,
    motion_blur_toward,
    round8,
)
from robustsuite.maths.randomness import Rng


def gaussian_blur(x: Tensor, c: float, rng: Rng) -> Tensor:
    """A Gaussian of standard deviation c pixels."""
    return gaussian(x, c)


def defocus_blur(x: Tensor, c: tuple[float, float], rng: Rng) -> Tensor:
    """A disk of radius c[0], its edge softened by c[1]."""
    kernel = disk(*c).to(x.device)
    half = len(kernel) // 2
    return correlate(x, kernel[None, None], (half, half), "reflect")


def motion_blur(x: Tensor, c: tuple[int, float], rng: Rng) -> Tensor:
    """A one-sided Gaussian (radius, sigma) along an angle in (-45, 45) degrees, rounded to 8 bits."""
    angles = rng.uniform(low=-45, high=45).to(x.device)
    return round8(motion_blur_toward(x, angles, *c, facing="right"))


def zoom_blur(x: Tensor, c: tuple[float, float], rng: Rng) -> Tensor:
    """The mean of the image and its centre zooms by 1, 1 + step, ... below stop (c = stop, step)."""
    factors = np.arange(1, *c).tolist()
    x = x.contiguous(memory_format=torch.channels_last)
    total = 2 * x
    for factor in factors[1:]:
        total += centre_zoom(x, factor)
    return total.div_(len(factors) + 1)


def glass_blur(x: Tensor, c: tuple[float, int, int], rng: Rng) -> Tensor:
    """Blur, scatter pixels within c[1] pixels c[2] times, blur (c = sigma, delta, rounds)."""
    sigma, delta, rounds = c
    x = floor8(gaussian(x, sigma))
    H, W = x.shape[-2:]
    for i in range(rounds):
        offsets = integers(rng.fold(i), 2 * delta, 2, H, W, device=x.device) - delta
        source = scatter_sources(offsets, delta)
        x = x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return gaussian(x, sigma)


def scatter_sources(offsets: Tensor, delta: int) -> Tensor:
    """For offsets (N, 2, H, W) = (dy, dx): the flat index (N, H * W) whose pixel each pixel ends up with.

    The published loop scans from the lower right corner to the upper left, leaving a frame of delta, and its
    swap through numpy views only copies: pixel p takes its neighbour n(p)'s present value. So where n(p) was
    scanned before p, p takes what n(p) took, and otherwise n(p)'s original; pointer doubling resolves the chains.
    """
    H, W = offsets.shape[-2:]
    place = torch.arange(H * W, device=offsets.device)
    scanned = torch.zeros(H, W, dtype=torch.bool, device=offsets.device)
    scanned[delta + 1 : H - delta + 1, delta + 1 : W - delta + 1] = True
    neighbour = (offsets[:, 0] * W).add_(offsets[:, 1]).add_(place.view(H, W))
    first = torch.where(scanned, neighbour, place.view(H, W)).flatten(1)
    follows = (first > place) & scanned.flatten().take(first)
    jump = torch.where(follows, first, place)
    while bool(follows.gather(1, jump).any()):
        jump = jump.gather(1, jump)
    return first.gather(1, jump)
