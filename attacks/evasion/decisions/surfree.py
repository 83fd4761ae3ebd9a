"""SurFree: the nearest adversarial in l2 by labels alone, without a gradient (Maho et al., 2021, arXiv 2011.12807).

On a plane boundary the nearest point of the plane of u = x_b - x_s and any v across it lies on the circle over x_s x_b.
Draw v among low frequencies, orthogonal to u and to the last directions; ask at the angles theta and -theta on the
circle. Where one is adversarial go on along it to the boundary and widen theta; where none is, narrow it: a direction
that gains nothing costs two queries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.boundary import Band, Circle, bisect, segment, settle
from robustsuite.methods.evasion.decisions import VOTES, Decisions, merged, noise_start
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle

BYTES = 1 << 29
"""What the last directions of the examples in flight may take together."""

WIDEST = math.radians(30)
"""The first theta."""

QUARTER = math.pi / 2
"""Where the circle ends, in the source."""


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.LABELS,
    norms=("l2",),
    paper="Maho, Furon, Le Merrer, 2021, arXiv:2011.12807",
    cost=_cost,
    family=("decision",),
    **BLACK_BOX,
    least={"queries": 5000},  # from 2500 to 5000 the median distance still falls by a fifth
    minimum_norm=True,
    differs=(
        "v is orthogonal to where x_b stands now; in the authors' code to where it stood at the start, and to the last "
        "directions, which is no longer the same once one of them is forgotten",
        "coefficients of the drawn frequencies are -1, 0 or 1, as in the code's example; its default scales them by "
        "the picture's own",
        "bisection stays on the side of the circle that was found first; the authors' code asks the other as well",
        "every third try for a start is noise of 4 x 4 patches, at most 100 tries",
        "what is returned stands a thousandth further out than the nearest found, as rounding decides on the boundary",
        "where the system draws noise, a boundary point must hold in 8 of 10 answers before it replaces the last one",
    ),
)
def surfree(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, queries: int = 10000, rho: float = 0.98,
    gamma: float = 0.01, history: int = 100, tol: float = 2e-3,
) -> evasion.Found:  # fmt: skip
    """Nearest adversarial of any wrong class, labels alone, by random directions and half circles.

    x (N, C, H, W) in [0, 1], y (N,). queries: the most an image, fewer where the threat leaves fewer. rho: theta's
    factor after a failure, and its inverse after a success. gamma: where bisections on the circle end, as a share of
    the distance. history: how many directions the next is orthogonal to. tol: where the first bisection ends, in l2.
    Columns: l2_at_<queries>, logical. Raises BadValue.
    """
    if not (0 < rho < 1 and gamma > 0 and history >= 1 and tol > 0):
        given = f"rho={rho!r}, gamma={gamma!r}, history={history!r}, tol={tol!r}"
        raise BadValue(f"expected 0 < rho < 1, gamma > 0, history >= 1 and tol > 0, got {given}; leave them out")
    settings = Settings(rho, gamma, history, tol)
    ask, basis = Decisions(model, x, y, targeted=False, queries=queries), Basis.of(x)
    at_once = max(1, min(model.width, BYTES // (4 * history * x.shape[1] * int(basis.kept.sum()))))
    for rows in torch.arange(len(x), device=x.device).split(at_once):
        at, found = noise_start(ask, rows, rng[rows].fold("start"))
        _walk(ask, rows[found], at[found], rng[rows[found]], basis, settings)
    return evasion.Found(ask.finish(), ask.columns())


class Settings(NamedTuple):
    """As surfree's parameters."""

    rho: float
    gamma: float
    history: int
    tol: float


class Basis(NamedTuple):
    """The lower half of a picture's frequencies: i / H + j / W < 1; kept (H, W) bool."""

    band: Band
    kept: Tensor

    @classmethod
    def of(cls, like: Tensor) -> Basis:
        """For pictures (N, C, H, W)."""
        h, w = like.shape[2:]
        i, j = torch.arange(h, device=like.device)[:, None], torch.arange(w, device=like.device)
        return cls(Band.of(like, 1), i * w + j * h < h * w)

    def picture(self, z: Tensor) -> Tensor:
        """The inverse transform of coefficients (M, C, K) of the kept frequencies: (M, C, H, W)."""
        whole = z.new_zeros(*z.shape[:2], *self.kept.shape)
        whole[:, :, self.kept] = z
        return self.band.picture(whole)

    def coefficients(self, x: Tensor) -> Tensor:
        """The kept coefficients (M, C, K) of pictures (M, C, H, W)."""
        return self.band.coefficients(x)[:, :, self.kept]


def _walk(ask: Decisions, rows: Tensor, at: Tensor, rng: Rng, basis: Basis, settings: Settings) -> None:
    """From adversarial pictures `at` (M, C, H, W) of the examples `rows` until their queries are spent."""
    source, reserve = ask.x[rows], 2 * VOTES if ask.noisy else 0
    near, held = segment(ask, rows, source, at, settings.tol)
    at, size = merged(at, near, held), at.shape[1] * int(basis.kept.sum())
    past = at.new_zeros(len(rows), settings.history, size)
    theta = torch.full((len(rows),), WIDEST, dtype=torch.float64, device=at.device)
    t = 0
    while len(i := (ask.left(rows) > reserve).nonzero().flatten()):
        if len(i) < len(rows):
            rows, source, at, rng, past, theta = rows[i], source[i], at[i], rng[i], past[i], theta[i]
        v = _direction(basis, past, at - source, rng.fold(t))
        past[:, t % settings.history] = v
        circle, _ = Circle.through(source, at, basis.picture(v.view(len(v), at.shape[1], -1)))
        new, moved, found = _along(ask, rows, circle, theta, settings.gamma)
        theta = torch.where(found, theta / settings.rho, theta * settings.rho).clamp(max=QUARTER)
        at, t = merged(at, new, moved), t + 1


def _direction(basis: Basis, past: Tensor, delta: Tensor, rng: Rng) -> Tensor:
    """Unit coefficients (M, D) drawn from -1, 0 and 1, orthogonal to the past ones (M, L, D) and to `delta`."""
    v = (rng.integers(3, past.shape[2]) - 1).to(past)
    u = basis.coefficients(delta).flatten(1)
    v, u = _without(past, v), projections.unit(_without(past, u), "l2")
    return projections.unit(v - (v * u).sum(1, keepdim=True) * u, "l2")


def _without(past: Tensor, z: Tensor) -> Tensor:
    """What of z (M, D) is orthogonal to orthonormal rows (M, L, D); zero rows take nothing."""
    parts = torch.bmm(z[:, None], past.mT)[:, 0]
    return z - (parts[:, :, None] * past).sum(1)  # bmm of a single example would round otherwise than of several


def _along(ask: Decisions, rows: Tensor, circle: Circle, theta: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Either way along the circles, to the boundary: pictures (M, C, H, W), moved (M,) and found (M,).

    theta (M,) float64, in radians: the angles to ask about, and the steps beyond until the goal's side ends.
    """
    side, found = torch.ones_like(theta), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for sign in (1.0, -1.0):
        i = (~found & (ask.left(rows) > 0)).nonzero().flatten()
        side[i] = sign
        found[i] = ask(rows[i], circle.at(i, sign * theta[i]))

    def point(i: Tensor, angle: Tensor) -> Tensor:
        return circle.at(j[i], side[j[i]] * angle)

    j = found.nonzero().flatten()
    good, bad, going = theta[j], theta[j], torch.ones_like(j, dtype=torch.bool)
    while len(k := (going & (ask.left(rows[j]) > 0)).nonzero().flatten()):
        further = bad[k] + theta[j[k]]
        bad[k], k = further.clamp(max=QUARTER), k[further < QUARTER]
        going = torch.zeros_like(going).index_put((k,), ask(rows[j[k]], point(k, bad[k])))
        good = torch.where(going, bad, good)
    good = bisect(ask, rows[j], point, good, bad, lambda a, b: a.cos() - b.cos(), gamma)
    new, moved = circle.at(torch.arange(len(rows), device=rows.device), 0 * theta), found.clone()
    new[j], moved[j] = settle(ask, rows[j], point, good, torch.zeros_like(good))
    return new, moved, found
