"""CGBA and CGBA-H: the nearest adversarial by labels alone (Reza, Rahmati, Wu, Dai, 2023, arXiv 2308.03163).

From a boundary point x_b: estimate the normal eta from int(N0 sqrt(t)) noisy copies, then search the boundary on the
half circle over x_s x_b in the plane of eta (section 3). CGBA walks it toward the source until the goal's side ends;
CGBA-H, for the curved boundaries of targeted attacks, comes back from eta's side and goes straight to the source.
"""

from __future__ import annotations

import math
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.boundary import Band, Circle, chord, normal, segment, semicircle
from robustsuite.methods.evasion.decisions import VOTES, Decisions, merged, noise_start, picture_start
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

PAPER = "Reza, Rahmati, Wu, Dai, 2023, arXiv:2308.03163"
RESERVE = 12
"""Queries the last estimate leaves to the search after it."""

LEAST = {"queries": 5000}
"""By then the median distances of the paper's tables have levelled off."""

DIFFERS = (
    "sigma and tol are in pixel units, 3e-3 and 2e-3, where the authors' code has 2e-4 and 1e-4 of normalised ones",
    "every picture asked about is clipped to the box, where the authors' code clips some",
    "the last estimate takes what the budget of queries still holds",
    "what is returned stands a thousandth further out than the nearest found, as rounding decides on the boundary",
    "where the system draws noise, a boundary point must hold in 8 of 10 answers before it replaces the last one",
)


class Settings(NamedTuple):
    """sigma: the probes' noise; tol: where bisections end, in l2; n0: probes of the first estimate; f: band."""

    sigma: float
    tol: float
    n0: int
    f: int


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.LABELS,
    norms=("l2",),
    paper=PAPER,
    cost=_cost,
    family=("decision",),
    **BLACK_BOX,
    least=LEAST,
    minimum_norm=True,
    differs=(
        *DIFFERS,
        "bisection starts at the last angle that held, where the authors' code starts at x_b",
        "every third try for a start is noise of 4 x 4 patches, at most 100 tries",
    ),
)
def cgba(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, queries: int = 10000, sigma: float = 3e-3,
    tol: float = 2e-3, n0: int = 30, f: int = 0,
) -> evasion.Found:  # fmt: skip
    """Nearest adversarial of any wrong class, labels alone, by search on half circles.

    x (N, C, H, W) in [0, 1], y (N,). queries: the most an image, fewer where the threat leaves fewer. f: keep one
    frequency in f along each side, 0: by size (4 from 96 pixels on, 2 from 16). Columns: l2_at_<queries>, logical.
    Raises BadValue.
    """
    ask = Decisions(model, x, y, targeted=False, queries=queries)
    settings = _checked(x, sigma, tol, n0, f)
    for rows in torch.arange(len(x), device=x.device).split(model.width):
        at, found = noise_start(ask, rows, rng[rows].fold("start"))
        walk(ask, rows[found], at[found], rng[rows[found]], settings, straight=False)
    return evasion.Found(ask.finish(), ask.columns())


@evasion.attack(
    needs=Access.LABELS | Access.AUX_DATA,
    norms=("l2",),
    goals=("targeted",),
    paper=PAPER,
    cost=_cost,
    family=("decision",),
    **BLACK_BOX,
    least=LEAST,
    minimum_norm=True,
    differs=(
        *DIFFERS,
        "the start is the nearest of 32 pictures of the target class, where the paper takes a given one",
    ),
)
def cgba_h(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor, aux: Aux, queries: int = 10000,
    sigma: float = 3e-3, tol: float = 2e-3, n0: int = 30, f: int = 0, path: str = "chord",
) -> evasion.Found:  # fmt: skip
    """Nearest adversarial of one class, labels alone, from a picture of that class.

    x (N, C, H, W) in [0, 1], targets (N, 1). path: chord is CGBA-H; semicircle searches as CGBA does, which came nearer
    by 4 % on small pictures and ends more than twice as far on ImageNet's. Other parameters and columns as cgba's; an
    image whose target no picture shows comes back as it is. Raises BadValue.
    """
    if path not in ("chord", "semicircle"):
        raise BadValue(f"expected path chord or semicircle, got {path!r}; chord is CGBA-H")
    ask = Decisions(model, x, targets[:, 0], targeted=True, queries=queries)
    settings = _checked(x, sigma, tol, n0, f)
    for rows in torch.arange(len(x), device=x.device).split(model.width):
        at, found = picture_start(ask, rows, aux.pictures)
        walk(ask, rows[found], at[found], rng[rows[found]], settings, straight=path == "chord")
    return evasion.Found(ask.finish(), ask.columns())


def _checked(x: Tensor, sigma: float, tol: float, n0: int, f: int) -> Settings:
    if not (sigma > 0 and tol > 0 and n0 >= 1 and f >= 0):
        given = f"sigma={sigma!r}, tol={tol!r}, n0={n0!r}, f={f!r}"
        raise BadValue(f"expected sigma > 0, tol > 0, n0 >= 1 and f >= 0, got {given}; leave them out for the defaults")
    side = min(x.shape[2:])
    return Settings(sigma, tol, n0, f or (1 if side < 16 else 2 if side < 96 else 4))


def walk(ask: Decisions, rows: Tensor, at: Tensor, rng: Rng, settings: Settings, *, straight: bool) -> None:
    """From adversarial pictures `at` (M, C, H, W) of the examples `rows` (M,) until their queries are spent.

    straight: search the chord, as CGBA-H does, else the half circle.
    """
    band, source = Band.of(ask.x, settings.f), ask.x[rows]
    reserve = RESERVE + (2 * VOTES if ask.noisy else 0)
    near, held = segment(ask, rows, source, at, settings.tol)
    at = merged(at, near, held)
    for t in count(1):
        i = (ask.left(rows) > reserve).nonzero().flatten()
        if not len(i):
            return
        rows, source, at, rng = rows[i], source[i], at[i], rng[i]
        probes = (ask.left(rows) - reserve).clamp(max=int(settings.n0 * math.sqrt(t)))
        eta = normal(ask, rows, at, band, sigma=settings.sigma, probes=probes, rng=rng.fold(t))
        circle, theta = Circle.through(source, at, eta)
        if straight:
            new, moved = chord(ask, rows, circle, theta, settings.tol)
        else:
            new, moved = semicircle(ask, rows, circle, settings.tol)
        at = merged(at, new, moved)
