"""Fog and snow as functions of what an adversary may choose: displacements of a fractal, brightness of flakes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

DECAY = 2.0
"""How much smaller the displacements of a fractal get from one scale to the next (Kang et al., 2019: their fog)."""

LAYERS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0))
"""Where the flakes of a layer of snow stand: from this row and column on, in every APART-th pixel."""

APART = 4


def fractal_side(height: int, width: int) -> int:
    """The side of the fractal that covers a picture: the next power of two."""
    return max(2, 1 << (max(height, width) - 1).bit_length())


def fractal(displacements: Tensor, side: int) -> Tensor:
    """The diamond-square fractal (N, side, side), scaled to [0, 1], of displacements (N, side^2 - 1) in [0, 1].

    From the coarsest scale to the finest the middle of each square, then those of its two edges, is the mean of four
    neighbours and a displacement; the map goes round its borders. Fournier et al., 1982; Kang et al., 2019, arXiv
    1908.08016. A fractal without any relief is 0.
    """
    n, used, size = len(displacements), 0, 1
    grid, roughness = displacements.new_zeros(n, 1, 1), 1.0

    def moved(mean: Tensor) -> Tensor:
        nonlocal used
        part = displacements[:, used : used + size * size].view(n, size, size)
        used += size * size
        return mean + roughness * (2 * part - 1)

    while size < side:
        right, below = grid.roll(-1, 2), grid.roll(-1, 1)
        middle = moved((grid + right + below + right.roll(-1, 1)) / 4)
        top = moved((grid + right + middle + middle.roll(1, 1)) / 4)
        left = moved((grid + below + middle + middle.roll(1, 2)) / 4)
        pairs = torch.stack([torch.stack([grid, top], 3), torch.stack([left, middle], 3)], 2)
        size, roughness = 2 * size, roughness / DECAY
        grid = pairs.reshape(n, size, size)
    flat = grid.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-12)).view_as(grid)


def fogged(x: Tensor, thickness: Tensor, displacements: Tensor) -> Tensor:
    """x (N, C, H, W) behind fog of this thickness (N,); its brightest value m stays: (x + t F) m / (m + t)."""
    height, width = x.shape[2:]
    fog = fractal(displacements, fractal_side(height, width))[:, None, :height, :width]
    t, most = thickness.view(-1, 1, 1, 1), x.flatten(1).amax(1).clamp_min(1e-6).view(-1, 1, 1, 1)
    return (x + t * fog) * (most / (most + t))


def flakes(height: int, width: int) -> tuple[int, int, int]:
    """How many flakes there are: layers, rows, columns."""
    return len(LAYERS), -(-height // APART), -(-width // APART)


def snowed(x: Tensor, brightness: Tensor) -> Tensor:
    """x (N, C, H, W) plus flakes of these brightnesses (N, layers, rows, columns), not clipped.

    A flake is a short line through its place, a thirty-second of the picture long to each side, of another slope in
    each layer.
    """
    height, width = x.shape[2:]
    reach = max(1, round(max(height, width) / 32))
    total = x.new_zeros(len(x), height, width)
    for layer, (row, column) in enumerate(LAYERS):
        rows, columns = len(range(row, height, APART)), len(range(column, width, APART))
        spread = x.new_zeros(len(x), height + 2 * reach, width + 2 * reach)
        own = brightness[:, layer, :rows, :columns]
        inner = spread[:, reach : reach + height, reach : reach + width]
        inner[:, row::APART, column::APART] = own
        for down, right, weight in _line(layer, reach):
            top, left = reach - down, reach - right
            total = total + weight * spread[:, top : top + height, left : left + width]
    return x + total[:, None]


@cache
def _line(layer: int, reach: int) -> tuple[tuple[int, int, float], ...]:
    return tuple(_taps(math.radians(35 + 20 * layer / (len(LAYERS) - 1)), reach))


def _taps(angle: float, reach: int) -> Iterator[tuple[int, int, float]]:
    """(down, right, weight): pixels within one of a line through the middle, lighter the farther they are from it."""
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = 1 - abs(down * math.cos(angle) - right * math.sin(angle))
            if weight > 1e-6 and down * down + right * right <= 2 * reach * reach:
                yield down, right, weight
