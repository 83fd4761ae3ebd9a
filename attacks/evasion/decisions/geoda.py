"""GeoDA: the nearest adversarial by labels alone in l2, linf or l1 (Rahmati et al., 2020, arXiv 2003.06468).

Near the picture the boundary is taken for a plane. Estimate its normal from noisy copies of a boundary point (eq. 8),
go from the picture along the direction that leaves a half space soonest in the norm at hand (eq. 6), to where the class
ends; from there once more. Estimates get lambda^(-2/3) times as many queries each time (theorem 2).
"""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.boundary import Band, bisect, normal, segment, settle
from robustsuite.methods.evasion.decisions import VOTES, Decisions, merged, noise_start
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle

LAMBDA = 0.6
"""The rate at which the paper's iterations converge; the code calls it mu."""

FIRST, SEARCH = 80, 25
"""The most queries of the first estimate, and what a search from the picture to the boundary is reckoned at."""

DOUBLINGS = 10
"""How often the distance of the plane is doubled where the class does not end there."""


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.LABELS,
    norms=("l2", "linf", "l1"),
    paper="Rahmati, Moosavi-Dezfooli, Frossard, Dai, 2020, arXiv:2003.06468",
    cost=_cost,
    family=("decision",),
    **BLACK_BOX,
    least={"queries": 5000},
    minimum_norm=True,
    differs=(
        "sigma and tol are in pixel units, 3e-3 and 2e-3, where the authors' code has 2e-4 and 1e-4 of normalised ones",
        "the search for the boundary begins at the plane's distance and keeps to the norm's own direction where the "
        "box clips it; the authors' code takes steps of length 5 and halves the line to where it was clipped",
        "the first estimate has at most 80 queries; the authors' code wants 50 as well, and calls itself for ever "
        "where no division of the queries has both, as at 300",
        "in l1 the box is respected at every step, value by value in the order of the normal, where the authors' code "
        "makes the l2 result sparse once at the end",
        "every third try for a start is noise of 4 x 4 patches, at most 100 tries",
        "what is returned stands a thousandth further out than the nearest found, as rounding decides on the boundary",
        "where the system draws noise, a boundary point must hold in 8 of 10 answers before it replaces the last one",
    ),
)
def geoda(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, queries: int = 10000, sigma: float = 3e-3,
    tol: float = 2e-3, f: int = 0,
) -> evasion.Found:  # fmt: skip
    """Nearest adversarial of any wrong class in the budget's norm, labels alone, by normals of the boundary.

    x (N, C, H, W) in [0, 1], y (N,). queries: the most an image, fewer where the threat leaves fewer. sigma: the
    probes' noise. tol: where bisections end, in l2. f: keep one frequency in f along each side, 0: by size (3 from 96
    pixels on, 2 from 16). Columns: <norm>_at_<queries>, logical. Raises BadValue.
    """
    if not (sigma > 0 and tol > 0 and f >= 0):
        given = f"sigma={sigma!r}, tol={tol!r}, f={f!r}"
        raise BadValue(f"expected sigma > 0, tol > 0 and f >= 0, got {given}; leave them out for the defaults")
    side = min(x.shape[2:])
    band = Band.of(x, f or (1 if side < 16 else 2 if side < 96 else 3))
    ask = Decisions(model, x, y, targeted=False, queries=queries, norm=budget.norm)
    for rows in torch.arange(len(x), device=x.device).split(model.width):
        at, found = noise_start(ask, rows, rng[rows].fold("start"))
        _walk(ask, rows[found], at[found], rng[rows[found]], band, sigma, tol)
    return evasion.Found(ask.finish(), ask.columns())


def _walk(ask: Decisions, rows: Tensor, at: Tensor, rng: Rng, band: Band, sigma: float, tol: float) -> None:
    """From adversarial pictures `at` (M, C, H, W) of the examples `rows` until their queries are spent."""
    source, reserve = ask.x[rows], SEARCH + (2 * VOTES if ask.noisy else 0)
    near, held = segment(ask, rows, source, at, tol)
    at, share = merged(at, near, held), shares(ask.left(rows))
    summed = torch.zeros_like(at)
    for t in count():
        i = (ask.left(rows) > reserve).nonzero().flatten()
        if not len(i):
            return
        rows, source, at, rng, share, summed = rows[i], source[i], at[i], rng[i], share[i], summed[i]
        probes = (share * LAMBDA ** (-2 * t / 3)).round().long().clamp(min=1).minimum(ask.left(rows) - reserve)
        summed = summed + normal(ask, rows, at, band, sigma=sigma, probes=probes, rng=rng.fold(t))
        new, moved = leave(ask, rows, source, at, summed, tol)
        at = merged(at, new, moved)


def shares(total: Tensor) -> Tensor:
    """Queries (M,) float64 of the first estimate, at most FIRST, so that `total` (M,) last to the end of the last."""
    g = LAMBDA ** (-2 / 3)
    times = torch.arange(1, 65, device=total.device)
    first: Tensor = (total[:, None].double() - SEARCH * times) * (g - 1) / (g ** times.double() - 1)
    return first.gather(1, (first <= FIRST).int().argmax(1, keepdim=True))[:, 0].clamp_min(1)


def leave(ask: Decisions, rows: Tensor, source: Tensor, at: Tensor, eta: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """From the source along what leaves the half space of normal eta soonest: pictures (M, C, H, W), and moved (M,).

    The distance of the plane through `at` is doubled until the class has ended; bisection ends at the boundary.
    """
    norm = ask.norm
    slope = projections.norm(eta.flatten(1).double(), projections.DUAL[norm])
    across = (eta * (at - source)).flatten(1).double().sum(1) / slope

    def point(i: Tensor, radius: Tensor) -> Tensor:
        return projections.steepest(source[i], eta[i], radius.float(), norm)

    def gap(near: Tensor, far: Tensor) -> Tensor:
        return (near - far) * (source.shape[1:].numel() ** 0.5 if norm == "linf" else 1)

    bad, good = torch.zeros_like(across), across.abs()
    found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(DOUBLINGS):
        i = (~found & (ask.left(rows) > 0)).nonzero().flatten()
        if not len(i):
            break
        found[i] = ask(rows[i], point(i, good[i]))
        bad, good = torch.where(found, bad, good), torch.where(found, good, 2 * good)
    j, new = found.nonzero().flatten(), at.clone()
    held = found.clone()
    end = bisect(ask, rows[j], lambda i, radius: point(j[i], radius), good[j], bad[j], gap, tol)
    new[j], held[j] = settle(ask, rows[j], lambda i, radius: point(j[i], radius), end, good[j])
    return new, held
