"""Spatter, one of ImageNet-C's four extra corruptions: water or mud on the lens.

(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261)

Water needs an edge map, distances to it and a histogram: integer image processing on the CPU, written here for
a batch in numpy and scipy. It differs from OpenCV's in one thing: distances are exact, OpenCV's are within 2 %.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from robustsuite.benchmarks.shifts.draws import normal
from robustsuite.benchmarks.shifts.filters import gaussian
from robustsuite.maths.randomness import Rng

_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])

Bytes = NDArray[np.uint8]


def spatter(x: Tensor, c: tuple[float, ...], rng: Rng) -> Tensor:
    """Blurred noise above a floor is liquid (c = mean, std, sigma, floor, strength, mud?)."""
    mean, std, sigma, floor, strength, mud = c
    layer = normal(rng, 1, *x.shape[-2:], device=x.device).mul_(std).add_(mean)
    layer = gaussian(layer, sigma)
    layer = torch.where(layer < floor, 0.0, layer)
    colour = torch.tensor(_MUD if mud else _WATER, device=x.device).view(3, 1, 1)
    if mud:
        m = gaussian((layer > floor).float(), strength)
        m = torch.where(m < 0.8, 0.0, m)
        return x * (1 - m) + m * colour
    grey = (layer * 255).clamp(0, 255).to(torch.uint8)
    relief = torch.from_numpy(_relief(grey[:, 0].cpu().numpy())).to(x.device)
    m = grey * relief[:, None]
    m = m / m.amax((2, 3), keepdim=True).clamp(min=1e-6) * strength
    return x + m * colour


def _relief(layer: Bytes) -> NDArray[np.float32]:
    """(N, H, W) uint8 -> float32: embossed distances to the edges, the light on each drop."""
    distance = np.stack([_distance(edge) for edge in canny(layer, 50, 150)])
    level = equalise(_box3(np.minimum(distance, 20)).astype(np.uint8))
    embossed = ndimage.correlate(level.astype(np.int32), _EMBOSS[None], mode="mirror").clip(0, 255)
    return np.rint(_box3(embossed)).astype(np.float32)


def _distance(edge: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels to the nearest edge; far away everywhere where there is none."""
    if not edge.any():
        return np.full(edge.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~edge)
    return distance


def _box3(a: NDArray[np.generic]) -> NDArray[np.float64]:
    """3x3 mean of each image, mirrored about its border pixels."""
    mean: NDArray[np.float64] = ndimage.uniform_filter(a.astype(np.float64), (0, 3, 3), mode="mirror")
    return mean


def equalise(a: Bytes) -> Bytes:
    """Histogram equalisation of (N, H, W): the least present level becomes 0, the greatest 255."""
    N, size = len(a), a[0].size
    number = np.arange(N)[:, None]
    count = np.bincount((number * 256 + a.reshape(N, -1)).ravel(), minlength=N * 256).reshape(N, 256)
    lowest = count[number[:, 0], (count > 0).argmax(1)][:, None]
    table = np.rint((count.cumsum(1) - lowest).clip(0) * (255 / np.maximum(size - lowest, 1)))
    flat = np.where(lowest == size, np.arange(256), table).astype(np.uint8)
    return flat[number[:, :, None], a]


def canny(a: Bytes, low: float, high: float) -> NDArray[np.bool_]:
    """Edges (N, H, W) of uint8 images (Canny, 1986): Sobel, L1 norm, thinned, hysteresis between low and high."""
    image = a.astype(np.int32)
    dx = ndimage.correlate1d(ndimage.correlate1d(image, [1, 2, 1], 1, mode="nearest"), [-1, 0, 1], 2, mode="nearest")
    dy = ndimage.correlate1d(ndimage.correlate1d(image, [1, 2, 1], 2, mode="nearest"), [-1, 0, 1], 1, mode="nearest")
    norm = np.pad(np.abs(dx) + np.abs(dy), ((0, 0), (1, 1), (1, 1)))
    here = norm[:, 1:-1, 1:-1]

    def beyond(down: int, right: int) -> NDArray[np.int32]:
        return norm[:, 1 + down : norm.shape[1] - 1 + down, 1 + right : norm.shape[2] - 1 + right]

    steepness = np.abs(dy) / np.maximum(np.abs(dx), 1e-9)
    falling = (dx ^ dy) >= 0
    across = (here > beyond(0, -1)) & (here >= beyond(0, 1))
    down = (here > beyond(-1, 0)) & (here >= beyond(1, 0))
    diagonal = np.where(
        falling,
        (here > beyond(-1, -1)) & (here > beyond(1, 1)),
        (here > beyond(-1, 1)) & (here > beyond(1, -1)),
    )
    tangent = np.tan(np.pi / 8)
    crest = np.where(steepness < tangent, across, np.where(steepness > 1 / tangent, down, diagonal))
    weak = crest & (here > low)
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    label, parts = ndimage.label(weak, touching)
    strong = np.zeros(parts + 1, bool)
    strong[label[weak & (here > high)]] = True
    strong[0] = False
    edges: NDArray[np.bool_] = strong[label]
    return edges
