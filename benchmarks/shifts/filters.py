"""Filters that the corruptions share: separable Gaussian, correlation by FFT, motion kernels, centre zoom.

Borders follow the libraries the benchmark was made with: `replicate` (skimage's nearest, ImageMagick's edge),
`reflect` (OpenCV's reflect101).
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def floor8(x: Tensor) -> Tensor:
    """Truncated to 8 bits, as a cast to uint8 does; 1/512 of a level absorbs float32 rounding."""
    return (x * 255).add_(1 / 512).floor_().clamp_(0, 255).div_(255)


def round8(x: Tensor) -> Tensor:
    """Rounded to 8 bits, as ImageMagick and PIL do."""
    return (x * 255).add_(0.5).floor_().clamp_(0, 255).div_(255)


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """skimage.filters.gaussian of (N, C, H, W): taps to truncate * sigma, edges replicated."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    taps = torch.arange(radius + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = (taps / (2 * taps.sum() - 1)).tolist()
    H, W = x.shape[-2:]
    rows = F.pad(x, (0, 0, radius, radius), mode="replicate")
    x = weights[0] * rows[:, :, radius : radius + H]
    for i in range(1, radius + 1):
        x.add_(rows[:, :, radius - i : radius - i + H], alpha=weights[i])
        x.add_(rows[:, :, radius + i : radius + i + H], alpha=weights[i])
    columns = F.pad(x, (radius, radius, 0, 0), mode="replicate")
    x = weights[0] * columns[..., radius : radius + W]
    for i in range(1, radius + 1):
        x.add_(columns[..., radius - i : radius - i + W], alpha=weights[i])
        x.add_(columns[..., radius + i : radius + i + W], alpha=weights[i])
    return x


def correlate(x: Tensor, kernel: Tensor, anchor: tuple[int, int], mode: str) -> Tensor:
    """out(p) = sum_o kernel(anchor + o) * x(p + o) for x (N, C, H, W) and kernel (N or 1, 1, kh, kw), by FFT."""
    (H, W), (kh, kw) = x.shape[-2:], kernel.shape[-2:]
    top, left = anchor
    x = F.pad(x, (left, kw - 1 - left, top, kh - 1 - top), mode=mode)
    size = (_fast_size(H + kh - 1), _fast_size(W + kw - 1))
    spectrum = torch.fft.rfft2(x, s=size).mul_(torch.fft.rfft2(kernel, s=size).conj())
    full: Tensor = torch.fft.irfft2(spectrum, s=size)
    return full[..., :H, :W]


@functools.lru_cache(maxsize=64)
def _fast_size(n: int) -> int:
    """The next length with no prime factor above 5, a multiple of 8."""
    n = 8 * math.ceil(n / 8)
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 8


def disk(radius: float, alias_sigma: float) -> Tensor:
    """(k, k) float32: a disk of that radius, its edge softened by a small Gaussian (reflect101)."""
    half, soft = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    axis = torch.arange(-half, half + 1)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).double()
    taps = torch.exp(-0.5 * (torch.arange(-soft, soft + 1).double() / alias_sigma) ** 2)
    taps = (taps / taps.sum())[None, None, None]
    kernel = F.pad((kernel / kernel.sum())[None, None], (soft,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(kernel, taps), taps.mT)[0, 0].float()


def motion_kernels(angles: Tensor, radius: int, sigma: float) -> tuple[Tensor, tuple[int, int]]:
    """ImageMagick's motion blur at angles (N,) in degrees: kernels (N, 1, k, k) and their anchor.

    Half a Gaussian of 2 * radius + 1 taps, laid from the pixel along the angle, offsets rounded half down.
    """
    width = 2 * radius + 1
    i = torch.arange(width, device=angles.device, dtype=torch.float64)
    weights = torch.exp(-(i**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    turn = torch.deg2rad(angles.double())[:, None]
    across = torch.ceil(i * torch.cos(turn) - 0.5).long()
    down = torch.ceil(i * torch.sin(turn) - 0.5).long()
    reach = 2 * radius
    side = 2 * reach + 1
    flat = (down + reach) * side + across + reach
    kernel = torch.zeros(len(angles), side * side, device=angles.device, dtype=torch.float64)
    kernel.scatter_add_(1, flat, weights.expand(len(angles), -1))
    return kernel.float().view(-1, 1, side, side), (reach, reach)


def motion_blur_toward(x: Tensor, angles: Tensor, radius: int, sigma: float, facing: str) -> Tensor:
    """Motion blur of (N, C, H, W), edges replicated; `facing` right (-45 ... 45) or up (-135 ... -45)."""
    kernel, (reach, _) = motion_kernels(angles, radius, sigma)
    side = math.ceil(reach * math.sin(math.pi / 4))
    narrow = slice(reach - side, reach + side + 1)
    if facing == "right":
        return correlate(x, kernel[..., narrow, reach:], (side, 0), "replicate")
    return correlate(x, kernel[..., : reach + 1, narrow], (reach, side), "replicate")


def centre_zoom(x: Tensor, factor: float) -> Tensor:
    """Centre crop of (N, C, H, W) by 1 / factor, enlarged linearly with end points aligned, trimmed to (H, W)."""
    H, W = x.shape[-2:]
    if factor == 1:
        return x
    h, w = math.ceil(H / factor), math.ceil(W / factor)
    top, left = (H - h) // 2, (W - w) // 2
    size = (round(h * factor), round(w * factor))
    x = x[..., top : top + h, left : left + w]
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - H) // 2, (size[1] - W) // 2
    return x[..., top : top + H, left : left + W]
