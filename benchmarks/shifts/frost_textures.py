"""Frost to lay over images: procedural ice ferns, or a folder of photographs.

ImageNet-C's frost uses five photographs of frosted glass, which cannot be shipped. The five textures here are
drawn from fixed seeds: ferns of needles that branch at 60 degrees (the habit of ice), haze and grain, bluish
white, periodic in both directions, with the photographs' brightness and contrast. A result measured with them
is not comparable number for number with the published set; one with the photographs' folder is.
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
_SIDES = 14
# needle length in pixels, mean and standard deviation of the level, tint
_LOOKS = (
    (16.0, 0.50, 0.08, (0.62, 1.12, 1.26)),
    (34.0, 0.81, 0.08, (0.97, 0.99, 1.04)),
    (26.0, 0.81, 0.08, (0.97, 0.99, 1.04)),
    (20.0, 0.60, 0.11, (0.91, 1.01, 1.08)),
    (30.0, 0.48, 0.17, (0.90, 1.00, 1.10)),
)
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
    """(S, S, 3): one texture, lit from the upper left, with its photograph's mean and standard deviation."""
    length, mean, std, tint = _LOOKS[seed]
    rng = np.random.default_rng(seed)
    ice = 1 - np.exp(-_ferns(rng, length))
    relief = ndimage.gaussian_filter(ice, 1, mode="wrap")
    relief = relief - np.roll(relief, (2, 2), (0, 1))
    haze = _smooth(rng, 50)
    light = 0.5 * _unit(ice) + 0.6 * _unit(relief) + 0.7 * haze + 0.25 * _smooth(rng, 0.7)
    level = mean + std * np.clip(_unit(light), -2.5, 2.5)
    texture: NDArray[np.float32] = np.clip(level[..., None] * np.array(tint), 0, 1).astype(np.float32)
    return texture


def _ferns(rng: np.random.Generator, length: float) -> Floats:
    """Ice density (S, S): needles along a slowly turning direction, each with side needles at 60 degrees."""
    number = int(4 * (_SIZE / length) ** 2)
    start = rng.uniform(0, _SIZE, (number, 2))
    cell = start.astype(int)
    angle = 2.5 * _smooth(rng, 60)[cell[:, 0], cell[:, 1]] + rng.normal(0, 0.7, number)
    size = length * rng.lognormal(0, 0.5, number)
    strength = rng.uniform(0.2, 1, number) * (1 + np.tanh(1.5 * _smooth(rng, 40)[cell[:, 0], cell[:, 1]]))
    ice = np.zeros(_SIZE * _SIZE)
    _deposit(ice, start, angle, size, strength)
    at = rng.uniform(0, 1, (number, _SIDES))
    joint = start[:, None] + (at * size[:, None])[..., None] * _heading(angle)[:, None]
    side = angle[:, None] + np.pi / 3 * rng.choice([-1, 1], at.shape) + rng.normal(0, 0.08, at.shape)
    reach = 0.5 * size[:, None] * (1.05 - at) * rng.uniform(0.4, 1, at.shape)
    weight = np.repeat(0.6 * strength, _SIDES)
    _deposit(ice, joint.reshape(-1, 2), side.ravel(), reach.ravel(), weight)
    density: Floats = ndimage.gaussian_filter(ice.reshape(_SIZE, _SIZE), 0.8, mode="wrap")
    return density


def _deposit(ice: Floats, start: Floats, angle: Floats, size: Floats, weight: Floats) -> None:
    """Add needles that taper off, from points (M, 2) along angles (M,), to the flattened periodic canvas."""
    t = np.linspace(0, 1, int(np.quantile(size, 0.98)) + 2)
    path = start[:, None] + (size[:, None] * t)[..., None] * _heading(angle)[:, None]
    cell = np.floor(path).astype(np.int64) % _SIZE
    ink = weight[:, None] * (1 - t) * size[:, None] / len(t) * 1.5
    ice += np.bincount((cell[..., 0] * _SIZE + cell[..., 1]).ravel(), ink.ravel(), _SIZE * _SIZE)


def _heading(angle: Floats) -> Floats:
    return np.stack([np.sin(angle), np.cos(angle)], -1)


def _smooth(rng: np.random.Generator, sigma: float) -> Floats:
    """(S, S): periodic Gaussian noise blurred by sigma, mean 0 and standard deviation 1."""
    white = np.fft.rfft2(rng.standard_normal((_SIZE, _SIZE)))
    f = np.fft.fftfreq(_SIZE)[:, None] ** 2 + np.fft.rfftfreq(_SIZE) ** 2
    return _unit(np.fft.irfft2(white * np.exp(-2 * (np.pi * sigma) ** 2 * f), s=(_SIZE, _SIZE)))


def _unit(a: Floats) -> Floats:
    """Mean 0 and standard deviation 1."""
    scaled: Floats = (a - a.mean()) / a.std()
    return scaled
