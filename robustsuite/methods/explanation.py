"""What attribution maps are scored by, and what some of them are made of: orders of pixels, curves, shares of a map.

Insertion and deletion are those of Petsiuk et al. (2018, "RISE", BMVC, arXiv:1806.07421), the pointing game that of
Zhang et al. (2016, arXiv:1608.00507). A map (N, H, W) is larger where a pixel speaks more for the class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.maths.losses import own
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle

KERNEL, SIGMA = 11, 5.0
"""Side in pixels and standard deviation of the blur that insertion begins with."""

Probability = Callable[[Tensor, Tensor], Tensor]
"""(rows (M,), pictures (M, C, H, W)) -> the probability (M,) of each row's own class."""


def mean_colour(x: Tensor) -> Tensor:
    """Each picture's own mean colour (N, C, 1, 1), spread over it (N, C, H, W): what a deleted pixel becomes."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


def blurred(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) under a Gaussian of 11 x 11 pixels, sigma 5; their edges go on beyond themselves."""
    at = torch.arange(KERNEL, device=x.device, dtype=x.dtype) - KERNEL // 2
    bell = torch.exp(-at.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()
    out, channels, half = x, x.shape[1], KERNEL // 2
    for shape, pad in (((1, 1, KERNEL, 1), (0, 0, half, half)), ((1, 1, 1, KERNEL), (half, half, 0, 0))):
        weight = bell.view(shape).expand(channels, *shape[1:])
        out = functional.conv2d(functional.pad(out, pad, mode="replicate"), weight, groups=channels)
    return out


def ranks(maps: Tensor, rng: Rng) -> Tensor:
    """The place (N, H*W) of each pixel when the largest comes first; equal ones stand in a random order."""
    flat = maps.flatten(1)
    shuffled = rng.uniform(flat.shape[1]).argsort(1)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def curves(ask: Probability, above: Tensor, below: Tensor, places: Tensor, width: int) -> Tensor:
    """Probabilities (N, H + 1) with the first 0, W, 2 W, ... H W pixels of an order from `above`, others from `below`.

    above, below: (N, C, H, W); places (N, H*W): the order, of `ranks`. A step is a row's worth of pixels, as 224 of
    224 x 224 in the paper. Insertion: the picture above its blur; deletion: its mean colour above the picture.
    """
    n, _, height, across = above.shape
    jobs = torch.arange(n * (height + 1), device=above.device)
    found = []
    for part in jobs.split(width):
        rows, step = part // (height + 1), part % (height + 1)
        taken = (places[rows] < across * step[:, None]).view(-1, 1, height, across)
        found.append(ask(rows, torch.where(taken, above[rows], below[rows])))
    return torch.cat(found).view(n, height + 1) if found else above.new_zeros(0, height + 1)


def area(curve: Tensor) -> Tensor:
    """The area (N,) under curves (N, S + 1) over [0, 1], by trapezoids."""
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1)


def pointed(places: Tensor, masks: Tensor) -> Tensor:
    """Whether (N,) the first pixel of an order (N, H*W) lies on the object; masks (N, H, W): its coverage in [0, 1]."""
    return (masks.flatten(1) >= 0.5).gather(1, places.argmin(1, keepdim=True)).squeeze(1)


def inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share (N,) of what speaks for the class that lies on the object; of a map without any, the object's area."""
    weight = maps.clamp_min(0).flatten(1).double()
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, torch.ones_like(weight))
    return ((weight * masks.flatten(1)).sum(1) / weight.sum(1)).float()


def slopes(model: Oracle, x: Tensor, classes: Tensor, times: int, at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean (N, C, H, W) over k = 0 ... times - 1 of d logit of the class / d x at `at`(rows (M,), k (M,)).

    Examples and their points are one batch, cut where it is full. One question a point.
    Raises BadValue for no point.
    """
    if times < 1:
        raise BadValue(f"expected one gradient a map at the least, got {times!r}; write 50")
    total = torch.zeros_like(x)
    for part in torch.arange(len(x) * times, device=x.device).split(max(1, model.width)):
        rows, k = part // times, part % times
        total.index_add_(0, rows, model[rows].gradient(at(rows, k), partial(own, y=classes[rows])).grad)
    return total / times
