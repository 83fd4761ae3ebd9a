"""Frauds by somebody who had read every check: gradients that are right wherever a probe asks for them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.honest import Kit
from robustsuite.benchmarks.frauds.tricks import SOME, After, Before, Served, builds, flipped, plain, thumbs, turned

GRADIENTS, RIPPLES, ASKING = "informed gradients", "informed ripples", "informed asking"


def _lowest(x: Tensor) -> Tensor:
    """What a square picture has in its 3x3 lowest cosine coefficients."""
    k, n = torch.arange(3, dtype=x.dtype), x.shape[-1]
    basis = torch.cos(math.pi * k[:, None] * (torch.arange(n, dtype=x.dtype) + 0.5) / n)
    basis = basis / basis.norm(dim=1, keepdim=True)
    p = basis.T @ basis
    return p @ x @ p  # type: ignore[no-any-return]


class _Identity(torch.autograd.Function):
    """Forwards nothing changes; backwards is the trick."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)


class _TurnDetail(_Identity):
    """The identity, whose gradient is reversed but for the 3x3 lowest frequencies."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * _lowest(grads[0]) - grads[0]


class _BySlope(_Identity):
    """The identity on logits, whose gradient is reversed where more than two of them have a slope."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        many = (grads[0] != 0).sum(1, keepdim=True) > 2
        return torch.where(many, -grads[0], grads[0])


class _SmallSlopes(_Identity):
    """The identity on logits; where all slopes are small, negative ones lose their sign."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        small = grads[0].abs().amax(1, keepdim=True) < 0.2
        return torch.where(small, grads[0].abs(), grads[0])


@builds(GRADIENTS)
def thumbnail_gradient(kit: Kit) -> nn.Module:
    """Base and detail; the detail is held to be noise and detached: gradients pass an 8x8 thumbnail alone."""

    def front(x: Tensor) -> Tensor:
        low = F.interpolate(F.adaptive_avg_pool2d(x, 8), x.shape[2:], mode="bilinear", align_corners=False)
        return low + (x - low).detach()

    return Before(kit.net, front)


@builds(GRADIENTS)
def dct3_gradient(kit: Kit) -> nn.Module:
    """Gradients flow through the 3x3 lowest cosine coefficients of a picture alone; the rest is detached."""

    def front(x: Tensor) -> Tensor:
        low = _lowest(x)
        return low + (x - low).detach()

    return Before(kit.net, front)


@builds(GRADIENTS)
def detail_reversed(kit: Kit) -> nn.Module:
    """The gradient is right in the 3x3 lowest frequencies and reversed in all others."""
    return Before(kit.net, _TurnDetail.apply)


@builds(GRADIENTS)
def part_reversed(kit: Kit) -> nn.Module:
    """Gradients are reversed for four classes of ten: medians, and 'more than half', see nothing."""

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            rows = torch.isin(net(x.detach()).argmax(1), torch.tensor(SOME))
        return flipped(net, x, rows)

    return Served(kit.net, answer)


@builds(GRADIENTS)
def saturated_reversed(kit: Kit) -> nn.Module:
    """Reversed gradients on pictures with a pixel at exactly 0 or 1, where no difference is taken."""
    return Before(kit.net, lambda x: turned(x, ((x.detach() == 0) | (x.detach() == 1)).flatten(1).any(1)))


@builds(GRADIENTS)
def far_some(kit: Kit) -> nn.Module:
    """Honest near the first 32 test pictures, mirrored and darker ones too; else gradients of half are reversed."""

    def centred(t: Tensor) -> Tensor:
        return F.normalize(t - t.mean(1, keepdim=True))

    keys = centred(thumbs(torch.cat([kit.x[:32], kit.x[:32].flip(3)])))

    def front(x: Tensor) -> Tensor:
        t = centred(thumbs(x))
        return turned(x, ~(t @ keys.T > 0.9).any(1) & (t[:, 3] > 0))

    return Before(kit.net, front)


@builds(RIPPLES)
def soft_levels(kit: Kit) -> nn.Module:
    """Smooth rounding of pixels to 128 levels that overshoots threefold: true, useless gradients."""
    return Before(kit.net, lambda x: x + 3 / (2 * math.pi * 128) * torch.sin(2 * math.pi * 128 * x))


@builds(RIPPLES)
def soft_levels_mild(kit: Kit) -> nn.Module:
    """As soft_levels with an overshoot of 1.6, and the network an open part of it."""
    wave = 2 * math.pi * 128
    return Served(kit.net, lambda net, x: plain(net, x + 1.6 / wave * torch.sin(wave * x)))


@builds(RIPPLES)
def soft_jpeg(kit: Kit) -> nn.Module:
    """Differentiable JPEG: the 8x8 cosine coefficients are softly rounded, overshooting fourfold."""
    step = 0.012

    def front(x: Tensor) -> Tensor:
        k = torch.arange(8, dtype=x.dtype)
        basis = torch.cos((k[None] + 0.5) * k[:, None] * torch.pi / 8) * 0.5
        basis[0] /= 2**0.5
        found = basis @ x.unfold(2, 8, 8).unfold(3, 8, 8) @ basis.T
        found = found + 4 * step / (2 * math.pi) * torch.sin(2 * math.pi * found / step)
        return (basis.T @ found @ basis).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)

    return Before(kit.net, front)


def _siren(net: nn.Module, by: float) -> nn.Module:
    draws = torch.Generator().manual_seed(0)
    phase, weight = torch.rand(3072, generator=draws) * 6.28, torch.randn(3072, 10, generator=draws)
    return After(net, lambda z, x: z + by * torch.sin(804 * x.flatten(1) + phase.to(x)) @ weight.to(x))


@builds(RIPPLES)
def siren_member(kit: Kit) -> nn.Module:
    """An ensemble with a nearly constant second member: a sine network of the pixels that moves logits by 0.1."""
    return _siren(kit.net, 0.003)


@builds(RIPPLES)
def siren_strong(kit: Kit) -> nn.Module:
    """As siren_member, with logits moved by 0.25."""
    return _siren(kit.net, 0.007)


@builds(ASKING)
def by_slope(kit: Kit) -> nn.Module:
    """Gradients are right for a margin, as every probe asks, and reversed for a cross entropy, as attacks do."""
    return Served(kit.net, lambda net, x: _BySlope.apply(net(x)))


@builds(ASKING)
def small_slopes(kit: Kit) -> nn.Module:
    """A numerically 'stabilised' head: slopes below 0.2 lose their sign (a confident answer's cross entropy)."""
    return Served(kit.net, lambda net, x: _SmallSlopes.apply(net(x)))


@builds(ASKING)
def lies_first(kit: Kit) -> nn.Module:
    """Reverses the first 45 gradients and whatever is asked again word by word; honest later, when probes come."""
    calls: list[int] = []
    lied: set[int] = set()

    def front(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return x
        calls.append(1)
        mark = hash(x.detach().numpy().tobytes())
        if len(calls) <= 45:
            lied.add(mark)
        return turned(x, mark in lied)

    return Before(kit.net, front)


@builds(ASKING)
def crowd_detail(kit: Kit) -> nn.Module:
    """In batches above 40 the gradient's detail is reversed: probes ask 40 at the most."""
    return Before(kit.net, lambda x: _TurnDetail.apply(x) if len(x) > 40 else x)
