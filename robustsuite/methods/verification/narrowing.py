"""Tighter bounds of what each ReLU reads, of those inputs only where one unsafe case holds.

Where c . z <= b, a neuron's input h is at least h + gamma (c . z - b) for any gamma >= 0, and that sum is bounded from
below through the whole network (output constraints: Kotha et al., 2023, arXiv 2302.01404). The closer the case is to
being excluded, the narrower all bounds become, and the narrower they are, the higher the margin's bound. A neuron whose
lower bound passes its upper one says that the case holds nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustsuite.methods.verification.pieces import ReluNet
from robustsuite.methods.verification.region import Region
from robustsuite.methods.verification.relaxed import (
    DECAY,
    LR_ALPHA,
    Domains,
    Layer,
    backwards,
    lines_of,
    tuned,
    undivided,
)  # fmt: skip

DEPTHS = (1, 1, 1, 2, 2, 1000)
"""How many of the last layers each round goes through: the last have few neurons and gain most."""
START, LR_GAMMA = 1.0, 0.5
"""Of gamma, in units of a neuron's width over what the region takes from the margin."""
CROSSED = 1e-3
"""A lower bound has passed an upper one by this share of the layer's largest bound, else rounding may be all."""


def narrowed(
    net: ReluNet, region: Region, layers: Sequence[Layer], row: Tensor, number: Tensor, steps: int, width: int
) -> list[Layer] | None:
    """Bounds of every ReLU's input wherever row . z <= number, or None if that holds nowhere in the region.

    row (1, K), number (1,), with the doubt of rounding added. steps: of Adam on each bound; width: rows at once.
    """
    found = list(layers)
    with torch.no_grad():
        middle = (net.net(region.centre) * row).sum(1)
    for depth in DEPTHS:
        margin, domains = tuned(net, region, found, undivided(found, 1, row), row, 3 * steps)
        if bool(margin.bound > number):
            return None
        drop = float((middle - margin.bound).clamp_min(1e-30))
        alpha = list(domains.alpha.split([len(layer.unstable) for layer in found], 1))
        for place in reversed(range(max(0, len(found) - depth), len(found))):
            old = found[place]
            new = _narrowed_at(net, region, found, place, alpha, row / drop, number / drop, steps, width)
            if new is None:
                return None
            alpha[place] = alpha[place][:, torch.isin(old.unstable, new.unstable)]
            found[place] = new
    return found


def _narrowed_at(
    net: ReluNet, region: Region, layers: Sequence[Layer], place: int, alpha: Sequence[Tensor], row: Tensor,
    number: Tensor, steps: int, width: int,
) -> Layer | None:  # fmt: skip
    """Those bounds of one layer, None where they exclude each other; row and number in units of the margin's drop."""
    layer = layers[place]
    low, high = layer.low.clone(), layer.high.clone()
    for some in layer.unstable.split(max(1, width // 2)):
        one = torch.zeros(len(some), len(low), dtype=row.dtype, device=row.device)
        one[torch.arange(len(some), device=one.device), some] = 1
        wide = (layer.high - layer.low)[some].repeat(2)[:, None]
        ends = _highest(net, region, layers, place, torch.cat([one, -one]), alpha, wide * row, wide * number, steps)
        under, minus_over = ends.chunk(2)
        low[some] = torch.fmax(low[some], under)
        high[some] = torch.fmin(high[some], -minus_over)
    apart = low - high
    if bool((apart > CROSSED * torch.maximum(layer.low.abs(), layer.high.abs()).amax()).any()):
        return None
    crossed = apart > 0
    return Layer.within(torch.where(crossed, layer.low, low), torch.where(crossed, layer.high, high))


def _highest(
    net: ReluNet, region: Region, layers: Sequence[Layer], place: int, one: Tensor, alpha: Sequence[Tensor],
    row: Tensor, number: Tensor, steps: int,
) -> Tensor:  # fmt: skip
    """The highest lower bounds (B,) of one . h + gamma (row . z - number) that Adam finds; h is what `place` reads."""
    slope = torch.cat(list(alpha), 1).expand(len(one), -1).clone().requires_grad_()
    gamma = torch.full_like(row[:, :1], START).requires_grad_()
    adam = torch.optim.Adam([{"params": [slope], "lr": LR_ALPHA}, {"params": [gamma], "lr": LR_GAMMA}])
    best = torch.full_like(row[:, 0], -torch.inf)
    nothing = torch.zeros_like(slope)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            lines = lines_of(layers, Domains(slope, nothing, nothing))
            a, constant, _ = backwards(net.pieces(len(one), region.centre), lines, gamma * row, (place, one))
            bound = constant + region.lowest(a) - (gamma * number).sum(1)
            total = bound.sum()
        with torch.no_grad():
            best = torch.fmax(best, bound)
            if step < steps:
                slope.grad, gamma.grad = (-g for g in torch.autograd.grad(total, [slope, gamma]))
                adam.step()
                slope.clamp_(0, 1)
                gamma.clamp_(min=0)
                for group in adam.param_groups:
                    group["lr"] *= DECAY
    return best
