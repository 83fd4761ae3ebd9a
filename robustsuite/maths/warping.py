"""Pictures resampled: turned and shifted, moved along a flow, and what smooths one. Made to be differentiated through.

Sums are written out element by element, so that a picture's bits do not depend on what stands beside it in a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def within(picture: Tensor) -> Tensor:
    """Clipped to [0, 1]; the derivative is 1 inside and at the bounds, where torch 2.14 gives `clamp` the value 0."""
    inside = (picture >= 0) & (picture <= 1)
    return torch.where(inside, picture, picture.detach().clamp(0, 1))


def sampled(x: Tensor, row: Tensor, column: Tensor, *, edge: bool) -> Tensor:
    """Bilinear values (N, C, H', W') of x (N, C, H, W) at pixel coordinates row and column (N, H', W').

    edge: what lies outside the picture is its border's; else it is 0. At whole coordinates the values are x's own.
    """
    top, left = row.detach().floor(), column.detach().floor()
    down, right = (row - top)[:, None], (column - left)[:, None]
    height, width = x.shape[2:]
    flat = x.flatten(2)

    def at(r: Tensor, c: Tensor) -> Tensor:
        place = r.clamp(0, height - 1) * width + c.clamp(0, width - 1)
        index = place.long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
        values = flat.gather(2, index).view(*x.shape[:2], *r.shape[1:])
        return values if edge else values * ((r >= 0) & (r < height) & (c >= 0) & (c < width))[:, None]

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    below = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return above * (1 - down) + below * down


def places(x: Tensor) -> tuple[Tensor, Tensor]:
    """The row (H, 1) and the column (1, W) of every pixel of x (N, C, H, W), in its type."""
    height, width = x.shape[2:]
    return (torch.arange(height, device=x.device).to(x)[:, None], torch.arange(width, device=x.device).to(x)[None, :])


def turned(x: Tensor, degrees: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """x (N, C, H, W) turned counter-clockwise about its middle, then shifted; each (N,), shifts in shares of H and W.

    What comes from outside is 0 (Engstrom et al., 2019, arXiv 1712.02779).
    """
    (rows, columns), (height, width) = places(x), x.shape[2:]
    angle = (degrees * (math.pi / 180)).view(-1, 1, 1)
    r = rows - (height - 1) / 2 - (down * height).view(-1, 1, 1)
    c = columns - (width - 1) / 2 - (right * width).view(-1, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    return within(sampled(x, cos * r + sin * c + (height - 1) / 2, cos * c - sin * r + (width - 1) / 2, edge=False))


def flowed(x: Tensor, flow: Tensor) -> Tensor:
    """x (N, C, H, W) with each pixel taken from where the flow (N, 2, H, W) points, in pixels down and to the right.

    Beyond the border stands the border (Xiao et al., 2018, arXiv 1801.02612).
    """
    rows, columns = places(x)
    return within(sampled(x, rows + flow[:, 0], columns + flow[:, 1], edge=True))


def smoothed(values: Tensor, deviation: float, reach: int) -> Tensor:
    """values (N, C, H, W) under a Gaussian of this standard deviation in pixels, cut off `reach` pixels away."""
    taps = torch.arange(-reach, reach + 1).double()
    bell = torch.exp(-((taps / deviation) ** 2) / 2)
    weights = (bell / bell.sum()).tolist()
    for axis in (2, 3):
        n = values.shape[axis]
        place = torch.arange(n, device=values.device)
        parts = (w * values.index_select(axis, (place + t).clamp(0, n - 1)) for t, w in enumerate(weights, -reach))
        values = sum(parts, torch.zeros_like(values))
    return values
