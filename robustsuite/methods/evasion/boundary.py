"""Walking along a decision boundary by labels alone: normals from few frequencies, searches on a circle and a chord.

The parts CGBA is made of (Reza, Rahmati, Wu, Dai, 2023, arXiv 2308.03163). All examples advance together; `rows` says
which example a point belongs to, and every question goes through `Decisions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.maths import projections
from robustsuite.maths.frequencies import cosines
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import Decisions, merged

CHUNK = 32
"""Probes of one example that are drawn at a time: a fixed number, so that sums do not depend on the batch."""

ALIGNED = 4
"""Values a row in a product of many matrices: where theirs do not begin at a multiple of it, sums are made in another
order when a matrix stands beside others (measured on a CPU: at odd widths, by one unit in the last place)."""

COARSE, FINE = 40, 100
"""The most steps of a search outward, and of a bisection."""

Point = Callable[[Tensor, Tensor], Tensor]
"""(i (K,) among the rows, place (K,)) -> pictures (K, C, H, W) at that place of a path."""


class Band(NamedTuple):
    """The lowest frequencies of a picture: bases (h, H) and (w, W); f times fewer than pixels along each side.

    W: the width, made up to a multiple of ALIGNED by columns of 0.
    """

    down: Tensor
    along: Tensor
    width: int

    @classmethod
    def of(cls, like: Tensor, f: int) -> Band:
        """For pictures (N, C, H, W); where f does not divide a side the share is rounded down, to at least one."""
        sides = [cosines(max(1, n // f), n).to(like) for n in like.shape[2:]]
        width = like.shape[3]
        return cls(sides[0], functional.pad(sides[1], (0, -width % ALIGNED)), width)

    def picture(self, z: Tensor) -> Tensor:
        """The inverse transform of coefficients (..., h, w), the others being 0: (..., H, W)."""
        wide = self.down.T @ (z @ self.along)
        return wide if wide.shape[-1] == self.width else wide[..., : self.width].contiguous()

    def coefficients(self, x: Tensor) -> Tensor:
        """Of pictures (..., H, W), the band's: (..., h, w)."""
        return self.down @ (functional.pad(x, (0, self.along.shape[1] - self.width)) @ self.along.T)


def normal(ask: Decisions, rows: Tensor, at: Tensor, band: Band, *, sigma: float, probes: Tensor, rng: Rng) -> Tensor:
    """The boundary's normal at points (M, C, H, W), toward the goal's side: (1/q) sum s_i u_i, from q (M,) probes.

    u_i: Gaussian in the band, s_i: +1 if at + sigma u_i got there, else -1. Not scaled to length 1.
    """
    c, (h, w) = at.shape[1], (len(band.down), len(band.along))
    total = at.new_zeros(len(rows), 1, c * h * w)
    for block in torch.arange(len(rows), device=at.device).split(max(1, ask.model.width // CHUNK)):
        for j in range(-(-int(probes[block].max()) // CHUNK)):
            z = rng[block].fold(j).normal(CHUNK, c, h, w)
            i, k = (j * CHUNK + torch.arange(CHUNK, device=at.device) < probes[block][:, None]).nonzero(as_tuple=True)
            points = band.picture(z)[i, k].mul_(sigma).add_(at[block][i]).clamp_(0, 1)
            s = at.new_zeros(len(block), CHUNK)
            s[i, k] = torch.where(ask(rows[block][i], points), 1.0, -1.0)
            total[block] += _weighted(s, z.flatten(2))
    mean = total[:, 0] / probes[:, None].clamp_min(1)
    return band.picture(mean.view(-1, c, h, w))


def _weighted(s: Tensor, z: Tensor) -> Tensor:
    """Sums (M, 1, D) of z (M, K, D) weighted by s (M, K), the same bits whatever stands beside a row."""
    d = z.shape[2]
    return torch.bmm(s[:, None], functional.pad(z, (0, -d % ALIGNED)) if d % ALIGNED else z)[:, :, :d]


class Circle(NamedTuple):
    """The half circle with diameter x_s x_b that leaves x_b toward eta: x_s + R cos(a) (cos(a) v + sin(a) w)."""

    source: Tensor
    v: Tensor
    w: Tensor
    radius: Tensor

    @classmethod
    def through(cls, source: Tensor, boundary: Tensor, eta: Tensor) -> tuple[Circle, Tensor]:
        """The circle in the plane of v = x_b - x_s and eta (N, C, H, W); and the angle (N,) between these."""
        delta = boundary - source
        v, n = projections.unit(delta, "l2"), projections.unit(eta, "l2")
        dot = (v * n).flatten(1).sum(1)
        theta = torch.acos(dot.double().clamp(-1, 1))
        return cls(source, v, projections.unit(n - per_row(dot, n) * v, "l2"), _length(delta)), theta

    def at(self, i: Tensor, angle: Tensor) -> Tensor:
        """Points (K, C, H, W) of the circles i (K,), at angles (K,) float64 from v, clipped to the box."""
        along, across = angle.cos().square(), angle.cos() * angle.sin()
        along, across = ((self.radius[i] * part).float() for part in (along, across))
        point = self.source[i] + per_row(along, self.v) * self.v[i] + per_row(across, self.w) * self.w[i]
        return point.clamp(0, 1)


def semicircle(ask: Decisions, rows: Tensor, circle: Circle, tol: float) -> tuple[Tensor, Tensor]:
    """CGBA: along the circle until the goal's side ends, then bisection; pictures (M, C, H, W), and moved (M,).

    Angles 90 (1 - 2^-k): the further, the nearer to the source. Where nothing holds it has not moved.
    """
    good = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    bad, going = good + math.pi / 2, torch.ones_like(rows, dtype=torch.bool)
    for k in range(1, COARSE + 1):
        i = (going & (ask.left(rows) > 0)).nonzero().flatten()
        if not len(i):
            break
        angle = torch.full_like(good[i], math.pi / 2 * (1 - 2.0**-k))
        yes = ask(rows[i], circle.at(i, angle))
        good[i], bad[i] = torch.where(yes, angle, good[i]), torch.where(yes, bad[i], angle)
        going[i] = yes
    good = bisect(ask, rows, circle.at, good, bad, lambda a, b: circle.radius * (b - a).sin(), tol)
    at, held = settle(ask, rows, circle.at, good, torch.zeros_like(good))
    return at, held & (good > 0)


def chord(ask: Decisions, rows: Tensor, circle: Circle, theta: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """CGBA-H: back from half the angle theta (M,) to the goal's side, then straight to the source by bisection.

    Angles theta 2^-k, for boundaries of high curvature. Returns pictures (M, C, H, W), and moved (M,).
    """
    end = torch.zeros_like(theta)
    found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for k in range(1, COARSE + 1):
        i = (~found & (ask.left(rows) > 0)).nonzero().flatten()
        if not len(i):
            break
        angle = theta[i] * 2.0**-k
        found[i] = ask(rows[i], circle.at(i, angle))
        end[i] = angle
    j = found.nonzero().flatten()
    at = circle.at(torch.arange(len(rows), device=rows.device), end)
    at[j], found[j] = segment(ask, rows[j], circle.source[j], at[j], tol)
    return at, found


def segment(ask: Decisions, rows: Tensor, source: Tensor, end: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """From an adversarial `end` (M, C, H, W) straight toward the source: the last point that holds, and whether."""
    length = _length(end - source)

    def at(i: Tensor, part: Tensor) -> Tensor:
        return merged(end[i], source[i] + per_row(part.float(), end) * (end[i] - source[i]), part < 1)

    good = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    good = bisect(ask, rows, at, good, torch.zeros_like(good), lambda a, b: (a - b) * length, tol)
    return settle(ask, rows, at, good, torch.ones_like(good))


def bisect(
    ask: Decisions, rows: Tensor, at: Point, good: Tensor, bad: Tensor, gap: Callable[[Tensor, Tensor], Tensor],
    tol: float,
) -> Tensor:  # fmt: skip
    """The place (M,) float64 that is adversarial and less than `tol` from one that is not, between good and bad."""
    for _ in range(FINE):
        i = ((gap(good, bad) >= tol) & (ask.left(rows) > 0)).nonzero().flatten()
        if not len(i):
            break
        middle = (good[i] + bad[i]) / 2
        yes = ask(rows[i], at(i, middle))
        good, bad = good.clone(), bad.clone()
        good[i], bad[i] = torch.where(yes, middle, good[i]), torch.where(yes, bad[i], middle)
    return good


def settle(ask: Decisions, rows: Tensor, at: Point, good: Tensor, safe: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (M, C, H, W) at `good`, and whether they hold; a random system is asked again, halfway to `safe` too."""
    everyone = torch.arange(len(rows), device=rows.device)
    held = ask.confirm(rows, at(everyone, good))
    if not ask.noisy:
        return at(everyone, good), held
    i = (~held).nonzero().flatten()
    good = good.clone()
    good[i] = (good[i] + safe[i]) / 2
    held[i] = ask.confirm(rows[i], at(i, good[i]))
    return at(everyone, good), held


def _length(delta: Tensor) -> Tensor:
    """l2 (N,) of pictures in float64: places on a path are computed in it, whatever stands beside them."""
    return projections.norm(delta.flatten(1).double(), "l2")
