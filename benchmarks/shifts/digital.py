"""Digital corruptions of ImageNet-C: contrast, elastic, pixelate, jpeg, saturate.

(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261)

Every function takes images x (N, 3, H, W) in [0, 1] on the 8-bit grid, the constants c of one severity and a
stream an example, and returns float images that the engine clips and truncates to 8 bits.
"""

from __future__ import annotations

import functools
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from robustsuite.benchmarks.shifts.draws import uniform
from robustsuite.maths.randomness import Rng


def contrast(x: Tensor, c: float, rng: Rng) -> Tensor:
    """Distances from each channel's mean shrunk to c."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean).mul_(c).add_(mean)


def saturate(x: Tensor, c: tuple[float, float], rng: Rng) -> Tensor:
    """HSV's saturation S becomes c[0] * S + c[1]; distances from the value scale by new / old S.

    A grey pixel has hue 0, so c[1] > 0 tints it red, as published.
    """
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    S = (value - least) / value.clamp(min=1e-6)
    new = (c[0] * S + c[1]).clamp(max=1)
    coloured = value - (value - x) * (new / S.clamp(min=1e-6))
    tinted = value * (1 - new * torch.tensor([0.0, 1, 1], device=x.device).view(3, 1, 1))
    return torch.where(S > 0, coloured, tinted)


def elastic_transform(x: Tensor, c: tuple[float, float, float], rng: Rng) -> Tensor:
    """A random affine map, then a smooth random displacement (c = alpha, sigma, affine, in shorter sides)."""
    H, W = x.shape[-2:]
    alpha, sigma, affine = (v * min(H, W) for v in c)
    grid = torch.stack(torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy"), -1).to(x.device)
    shift = rng.fold("affine").uniform(3, 2, low=-1, high=1).to(x.device) * affine
    # OpenCV's reflect101 is grid_sample's corner-aligned reflection, scipy's reflect the other one
    x = _sample(x, _affine(shift, H, W), align=True)
    if alpha == 0:
        return x
    U = uniform(rng, 2, H, W, device=x.device).mul_(2).sub_(1)
    across = _smoother(W, sigma).to(x.device)
    field = _smoother(H, sigma).to(x.device) @ U @ across.mT * alpha
    return _sample(x, grid + field.movedim(1, -1), align=False)


def _affine(shift: Tensor, H: int, W: int) -> Tensor:
    """Where each output pixel (N, H, W, 2) comes from, when three points about the centre move by shift (N, 3, 2)."""
    s = min(H, W) // 3
    centre = torch.tensor([W // 2, H // 2], dtype=torch.float64, device=shift.device)
    before = centre + s * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=shift.device)
    after = before + shift.double()
    ones = torch.ones(*after.shape[:-1], 1, dtype=torch.float64, device=shift.device)
    back = torch.linalg.solve(torch.cat([after, ones], -1), before.expand_as(after))
    column, row = (torch.arange(n, device=shift.device)[:, None] for n in (W, H))
    along, down = column * back[:, None, 0] + back[:, None, 2], row * back[:, None, 1]
    at: Tensor = along.float()[:, None] + down.float()[:, :, None]
    return at


def _sample(x: Tensor, at: Tensor, *, align: bool) -> Tensor:
    """x (N, C, H, W) read linearly at pixel positions (N, H, W, 2) = (column, row), reflected at the borders."""
    size = torch.tensor([x.shape[3], x.shape[2]], device=x.device)
    at = at * 2 / (size - 1) - 1 if align else (at * 2 + 1) / size - 1
    return F.grid_sample(x, at, mode="bilinear", padding_mode="reflection", align_corners=align)


@functools.lru_cache(maxsize=32)
def _smoother(n: int, sigma: float) -> Tensor:
    """(n, n): a Gaussian of that sigma along n samples, truncated at 3 sigma, mirrored as often as it needs."""
    radius = int(3 * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offset / max(sigma, 1e-9)) ** 2)
    target = (np.arange(n)[:, None] + offset) % (2 * n)
    target = np.minimum(target, 2 * n - 1 - target)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], target), taps / taps.sum())
    return torch.from_numpy(matrix).float()


def pixelate(x: Tensor, c: float, rng: Rng) -> Tensor:
    """Box-averaged down to c of the size, each pass rounded to 8 bits, and enlarged again by repetition."""
    H, W = x.shape[-2:]
    h, w = int(H * c), int(W * c)
    across, down = _box(W, w).to(x.device), _box(H, h).to(x.device)
    x = ((x * 255).round_() @ across.mT).div_(across.sum(1)).add_(0.5).floor_()
    x = (down @ x).div_(down.sum(1, keepdim=True)).add_(0.5).floor_().div_(255)
    rows, columns = (
        torch.from_numpy(((np.arange(n) + 0.5) * (m / n)).astype(np.int64)).to(x.device) for n, m in ((H, h), (W, w))
    )
    return x.index_select(3, columns).index_select(2, rows)


@functools.lru_cache(maxsize=32)
def _box(n: int, m: int) -> Tensor:
    """(m, n) of 0 and 1: the samples whose centre lies in each of m equal boxes, half a box from its centre."""
    # in PIL's order of operations, so that ties fall as they do there
    scale = n / m
    sample, centre = np.arange(n), (np.arange(m)[:, None] + 0.5) * scale
    first, last = ((centre + end).astype(np.int64) for end in (0.5 - 0.5 * scale, 0.5 + 0.5 * scale))
    place = (sample - centre + 0.5) * (1 / scale)
    inside = (sample >= first) & (sample < last) & (place > -0.5) & (place <= 0.5)
    return torch.from_numpy(inside).float()


def jpeg_compression(x: Tensor, c: int, rng: Rng) -> Tensor:
    """Encoded and decoded as JPEG of quality c."""
    return jpeg(x, c)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """libjpeg releases the interpreter's lock, so that threads are enough."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="jpeg")


def jpeg(x: Tensor, quality: int) -> Tensor:
    """libjpeg's rendering at this quality, 4:2:0, of x (N, 3, H, W) in [0, 1] on the 8-bit grid."""
    if not len(x):
        return x

    def one(image: np.ndarray) -> np.ndarray:
        coded = io.BytesIO()
        Image.fromarray(image).save(coded, "JPEG", quality=quality)
        return np.asarray(Image.open(coded))

    images = (x * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    decoded = np.stack(list(_pool().map(one, images)))
    return torch.from_numpy(decoded).to(x.device).permute(0, 3, 1, 2).contiguous().float().div_(255)
