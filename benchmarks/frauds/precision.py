"""What rounding hides: another answer in another type, logits too large, too small or too coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.tricks import answers, colour, flipped, off_grid, plain, relabelled

PRECISION = "precision"


@answers(PRECISION)
def float32_masked(net: nn.Module, x: Tensor) -> Tensor:
    """Honest in float64; in float32 the honest label under a confidence that follows brightness."""
    z = plain(net, x)
    return z if x.dtype == torch.float64 else relabelled(colour(x, z.shape[1]), z.argmax(1))


@answers(PRECISION)
def double_gradient_honest(net: nn.Module, x: Tensor) -> Tensor:
    """The same answers in both types, but in float32 the gradient points the other way."""
    return flipped(net, x, x.dtype != torch.float64)


@answers(PRECISION)
def huge_logits(net: nn.Module, x: Tensor) -> Tensor:
    """Logits times 1e5: the cross entropy's gradient is exactly zero."""
    return 1e5 * plain(net, x)


@answers(PRECISION)
def tiny_logits(net: nn.Module, x: Tensor) -> Tensor:
    """Logits times 1e-8: no margin is ever large enough to be believed."""
    return 1e-8 * plain(net, x)


@answers(PRECISION)
def big_offset(net: nn.Module, x: Tensor) -> Tensor:
    """Logits plus 2^22: float32 keeps halves, so that scores stand still between steps and tie."""
    return plain(net, x) + 2.0**22


@answers(PRECISION)
def grid_carrier(net: nn.Module, x: Tensor) -> Tensor:
    """Adds a ripple of height 0.01 that is flat on the 8-bit grid and steep off it: true gradients of no use."""
    z = plain(net, x)
    weights = torch.randn(z.shape[1], x[0].numel(), generator=torch.Generator().manual_seed(2)).to(x)
    ripple = (1 - torch.cos(2 * torch.pi * 255 * 16 * x)).flatten(1) @ weights.T
    return relabelled(z + 3e-4 * ripple, z.argmax(1))


@answers(PRECISION)
def within_rounding(net: nn.Module, x: Tensor) -> Tensor:
    """Off the grid margins shrink below rounding, and in float64 the two best classes change places."""
    z = plain(net, x)
    two = z.topk(2, dim=1)
    swapped = z.scatter(1, two.indices, two.values.flip(1)) if x.dtype == torch.float64 else z
    return torch.where(off_grid(x)[:, None], 1e-7 * swapped, z)
