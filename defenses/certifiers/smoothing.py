"""Certificates for randomized smoothing: how far, in L2, the smoothed answer cannot change.

CERTIFY (Cohen, Rosenfeld, Kolter, 2019, arXiv 1902.02918): n0 votes choose the class c_A; n fresh votes bound its
probability from below, p_lo, by one-sided Clopper-Pearson; the radius is sigma Phi^-1(p_lo), or it abstains
where p_lo < 1/2. Wrong with probability at most alpha an image.

decide: the same claim at one radius r, R >= r, by a sequential test (after Voracek, NeurIPS 2024, "Treatment of
statistical estimation problems in randomized smoothing"). R >= r is p_A >= p0 = Phi(r / sigma). After a votes for c_A
in t, the Krichevsky-Trofimov bettor's wealth against p0 is

    W = B(a + 1/2, t - a + 1/2) / B(1/2, 1/2) / (p0^a (1 - p0)^(t - a)).

Stop and certify once W >= 1/alpha with a/t > p0; stop and refuse once W >= 1/alpha with a/t < p0. Guarantee: if
p_A <= p0, then wherever a/t > p0 the p0-likelihood is at least that of p_A, so a false certificate needs the bettor's
martingale against p_A to reach 1/alpha, which by Ville's inequality happens with probability at most alpha, at
whatever vote one stops; the other side is the mirror image.
"""

from __future__ import annotations

from math import ceil, isfinite, lgamma, log
from typing import NamedTuple

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import PROOF
from robustsuite.config.threats import L2, Access
from robustsuite.errors import Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.smoothing import BLOCK, checked, classes, lower_bound, noisy, predict, votes
from robustsuite.scenarios.certification import Certificates, certifier
from robustsuite.serve.protocols import Smoothed


class BallTest(NamedTuple):
    """Which images (N,) were certified and refused, neither where the votes ran out; and votes until the end."""

    certified: Tensor
    refused: Tensor
    samples: Tensor


@certifier(
    paper="Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918",
    needs=Access.LABELS,
    norms=("l2",),
    cost=lambda *, n0, n, **_: Cost(forwards=n0 + n),
    **PROOF,
    differs=("sequential=True decides the budget's radius alone, by a betting test, with the same alpha",),
)
def smoothing(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: L2,
    *,
    rng: Rng,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    sequential: bool = False,
) -> Certificates:
    """Certified L2 radii (N,) float64, in [0, 1] pixels, of a network served by randomized_smoothing.

    sequential: decide only whether the radius reaches budget.eps (then it is budget.eps, else 0), where n0 votes point
    to y, with as few votes as each image needs, n at the most. prediction (N,): -1 where it abstains.
    Raises Unsupported for any other network and norm, BadValue. Source: arXiv 1902.02918.
    """
    if budget.norm != "l2":
        raise Unsupported(f"expected an l2 budget for smoothing, got {budget}; write budget: {{l2: 0.25}}")
    if not isinstance(net, Smoothed):
        raise Unsupported(
            f"expected a network served under Gaussian noise, got {type(net).__name__}; "
            f"add the defense randomized_smoothing, as the last one"
        )
    base, sigma = net.under_noise()
    _within_reach(budget.eps, sigma, n, alpha)
    if not sequential:
        return certify(base, x, sigma=sigma, rng=rng, n0=n0, n=n, alpha=alpha)
    counts = _selection(base, x, sigma, rng, n0)
    top = counts.argmax(1)
    rows = (top == y).nonzero()[:, 0]
    # The judge forgives this much rounding in a distance, so the claim has to cover it as well.
    radius = budget.eps * (1 + L2.tolerance) + L2.tolerance
    held = decide(base, x[rows], top[rows], sigma=sigma, radius=radius, rng=rng[rows.cpu()], n=n, alpha=alpha)
    certified = torch.zeros(len(x), dtype=torch.bool, device=x.device).index_put((rows,), held.certified)
    prediction = torch.where(certified, top, predict(counts, alpha))
    counted = torch.full_like(top, n0).index_add(0, rows, held.samples)
    return Certificates(prediction, certified.double() * budget.eps, votes=counted)


def certify(
    base: nn.Module,
    x: Tensor,
    *,
    sigma: float,
    rng: Rng,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    batch_size: int = 512,
) -> Certificates:
    """CERTIFY: classes, -1 where it abstains, and L2 radii float64 in pixels of x, 0 where it abstains.

    p_low bounds the probability of the class that n0 votes chose, abstained or not.
    """
    checked(sigma, n, alpha)
    top = _selection(base, x, sigma, rng, n0, batch_size).argmax(1)
    streams = rng.fold("estimation").generators(x.device)
    k = votes(base, x, streams, sigma=sigma, n=n, batch_size=batch_size).gather(1, top[:, None])[:, 0]
    p_lo = lower_bound(k, n, alpha)
    sure = p_lo >= 0.5
    radius = sigma * torch.from_numpy(ndtri(p_lo.cpu().numpy())).to(x.device)
    return Certificates(
        torch.where(sure, top, -1), torch.where(sure, radius, 0.0), p_low=p_lo, votes=torch.full_like(top, n0 + n)
    )


def decide(
    base: nn.Module,
    x: Tensor,
    top: Tensor,
    *,
    sigma: float,
    radius: float,
    rng: Rng,
    n: int = 100_000,
    alpha: float = 0.001,
    batch_size: int = 512,
) -> BallTest:
    """Whether the smoothed answer is `top` (N,) all through the L2 ball of `radius`, at most n votes an image.

    Each of `certified` and `refused` is false with probability at most alpha an image. Decided images leave the
    batch and waiting ones take their place; `samples` counts the votes the test looked at.
    """
    checked(sigma, n, alpha)
    p0 = float(ndtr(radius / sigma))
    streams = rng.fold("estimation").generators(x.device)
    a, t = torch.zeros_like(top), torch.zeros_like(top)
    outcome = torch.zeros_like(top)
    waiting = torch.arange(len(x), device=x.device)
    active, room = waiting[:0], max(1, batch_size // BLOCK)
    with torch.inference_mode():
        while len(active) or len(waiting):
            free = room - len(active)
            active, waiting = torch.cat([active, waiting[:free]]), waiting[free:]
            # A thinning batch takes more blocks an image, but never more than a quarter of what it has seen.
            blocks = max(1, min(room // len(active), int(t[active].min()) // (4 * BLOCK)))
            copies = noisy(x[active], [streams[i] for i in active.tolist()], blocks, sigma)
            hits = classes(base, copies)[0].view(len(active), -1) == top[active, None]
            at = a[active, None] + hits.cumsum(1), t[active, None] + torch.arange(1, hits.shape[1] + 1, device=x.device)
            wealth = log_wealth(*at, p0)
            stop = (wealth >= log(1 / alpha)) & (at[1] <= n)
            stop |= at[1] == n
            ends = stop.any(1)
            place = torch.where(ends, stop.int().argmax(1), hits.shape[1] - 1)[:, None]
            a[active], t[active] = (part.gather(1, place)[:, 0] for part in at)
            side = (a[active].double() / t[active] - p0).sign().long()
            crossed = wealth.gather(1, place)[:, 0] >= log(1 / alpha)
            outcome[active] = torch.where(ends & crossed, side, 0)
            active = active[~ends]
    return BallTest(outcome == 1, outcome == -1, t)


def log_wealth(a: Tensor, t: Tensor, p0: float) -> Tensor:
    """Log of the Krichevsky-Trofimov bettor's wealth against p0, float64, after a (...) successes in t (...)."""
    a, b = a.double(), (t - a).double()
    bettor = torch.lgamma(a + 0.5) + torch.lgamma(b + 0.5) - torch.lgamma(a + b + 1) - 2 * lgamma(0.5)
    q = torch.tensor(p0, dtype=torch.float64, device=a.device)
    return bettor - torch.xlogy(a, q) - torch.xlogy(b, 1 - q)


def _within_reach(radius: float, sigma: float, n: int, alpha: float) -> None:
    """Raise Unsupported where not even n votes for one class prove this radius: 0 % would not be a measurement."""
    checked(sigma, n, alpha)
    wanted, most = float(ndtr(radius / sigma)), alpha ** (1 / n)
    if isfinite(radius) and most < wanted:
        instead = f"write n: {ceil(log(alpha) / log(wanted))} or more" if wanted < 1 else "write a smaller one"
        reach = sigma * float(ndtri(most))
        raise Unsupported(
            f"expected an l2 radius that n={n} votes can prove, {reach:.3g} at the most under noise of {sigma:g}, got "
            f"{radius:g}; {instead}"
        )


def _selection(base: nn.Module, x: Tensor, sigma: float, rng: Rng, n0: int, batch_size: int = 512) -> Tensor:
    """Counts (N, K) of the n0 votes that choose the class, from streams of their own."""
    streams = rng.fold("selection").generators(x.device)
    return votes(base, x, streams, sigma=sigma, n=n0, batch_size=batch_size)
