"""Weather corruptions of ImageNet-C: snow, frost, fog, brightness.

(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261)

Every function takes images x (N, 3, H, W) in [0, 1] on the 8-bit grid, the constants c of one severity and a
stream an example, and returns float images that the engine clips and truncates to 8 bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsuite.benchmarks.shifts.draws import normal, uniform
from robustsuite.benchmarks.shifts.filters import centre_zoom, floor8, motion_blur_toward, round8
from robustsuite.maths.randomness import Rng

_GREY = (0.299, 0.587, 0.114)


def snow(x: Tensor, c: tuple[float, ...], rng: Rng) -> Tensor:
    """Whitened, with streaks of thresholded noise and their half-turn (c = mean, std, zoom, floor, r, s, mix)."""
    mean, std, zoom, floor, radius, sigma, mix = c
    layer = normal(rng, 1, *x.shape[-2:], device=x.device).mul_(std).add_(mean)
    layer = centre_zoom(layer, zoom)
    layer = floor8(torch.where(layer < floor, 0.0, layer))
    angles = rng.fold("angle").uniform(low=-135, high=-45).to(x.device)
    layer = round8(motion_blur_toward(layer, angles, int(radius), sigma, facing="up"))
    grey = _GREY[0] * x[:, :1] + _GREY[1] * x[:, 1:2] + _GREY[2] * x[:, 2:]
    white = torch.maximum(x, grey * 1.5 + 0.5)
    return white.mul_(1 - mix).add_(x, alpha=mix).add_(layer + layer.flip(2, 3))


def frost(x: Tensor, c: tuple[float, float, float], rng: Rng, textures: Tensor) -> Tensor:
    """c[0] * x + c[1] * a random crop of a random texture (T, S, S', 3), enlarged c[2] times first."""
    a, b, scale = c
    if scale != 1:
        textures = F.interpolate(textures.movedim(-1, 1), scale_factor=scale, mode="bilinear").movedim(1, -1)
    T, *sizes, _ = textures.shape
    H, W = x.shape[-2:]
    which = rng.fold("texture").integers(T).to(x.device)
    corner = rng.fold("corner").uniform(2).to(x.device)
    rows, columns = (
        ((corner[:, i, None] * max(S - side, 1)).long() + torch.arange(side, device=x.device)) % S
        for i, (S, side) in enumerate(zip(sizes, (H, W), strict=True))
    )
    crop = textures[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return crop.permute(0, 3, 1, 2).mul(b).add_(x, alpha=a)


def fog(x: Tensor, c: tuple[float, float], rng: Rng) -> Tensor:
    """x + c[0] * plasma(decay c[1]), scaled back so that the brightest value stays."""
    H, W = x.shape[-2:]
    size = 1 << (max(H, W) - 1).bit_length()
    noise = uniform(rng, size, size, device=x.device).mul_(2).sub_(1)
    peak = x.amax((1, 2, 3), keepdim=True)
    return (x + c[0] * plasma(noise, c[1])[:, None, :H, :W]) * (peak / (peak + c[0]))


def plasma(noise: Tensor, decay: float) -> Tensor:
    """A height map (N, S, S) in [0, 1] from noise in (-1, 1): diamond-square on a torus (Fournier et al., 1982).

    S is a power of two. The first level's noise has amplitude 100^2, every further level's 1 / decay of it.
    """
    size = noise.shape[-1]
    z = noise.clone()
    z[:, 0, 0] = 0
    step, wibble = size, 100.0
    while step >= 2:
        half = step // 2
        corners, centres = z[:, ::step, ::step], z[:, half::step, half::step]
        # the published amplitude is wibble * U(-wibble, wibble)
        across = corners + corners.roll(-1, 1)
        centres.mul_(wibble**2).add_(across + across.roll(-1, 2), alpha=0.25)
        right, below = z[:, ::step, half::step], z[:, half::step, ::step]
        right.mul_(wibble**2).add_(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2), alpha=0.25)
        below.mul_(wibble**2).add_(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1), alpha=0.25)
        step, wibble = half, wibble / decay
    z -= z.amin((1, 2), keepdim=True)
    return z / z.amax((1, 2), keepdim=True)


def brightness(x: Tensor, c: float, rng: Rng) -> Tensor:
    """HSV's value raised by c; hue and saturation stay, so the pixel is scaled by new / old value."""
    value = x.amax(1, keepdim=True)
    raised = (value + c).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp(min=1e-6)), raised)
