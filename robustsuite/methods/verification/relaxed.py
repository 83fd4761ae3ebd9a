"""Linear bounds of a ReLU network under split constraints: CROWN, alpha-CROWN and beta-CROWN, a row a domain.

Backwards from a row c of the outputs, c . h >= A . v + const. Through a ReLU with input in [l, u], l < 0 < u,

    alpha h <= relu(h) <= u (h - l) / (u - l),   any alpha in [0, 1],

the lower line where A > 0 and the upper where A < 0 (CROWN: Zhang et al., 2018, arXiv 1811.00866). A neuron split to
h >= 0 (s = 1) or h <= 0 (s = -1) is h or 0, and for any beta >= 0 the term -beta s h may be added, since s h >= 0 in
that half (beta-CROWN: Wang et al., 2021, arXiv 2103.06624). Any alpha in [0, 1] and beta >= 0 give a sound bound; Adam
looks for the highest (alpha-CROWN: Xu et al., 2021, arXiv 2011.13824).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.methods.verification.pieces import Pieces, ReluNet
from robustsuite.methods.verification.region import Region

LR_ALPHA, LR_BETA, DECAY = 0.25, 0.05, 0.98
"""Adam's steps: a slope passes from 0 to 1 in four."""


class Layer(NamedTuple):
    """One ReLU's input: bounds low, high (n,), and which neurons (U,) are unstable: low < 0 < high."""

    low: Tensor
    high: Tensor
    unstable: Tensor

    @classmethod
    def within(cls, low: Tensor, high: Tensor) -> Layer:
        """NaN bounds leave a neuron unstable between infinite ones, so that they prove nothing."""
        low, high = low.nan_to_num(-torch.inf), high.nan_to_num(torch.inf)
        return cls(low, high, ((low < 0) & (high > 0)).nonzero().flatten())


class Domains(NamedTuple):
    """B parts of one region: alpha, beta >= 0 and sign in {-1, 0, 1}, (B, U) over every unstable neuron in order."""

    alpha: Tensor
    beta: Tensor
    sign: Tensor

    def rows(self, index: Tensor) -> Domains:
        """Those of these rows."""
        return Domains(*(part[index] for part in self))


class Bounded(NamedTuple):
    """bound (B,); slopes: the coefficients (B, n) of each ReLU's output; at (B, C, H, W): where the bound is taken."""

    bound: Tensor
    slopes: list[Tensor]
    at: Tensor


def undivided(layers: Sequence[Layer], n: int, like: Tensor) -> Domains:
    """n times the whole region, with CROWN's slopes: 1 where the upper end is farther from 0."""
    parts = [(layer.high > -layer.low)[layer.unstable].to(like) for layer in layers]
    alpha = torch.cat([like.new_zeros(0), *parts]).expand(n, -1)
    return Domains(alpha, torch.zeros_like(alpha), torch.zeros_like(alpha))


class Lines(NamedTuple):
    """What bounds one ReLU, (B, n): slopes below and above, how far the upper line is from 0 at 0, and beta s."""

    lower: Tensor
    upper: Tensor
    intercept: Tensor
    push: Tensor


def bounded(net: ReluNet, region: Region, layers: Sequence[Layer], domains: Domains, row: Tensor, to: int) -> Bounded:
    """Lower bounds of row . h over each domain: row (B, n) of what the ReLU number `to` reads, or of the logits.

    layers: of the ReLUs before it. Differentiable in alpha and beta.
    """
    lines = lines_of(layers[:to], domains)
    a, constant, slopes = backwards(net.pieces(len(row), region.centre), lines, row)
    return Bounded(constant + region.lowest(a), slopes, region.lowest_at(a.detach()))


def lines_of(layers: Sequence[Layer], domains: Domains) -> list[Lines]:
    """The lines of each ReLU; the domains' columns are those of these layers."""
    sizes = [len(layer.unstable) for layer in layers]
    parts = zip(*(part.split(sizes, 1) for part in domains), strict=True) if layers else ()
    return [_lines(layer, *part) for layer, part in zip(layers, parts, strict=True)]


def backwards(
    pieces: Pieces, lines: Sequence[Lines], row: Tensor, also: tuple[int, Tensor] | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """row . h >= a . x + constant, for row (B, n) of what reads the ReLUs of these lines.

    also: the number of a ReLU and coefficients (B, m) of what it reads, added to row . h.
    Returns a (B, C, H, W), constant (B,), and the coefficients (B, n) of each ReLU's output on the way.
    """
    to, total = len(lines), row.new_zeros(len(row))
    reached: list[Tensor | None] = [None] * (to + 1)
    slopes: list[Tensor] = [row] * to
    further = torch.is_grad_enabled()
    back = row
    for i in range(to, -1, -1):
        if i < to:
            found, line = reached[i + 1], lines[i]
            slopes[i] = a = (torch.zeros_like(pieces.values[i + 1]) if found is None else found).flatten(1)
            total = total + (a.clamp_max(0) * line.intercept).sum(1)
            back = torch.where(a > 0, line.lower, line.upper) * a - line.push
        if also is not None and i == also[0]:
            back = back + also[1]
        out = pieces.before[i]
        total = total + (back * out.flatten(1)).sum(1)
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                out, pieces.values[: i + 1], back.view_as(out), retain_graph=True, create_graph=further,
                allow_unused=True,
            )  # fmt: skip
        for j, found in enumerate(gradients):
            before = reached[j]
            reached[j] = found if before is None else before if found is None else before + found
    a = torch.zeros_like(pieces.values[0]) if reached[0] is None else reached[0]
    return a, total, slopes


def _lines(layer: Layer, alpha: Tensor, beta: Tensor, sign: Tensor) -> Lines:
    """The lines of one ReLU in each domain; alpha, beta and sign (B, U) of its unstable neurons."""
    low, high, at = layer.low, layer.high, layer.unstable
    always = (low >= 0).to(alpha).expand(len(alpha), -1)
    split, active = sign != 0, (sign > 0).to(alpha)
    steep = high[at] / (high[at] - low[at])
    return Lines(
        always.index_copy(1, at, torch.where(split, active, alpha)),
        always.index_copy(1, at, torch.where(split, active, steep)),
        torch.zeros_like(always).index_copy(1, at, torch.where(split, 0.0, -low[at] * steep)),
        torch.zeros_like(always).index_copy(1, at, beta * sign),
    )


def tuned(
    net: ReluNet, region: Region, layers: Sequence[Layer], domains: Domains, row: Tensor, steps: int
) -> tuple[Bounded, Domains]:
    """The highest bounds seen in `steps` of Adam, with the alpha and beta that gave them.

    row (B, n): of what reads the last of these layers: the next ReLU, or the logits after all.
    """
    to = len(layers)
    alpha, beta = domains.alpha.clone().requires_grad_(), domains.beta.clone().requires_grad_()
    adam = torch.optim.Adam([{"params": [alpha], "lr": LR_ALPHA}, {"params": [beta], "lr": LR_BETA}])
    steps = steps if alpha.shape[1] else 0
    best, kept = None, domains
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            found = bounded(net, region, layers, Domains(alpha, beta, domains.sign), row, to)
            total = found.bound.sum()
        with torch.no_grad():
            now = Domains(alpha.detach().clone(), beta.detach().clone(), domains.sign)
            best, kept = (found, now) if best is None else _higher(found, now, best, kept)
            if step < steps:
                alpha.grad, beta.grad = (-g for g in torch.autograd.grad(total, [alpha, beta]))
                adam.step()
                alpha.clamp_(0, 1)
                beta.clamp_(min=0).mul_(domains.sign != 0)
                for group in adam.param_groups:
                    group["lr"] *= DECAY
    assert best is not None
    return Bounded(best.bound.detach(), [a.detach() for a in best.slopes], best.at), kept


def _higher(found: Bounded, now: Domains, best: Bounded, kept: Domains) -> tuple[Bounded, Domains]:
    """Row by row what has the higher bound."""
    better = found.bound > best.bound

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.view(-1, *(1,) * (new.dim() - 1)), new, old)

    slopes = [chosen(new, old) for new, old in zip(found.slopes, best.slopes, strict=True)]
    return (
        Bounded(chosen(found.bound, best.bound), slopes, chosen(found.at, best.at)),
        Domains(*(chosen(new, old) for new, old in zip(now, kept, strict=True))),
    )


def relu_layers(net: ReluNet, region: Region, steps: int, width: int) -> list[Layer]:
    """Bounds of what every ReLU reads, in order, `width` rows at a time: CROWN's, and alpha-CROWN's where unstable."""
    layers: list[Layer] = []
    for shape in net.shapes[1:]:
        n = shape.numel()
        every = torch.arange(n, device=region.centre.device)
        layer = Layer.within(*_ends(net, region, layers, every, n, 0, width))
        if steps and layers and len(layer.unstable):
            low, high = _ends(net, region, layers, layer.unstable, n, steps, width)
            layer.low[layer.unstable] = torch.maximum(layer.low[layer.unstable], low)
            layer.high[layer.unstable] = torch.minimum(layer.high[layer.unstable], high)
            layer = Layer.within(layer.low, layer.high)
        layers.append(layer)
    return layers


def _ends(
    net: ReluNet, region: Region, layers: Sequence[Layer], neurons: Tensor, n: int, steps: int, width: int
) -> Tensor:
    """Lower and upper bounds (2, len(neurons)) of these of the n neurons that read the last of the layers."""
    ends = []
    for some in neurons.split(max(1, width // 2)):
        one = torch.zeros(len(some), n, dtype=region.centre.dtype, device=region.centre.device)
        one[torch.arange(len(some), device=one.device), some] = 1
        rows = torch.cat([one, -one])
        found, _ = tuned(net, region, layers, undivided(layers, len(rows), rows), rows, steps)
        low, minus_high = found.bound.chunk(2)
        ends.append(torch.stack([low, -minus_high]))
    return torch.cat(ends, 1)
