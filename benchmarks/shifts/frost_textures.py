"""Frost to lay over images: procedural ice ferns, or a folder of photographs.

ImageNet-C's frost uses five photographs of frosted glass, which cannot be shipped. The five textures here are
drawn from a fixed seed: dendrites that branch at 60 degrees (the habit of ice), haze and grain, bluish white on
dark, periodic in both directions, with about the photographs' brightness and contrast. A result measured
with them is not comparable number for number with the published set; one with the photographs' folder is.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from robustsuite.errors import BadData

_SIZE = 640
_COUNT = 5
_SUFFIXES = {".png", ".jpg", ".jpeg"}

Floats = NDArray[np.float64]


@functools.lru_cache(maxsize=4)
def frost_textures(folder: str | None = None) -> Tensor:
    """(T, S, S', 3) float32 in [0, 1]: the procedural ones, or the folder's first five images by name.

    Images are cropped to their smallest common size. As published, a sixth is never used.
    Raises BadData where the folder holds no image.
    """
    if folder is None:
        return torch.from_numpy(np.stack([_texture(seed) for seed in range(_COUNT)]))
    found = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in _SUFFIXES)[:_COUNT]
    if not found:
        raise BadData(f"expected png or jpg images of frost in {folder!r}, got none; name another frost_folder")
    images = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    H, W = (min(image.shape[axis] for image in images) for axis in (0, 1))
    return torch.from_numpy(np.stack([image[:H, :W] for image in images])).float() / 255


def _texture(seed: int) -> NDArray[np.float32]:
    """(S, S, 3): one texture."""
    rng = np.random.default_rng(seed)
    ice = np.zeros((_SIZE, _SIZE))
    for stems, length in ((7, 260.0), (26, 120.0), (60, 60.0)):
        ice += _dendrites(rng, stems, length)
    ice = 1 - np.exp(-ice)
    glow = ndimage.gaussian_filter(ice, 6, mode="wrap")
    haze = _stretched(ndimage.gaussian_filter(rng.standard_normal(ice.shape), 40, mode="wrap"))
    grain = _stretched(ndimage.gaussian_filter(rng.standard_normal(ice.shape), 0.8, mode="wrap"))
    level = (0.55 * ice + 0.5 * glow) * (0.6 + 0.8 * haze) + 0.25 * haze * grain
    level = _stretched(level)
    level = np.clip(0.07 + 0.93 * level ** (0.75 + 0.1 * seed), 0, 1)[..., None]
    dark, pale = np.array([0.05, 0.11, 0.2]), np.array([0.93, 0.97, 1.0])
    return (dark + (pale - dark) * level).astype(np.float32)


def _stretched(a: Floats) -> Floats:
    """Percentiles 1 and 99 to 0 and 1."""
    low, high = np.percentile(a, (1, 99))
    return np.clip((a - low) / (high - low), 0, 1)


def _dendrites(rng: np.random.Generator, stems: int, length: float) -> Floats:
    """Ice density (S, S): stems that bend a little, each with two more orders of side branches."""
    start = rng.uniform(0, _SIZE, (stems, 2))
    angle = rng.uniform(0, 2 * np.pi, stems)
    size = length * rng.uniform(0.6, 1.4, stems)
    bend = rng.normal(0, 0.5, stems)
    ice = np.zeros(_SIZE * _SIZE)
    for order, spacing in enumerate((9.0, 5.0, 4.0)):
        steps = int(size.max() * 1.5) + 2
        t = np.linspace(0, 1, steps)
        heading = angle[:, None] + bend[:, None] * t
        step = size[:, None] / (steps - 1)
        path = start[:, None] + np.cumsum(np.stack([np.sin(heading), np.cos(heading)], -1) * step[..., None], 1)
        _deposit(ice, path, weight=(1 - 0.7 * t) * step / (1 + 0.6 * order))
        if order == 2:
            break
        joints = max(int(size.mean() / spacing), 2)
        at = np.linspace(0.05, 0.95, joints)
        rows = (at * (steps - 1)).astype(int)
        side = np.array([-1, 1])[None, None] * np.pi / 3 + rng.normal(0, 0.05, (len(size), joints, 2))
        start = np.repeat(path[:, rows, None], 2, 2).reshape(-1, 2)
        angle = (heading[:, rows, None] + side).ravel()
        reach = np.repeat((size[:, None] * (1 - at) * 0.42)[..., None], 2, 2)
        size = (reach * rng.uniform(0.5, 1.1, reach.shape)).ravel()
        bend = rng.normal(0, 0.2, len(size))
        kept = size > 3
        start, angle, size, bend = start[kept], angle[kept], size[kept], bend[kept]
    return ndimage.gaussian_filter(ice.reshape(_SIZE, _SIZE), 0.7, mode="wrap")


def _deposit(ice: Floats, path: Floats, weight: Floats) -> None:
    """Add weights (M, T) at points (M, T, 2) to the flattened periodic canvas."""
    cell = np.floor(path).astype(np.int64) % _SIZE
    ice += np.bincount((cell[..., 0] * _SIZE + cell[..., 1]).ravel(), weight.ravel(), _SIZE * _SIZE)
