"""Colours as functions of what an adversary may choose: a table of shifts by colour, and JPEG coefficients."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from robustsuite.maths.frequencies import cosines

NODES = 8
"""Of a table of colours, along each channel."""

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
"""The quantisation steps of JPEG at quality 50, in levels of 255 (ITU-T T.81, 1992, tables K.1 and K.2)."""

TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
"""From Y, Cb, Cr to R, G, B (JFIF)."""


def recoloured(x: Tensor, table: Tensor) -> Tensor:
    """x (N, C, H, W) plus the shift that its colour has in the table (N, C, NODES, ..., NODES), not clipped.

    Between the nodes, which divide each channel evenly, it is multilinear (Laidlaw & Feizi, 2019, arXiv 1906.00001).
    """
    n, channels = x.shape[:2]
    place = x.clamp(0, 1) * (NODES - 1)
    low = place.detach().floor().clamp_max(NODES - 2)
    part, flat = place - low, table.flatten(2)
    shift = torch.zeros_like(x)
    for corner in itertools.product((0, 1), repeat=channels):
        index, weight = torch.zeros_like(low[:, 0], dtype=torch.int64), torch.ones_like(low[:, :1])
        for channel, up in enumerate(corner):
            index = index * NODES + low[:, channel].long() + up
            own = part[:, channel : channel + 1]
            weight = weight * (own if up else 1 - own)
        values = flat.gather(2, index.flatten(1)[:, None].expand(-1, channels, -1))
        shift = shift + weight * values.view(n, channels, *x.shape[2:])
    return x + shift


def blocks(channels: int, height: int, width: int) -> int:
    """How many blocks of 8 x 8 coefficients a picture has: of three channels, colour at half the resolution."""
    tall, wide = -(-height // 16), -(-width // 16)
    return 6 * tall * wide if channels == 3 else 4 * channels * tall * wide


def decoded(coefficients: Tensor, channels: int, height: int, width: int) -> Tensor:
    """What these coefficients (N, blocks, 8, 8), in quantisation steps, add to a picture: (N, C, H, W) in [0, 1] units.

    Luma and chroma of three channels, chroma at half the resolution; of any other number each channel as luma. Linear.
    """
    tall, wide = 2 * -(-height // 16), 2 * -(-width // 16)
    if channels != 3:
        each = coefficients.reshape(-1, tall * wide, 8, 8)
        return _plane(each, LUMA, tall, wide).view(-1, channels, 8 * tall, 8 * wide)[..., :height, :width]
    luma, blue, red = coefficients.split([tall * wide, tall * wide // 4, tall * wide // 4], 1)
    planes = [_plane(luma, LUMA, tall, wide)]
    for chroma in (blue, red):
        small = _plane(chroma, CHROMA, tall // 2, wide // 2)
        planes.append(small.repeat_interleave(2, 1).repeat_interleave(2, 2))
    rgb = [sum((w * plane for w, plane in zip(row, planes, strict=True) if w), planes[0] * 0.0) for row in TO_RGB]
    return torch.stack(rgb, 1)[..., :height, :width]


def _plane(coefficients: Tensor, steps: tuple[tuple[int, ...], ...], tall: int, wide: int) -> Tensor:
    """The inverse cosine transform (N, 8 tall, 8 wide) of blocks (N, tall * wide, 8, 8), rows of blocks first."""
    scaled = coefficients * coefficients.new_tensor(steps) / 255
    basis = cosines(8, 8).to(coefficients)
    rows = sum((scaled[:, :, u, None, :] * basis[u][:, None] for u in range(8)), torch.zeros_like(scaled))
    found = sum((rows[..., v, None] * basis[v] for v in range(8)), torch.zeros_like(scaled))
    return found.view(-1, tall, wide, 8, 8).transpose(2, 3).reshape(-1, 8 * tall, 8 * wide)
