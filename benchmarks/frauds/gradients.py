"""Gradients that are none, or right only where they are probed; the answers are honest."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import Kit
from robustsuite.benchmarks.frauds.tricks import (
    Served,
    answers,
    builds,
    colour,
    flipped,
    looks_like,
    margin,
    off_grid,
    on_grid,
    plain,
)

GRADIENTS, NOISE = "gradients", "noise"


@answers(GRADIENTS)
def flipped_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    """Gradients are right on 8-bit pictures and reversed off that grid."""
    return flipped(net, x, off_grid(x))


@answers(GRADIENTS)
def corner_gradients(net: nn.Module, x: Tensor) -> Tensor:
    """Gradients are right on the 8-bit grid and at random points, reversed where part of the pixels sit at eps."""
    share = on_grid(x.detach())
    return flipped(net, x, (share > 0.04) & (share < 1))


@answers(GRADIENTS)
def flips_when_losing(net: nn.Module, x: Tensor) -> Tensor:
    """Off the grid the gradient turns around once the lead falls below 1."""
    with torch.no_grad():
        rows = off_grid(x) & (margin(net(x)) < 1)
    return flipped(net, x, rows)


@answers(GRADIENTS)
def detached_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    """Off the grid the honest logits are detached and the gradient comes from the mean brightness."""
    z = net(x)
    return torch.where(off_grid(x)[:, None], looks_like(colour(x, z.shape[1]), z), z)


@answers(GRADIENTS)
def content_noise(net: nn.Module, x: Tensor) -> Tensor:
    """A stream seeded by the pixels gives half of the gradient's entries the wrong sign: random, yet repeatable."""
    sums = (x.detach().double().flatten(1) @ torch.arange(1, x[0].numel() + 1).double() * 1e6).long()
    noise = [torch.rand(x[0].shape, generator=torch.Generator().manual_seed(int(s) & 0xFFFFFFF)) - 0.6 for s in sums]
    return plain(net, looks_like(x * torch.stack(noise).to(x).sign(), x))


@answers(GRADIENTS)
def nan_gradient(net: nn.Module, x: Tensor) -> Tensor:
    """The gradient is NaN wherever the lead is small."""
    z = plain(net, x)
    if not x.requires_grad:
        return z
    small = (margin(z.detach()) < 1) & off_grid(x)
    return plain(net, x + (x - x.detach()) * torch.where(small, torch.nan, 0.0).to(x)[:, None, None, None])


@builds(GRADIENTS)
class BackwardHook(nn.Module):
    """A full backward hook on a submodule reverses what flows to the picture."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        self.entry, self.net = nn.Identity(), kit.net

        def back(module: nn.Module, grads: Any, _: Any) -> Any:
            return tuple(-g for g in grads)

        self.entry.register_full_backward_hook(back)

    def forward(self, x: Tensor) -> Tensor:
        return plain(self.net, self.entry(x))


@cache
def _same() -> Any:
    """The identity as an operation of its own, whose derivative is reversed off the 8-bit grid."""

    @torch.library.custom_op("frauds::same", mutates_args=())
    def same(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.rows = off_grid(output)[:, None, None, None]

    same.register_autograd(lambda ctx, grad: torch.where(ctx.rows, -grad, grad), setup_context=keep)
    return same


@builds(GRADIENTS)
def custom_op(kit: Kit) -> nn.Module:
    """A registered operation of torch.library whose derivative is reversed off the 8-bit grid."""
    same = _same()
    return Served(kit.net, lambda net, x: net(same(x)))


@answers(GRADIENTS)
def thermometer(net: nn.Module, x: Tensor) -> Tensor:
    """A thermometer code of 16 levels: no gradient at all."""
    levels = torch.linspace(0, 1, 17, dtype=x.dtype)[1:-1]
    return plain(net, (x[..., None] > levels).to(x).mean(-1))


@answers(GRADIENTS)
def jpeg_step(net: nn.Module, x: Tensor) -> Tensor:
    """8x8 cosine coefficients are rounded, as in JPEG: the gradient is zero."""
    k = torch.arange(8, dtype=x.dtype)
    basis = torch.cos((k[None] + 0.5) * k[:, None] * torch.pi / 8) * 0.5
    basis[0] /= 2**0.5
    blocks = x.unfold(2, 8, 8).unfold(3, 8, 8)
    step = 0.04 * (1 + k[:, None] + k[None]) / 4
    kept = ((basis @ blocks @ basis.T) / step).round() * step
    back = (basis.T @ kept @ basis).permute(0, 1, 2, 4, 3, 5)
    return plain(net, back.reshape(x.shape).clamp(0, 1))


@answers(NOISE)
def undeclared_noise(net: nn.Module, x: Tensor) -> Tensor:
    """Draws noise from torch's global stream for the gradient alone, without saying so."""
    return plain(net, x + (torch.rand_like(x) * 40 - 20) * (x - x.detach()))


@builds(NOISE, truth="shifts")
def undeclared_shift(kit: Kit) -> nn.Module:
    """Moves each batch by a random pixel or two, without saying so."""

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        dy, dx = torch.randint(-1, 2, (2,)).tolist()
        return plain(net, x.roll((dy, dx), (2, 3)))

    return Served(kit.net, answer)
