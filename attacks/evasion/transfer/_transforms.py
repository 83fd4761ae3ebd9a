"""What is done to the input and to the gradient of a surrogate so that what fools it fools other nets as well.

Input transforms take pictures (M, C, H, W) with a stream each and return k copies of all of them (k * M, ...), copy by
copy; a gradient is taken through them. Values are the authors' unless a card says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.errors import BadData
from robustsuite.maths import projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Split

DECAY = 1.0
"""mi, ni: what is left of the velocity after a step."""

DIVERSE, SMALLEST = 0.5, 0.9
"""di: the chance that a picture is changed, and the shortest side that it shrinks to, a share of its own."""

SCALES = 5
"""si: copies x, x / 2, ..., x / 16."""

MIXES, PORTION, POOL = 3, 0.2, 1024
"""admix: copies, how much of another picture each gets, and from how many of the adversary's pictures it is drawn."""

NEIGHBOURS, REACH = 20, 1.5
"""vt: points around each iterate, and how far from it, in radii of the ball."""

Copies = Callable[[Tensor, Tensor, Rng], Tensor]
"""(pictures (M, C, H, W), labels (M,), streams) -> their copies (k * M, C, H, W)."""


def diverse(x: Tensor, y: Tensor, rng: Rng) -> Tensor:
    """di: half of the pictures shrunk to a random size and set into zeros at a random place (Xie et al., 2019).

    Each picture by its own draw; bilinear, as two products with matrices, so that a GPU's gradient is the same twice.
    """
    chance, size, down, right = rng.uniform(4).unbind(1)
    changed = chance < DIVERSE
    rows = resampling(x.shape[2], size, down).to(x)
    columns = resampling(x.shape[3], size, right).to(x)
    moved = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
    return torch.where(per_row(changed, x), moved, x)


def resampling(side: int, size: Tensor, place: Tensor) -> Tensor:
    """Matrices (M, side, side) float32 that shrink a side to [SMALLEST side, side] pixels and pad it back with zeros.

    size, place: draws (M,) in (0, 1). Bilinear without antialiasing, pixel centres at halves.
    """
    least = int(side * SMALLEST)
    short = least + (size * (side - least + 1)).long().clamp_max(side - least)
    first = (place * (side - short + 1)).long().minimum(side - short)
    at = torch.arange(side, device=size.device) - first[:, None]
    inside = (at >= 0) & (at < short[:, None])
    source = ((at + 0.5) * side / short[:, None] - 0.5).clamp(0, side - 1)
    near = 1 - (source[:, :, None] - torch.arange(side, device=size.device)).abs()
    return near.clamp_min(0) * inside[:, :, None]


def scaled(x: Tensor, y: Tensor, rng: Rng) -> Tensor:
    """si: the picture and its halves (Lin et al., 2020)."""
    return torch.cat([x / 2**i for i in range(SCALES)])


def admixing(own: Split, device: torch.device) -> Copies:
    """admix: a fifth of a picture of another class added, thrice (Wang et al., 2021); of the adversary's own pictures.

    Raises BadData where all of these are of one class.
    """
    split = own.first(min(POOL, len(own)))
    order = split.y.argsort(stable=True)
    pool, labels = split.images(order).to(device), split.y[order].to(device)
    if not len(labels) or bool((labels == labels[0]).all()):
        raise BadData("expected pictures of several classes to mix in, got one or none; leave admix out")

    def admixed(x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        start, end = torch.searchsorted(labels, y), torch.searchsorted(labels, y, right=True)
        others = (len(labels) - (end - start))[:, None]
        drawn = (rng.uniform(MIXES) * others).long().minimum(others - 1)
        drawn = torch.where(drawn < start[:, None], drawn, drawn + (end - start)[:, None])
        return torch.cat([x + PORTION * pool[drawn[:, i]] for i in range(MIXES)])

    return admixed


def kernel(side: int, device: torch.device) -> Tensor:
    """ti: a Gaussian (side, side) float64 over three standard deviations each way, of sum 1 (Dong et al., 2019)."""
    line = torch.linspace(-3, 3, side, dtype=torch.float64, device=device).square().div(-2).exp()
    found = line[:, None] * line
    return found / found.sum()


def smoothed(grad: Tensor, by: Tensor) -> Tensor:
    """ti: each channel of gradients (M, C, H, W) convolved with a kernel, zeros beyond the border: the mean over shifts
    of the picture, where the net is the same for each.
    """
    channels = grad.shape[1]
    weights = by.to(grad).expand(channels, 1, *by.shape)
    return functional.conv2d(grad, weights, padding="same", groups=channels)


def around(x: Tensor, rng: Rng, eps: float, norm: str) -> Tensor:
    """vt: pictures (M, C, H, W) at random points of the ball of REACH radii; l2: on its sphere, box or not."""
    if norm == "linf":
        return x + rng.uniform(*x.shape[1:], low=-REACH * eps, high=REACH * eps)
    return x + REACH * eps * projections.unit(rng.normal(*x.shape[1:]), "l2")


def normalised(grad: Tensor, norm: str) -> Tensor:
    """Gradients (M, ...) float64 at a common length: in linf a mean size of 1, in l2 a length of 1; zeros stay zeros.

    Scaled by their largest entry first, whose square would underflow where a net is sure of itself.
    """
    flat = projections.unit(grad, "linf").flatten(1)
    length = flat.abs().mean(1) if norm == "linf" else projections.norm(flat, "l2")
    return (flat / length.clamp_min(torch.finfo(flat.dtype).tiny)[:, None]).view_as(grad)
