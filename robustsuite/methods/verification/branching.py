"""Branch and bound over ReLUs: halve a part that is not proven at one neuron, until all are proven or a point breaks.

Every part of the region is a domain of `relaxed`; its halves have the neuron's input at least, or at most, 0
(beta-CROWN: Wang et al., 2021, arXiv 2103.06624). Which neuron: that of each layer whose relaxation seems to cost most
is tried on both sides by one bound without tuning, and the neuron whose worse half is best is taken (filtered smart
branching: De Palma et al., 2021, arXiv 2104.06718). Each case that the whole region leaves open has a tree of its own,
on bounds of inner neurons that hold where that case does. An attack goes first, and the points where bounds are taken
are tried as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.maths.projections import unit
from robustsuite.methods.verification.narrowing import narrowed
from robustsuite.methods.verification.pieces import ReluNet
from robustsuite.methods.verification.region import Region, Unsafe
from robustsuite.methods.verification.relaxed import Bounded, Domains, Layer, bounded, relu_layers, tuned, undivided

RESTARTS, ATTACK_STEPS = 4, 50
MOST = 20_000
"""ReLUs of a network: what each reads is bounded by two rows of its own through all that lies before it."""


class Limits(NamedTuple):
    """nodes: parts that may be bounded. steps: of Adam on each. width: parts at a time."""

    nodes: int = 2000
    steps: int = 10
    width: int = 64


class Outcome(NamedTuple):
    """What came of a search. point (1, C, H, W): where a case holds, if falsified; bound: the lowest that is open."""

    status: Literal["verified", "falsified", "unknown"]
    nodes: int
    bound: float
    point: Tensor | None = None


def searched(
    net: nn.Module, region: Region, unsafe: Unsafe, limits: Limits, near: Callable[[Tensor], Tensor],
    told: Callable[[int, int], None] | None = None,
) -> Outcome:  # fmt: skip
    """Whether no input of the region has an unsafe output. A bound counts as proof above near(bounds (N,)) -> (N,).

    told: hears, before any split, of the number of cases that were bounded and of those that are open. Raises
    Unsupported for a network that is not affine between its ReLUs.
    """
    cut = ReluNet(net, region.centre)
    relus = sum(shape.numel() for shape in cut.shapes[1:])
    if relus > MOST:
        raise Unsupported(f"expected at most {MOST} ReLUs for branch and bound, got {relus}; certify it by lirpa")
    found = attacked(net, region, unsafe)
    if found is not None:
        return Outcome("falsified", 0, -torch.inf, found)
    layers = relu_layers(cut, region, limits.steps, 4 * limits.width)
    tree = Tree(cut, region, layers, *_rows(cut, region, layers, unsafe), limits, near)
    return tree.narrowed(unsafe, told)


def _rows(cut: ReluNet, region: Region, layers: Sequence[Layer], unsafe: Unsafe) -> tuple[Tensor, Tensor]:
    """Of each case the row (D, K) with the highest bound and its number b (D,): one that cannot hold is enough."""
    d, r, k = unsafe.a.shape
    every = unsafe.a.reshape(d * r, k)
    with torch.no_grad():
        bounds = bounded(cut, region, layers, undivided(layers, d * r, every), every, len(layers)).bound
    best = (bounds.view(d, r) - unsafe.b).argmax(1)
    at = torch.arange(d, device=best.device)
    return unsafe.a[at, best], unsafe.b[at, best]


class Open(NamedTuple):
    """Parts not proven yet. case (B,): which row; slopes (B, U): coefficients of the unstable neurons' outputs."""

    domains: Domains
    case: Tensor
    bound: Tensor
    slopes: Tensor

    def rows(self, index: Tensor) -> Open:
        """Those of these rows."""
        return Open(self.domains.rows(index), self.case[index], self.bound[index], self.slopes[index])

    def and_(self, other: Open) -> Open:
        """Both."""
        domains = Domains(*(torch.cat(pair) for pair in zip(self.domains, other.domains, strict=True)))
        return Open(domains, *(torch.cat(pair) for pair in zip(self[1:], other[1:], strict=True)))


class Tree(NamedTuple):
    """A search: the network, where, bounds of its ReLUs, one row c and number b a case, limits, and what is near."""

    cut: ReluNet
    region: Region
    layers: list[Layer]
    c: Tensor
    b: Tensor
    limits: Limits
    near: Callable[[Tensor], Tensor]

    def started(self) -> tuple[Open, Tensor]:
        """The whole region, a part a case, as `closed` leaves it."""
        cases = torch.arange(len(self.c), device=self.c.device)
        start = undivided(self.layers, len(cases), self.c)
        return self.closed(start, cases, self.c.new_full(cases.shape, -torch.inf), 3 * self.limits.steps)

    def narrowed(self, unsafe: Unsafe, told: Callable[[int, int], None] | None) -> Outcome:
        """Grow a tree a case that the whole region leaves open, on bounds of its own, the farthest from proof first."""
        todo, at = self.started()
        nodes, lowest = len(self.c), float(todo.bound.min()) if len(todo.case) else torch.inf
        point = broken(self.cut.net, self.region, unsafe, at)
        if point is not None:
            return Outcome("falsified", nodes, -torch.inf, point)
        if told:
            told(nodes, len(todo.case))
        for k in todo.bound.argsort(stable=True).tolist():
            left = self.limits.nodes - nodes
            if left < 2:
                return Outcome("unknown", nodes, lowest)
            row, number = self.c[todo.case[k]][None], self.b[todo.case[k]][None]
            doubt = self.near(todo.bound[k : k + 1]).to(number)
            wide = 4 * self.limits.width
            layers = narrowed(self.cut, self.region, self.layers, row, number + doubt, self.limits.steps, wide)
            if layers is not None:
                mine = self._replace(layers=layers, c=row, b=number, limits=self.limits._replace(nodes=left))
                found = mine.grown(unsafe)
                nodes += found.nodes
                if found.status != "verified":
                    return found._replace(nodes=nodes)
        return Outcome("verified", nodes, torch.inf)

    def grown(self, unsafe: Unsafe) -> Outcome:
        """Grow it until nothing is open, a point breaks, or the limit is reached."""
        todo, at = self.started()
        nodes, stuck = len(self.c), False
        while True:
            point = broken(self.cut.net, self.region, unsafe, at)
            if point is not None:
                return Outcome("falsified", nodes, -torch.inf, point)
            whole = (todo.domains.sign != 0).all(1)  # nothing is left to split: the tuning did not get there
            stuck = stuck or bool(whole.any())
            lowest = float(todo.bound.min()) if len(todo.case) else torch.inf
            if not len(todo.case):
                return Outcome("verified", nodes, lowest)
            if stuck or nodes + 2 > self.limits.nodes:
                return Outcome("unknown", nodes, lowest)
            room = min(self.limits.width, (self.limits.nodes - nodes) // 2)
            order = todo.bound.argsort(stable=True)
            taken, rest = todo.rows(order[:room]), todo.rows(order[room:])
            fresh, at = self.closed(self.halved(taken), taken.case.repeat(2), taken.bound.repeat(2), self.limits.steps)
            nodes += 2 * len(taken.case)
            todo = rest.and_(fresh)

    def closed(self, domains: Domains, case: Tensor, least: Tensor, steps: int) -> tuple[Open, Tensor]:
        """Bound these parts; those that stay open, and the points where their bounds are taken.

        least (B,): what is known already, of a half its whole's bound.
        """
        found, domains = tuned(self.cut, self.region, self.layers, domains, self.c[case], steps)
        bound = torch.fmax(found.bound - self.b[case], least)
        left = (~(bound > self.near(bound))).nonzero().flatten()
        slopes = self.unstable(found)
        return Open(domains, case, bound.nan_to_num(-torch.inf), slopes).rows(left), found.at[left]

    def unstable(self, found: Bounded) -> Tensor:
        """The coefficients (B, U) of the unstable neurons' outputs."""
        parts = [a[:, layer.unstable] for a, layer in zip(found.slopes, self.layers, strict=True)]
        return torch.cat([found.bound.new_zeros(len(found.bound), 0), *parts], 1)

    def halved(self, parts: Open) -> Domains:
        """Both halves (2 B) of each part at its best neuron: all those with h >= 0, then all with h <= 0."""
        candidates = self.candidates(parts)
        n, k = candidates.shape
        again = torch.arange(n, device=candidates.device).repeat_interleave(k)
        tried = _both(parts.domains.rows(again), candidates.flatten())
        case = parts.case[again].repeat(2)
        with torch.no_grad():
            bound = bounded(self.cut, self.region, self.layers, tried, self.c[case], len(self.layers)).bound
        worse = torch.minimum(*bound.nan_to_num(-torch.inf).chunk(2)).view(n, k)
        chosen = candidates.gather(1, worse.argmax(1, keepdim=True)).flatten()
        return _both(parts.domains, chosen)

    def candidates(self, parts: Open) -> Tensor:
        """Of each layer the neuron (B, L) whose relaxation costs most: |a| times how far its upper line leaves 0 at 0.

        A layer without a neuron left to split hands over the costliest of all instead.
        """
        low = torch.cat([layer.low[layer.unstable] for layer in self.layers])
        high = torch.cat([layer.high[layer.unstable] for layer in self.layers])
        cost = parts.slopes.abs() * (-low * high / (high - low))
        cost = torch.where(parts.domains.sign == 0, cost, -1.0)
        best = cost.argmax(1)
        found, start = [], 0
        for layer in self.layers:
            size = len(layer.unstable)
            if size:
                most, where = cost[:, start : start + size].max(1)
                found.append(torch.where(most < 0, best, where + start))
            start += size
        return torch.stack(found, 1)


def _both(domains: Domains, neuron: Tensor) -> Domains:
    """These domains (B) halved at a neuron each: (2 B), first where it is on, then where it is off."""
    halves = []
    for side in (1.0, -1.0):
        sign = domains.sign.scatter(1, neuron[:, None], side)
        halves.append(Domains(domains.alpha, domains.beta, sign))
    return Domains(*(torch.cat(pair) for pair in zip(*halves, strict=True)))


def broken(net: nn.Module, region: Region, unsafe: Unsafe, x: Tensor) -> Tensor | None:
    """The point (1, C, H, W) among these of the region that is deepest in a case, if one is."""
    if not len(x):
        return None
    x = region.inside(x)
    with torch.no_grad():
        gap = unsafe.gap(net(x))
    worst = int(gap.nan_to_num(torch.inf).argmin())
    return x[worst : worst + 1] if gap[worst] <= 0 else None


def attacked(net: nn.Module, region: Region, unsafe: Unsafe) -> Tensor | None:
    """Projected gradient descent on how far each case is from holding, all cases and restarts at once."""
    d = len(unsafe.a)
    draws = torch.Generator().manual_seed(0)
    start = torch.rand(RESTARTS, *region.centre.shape[1:], generator=draws).to(region.centre) * 2 - 1
    start[0] = 0
    if region.norm == "l2":
        start = unit(start, "l2")
    x = region.inside((region.centre + region.reach * start).repeat(d, 1, 1, 1))
    case = torch.arange(d, device=x.device).repeat_interleave(RESTARTS)
    found = broken(net, region, unsafe, x)
    for step in range(ATTACK_STEPS):
        if found is not None:
            return found
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            rows = torch.einsum("nrk,nk->nr", unsafe.a[case], net(leaf)) - unsafe.b[case]
            (g,) = torch.autograd.grad(rows.amax(1).sum(), leaf)
        g = unit(g, "l2") if region.norm == "l2" else g.sign()
        x = region.inside(x - (0.5 * (1 - step / ATTACK_STEPS) + 0.02) * region.reach * g)
        found = broken(net, region, unsafe, x)
    return found
