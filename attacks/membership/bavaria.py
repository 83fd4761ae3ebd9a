"""BaVarIA: LiRA whose means and variances are drawn from a prior that all examples say (Brännvall, 2026, 2603.11799).

Of each example the scaled logits of n shadows of a side are normal, their mean and variance from a normal-inverse-gamma
prior (mu, kappa, nu, s2), so one more draw of mean m and sum of squares SS follows Student's t:

    nu' = nu + n     mu' = (kappa mu + n m) / (kappa + n)
    s2' = (nu s2 + SS + kappa n / (kappa + n) (m - mu)^2) / nu'
    t of nu' degrees at (phi - mu') / sqrt(s2' (1 + 1 / (kappa + n)))
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.special import digamma, fdtri, polygamma
from scipy.stats import t as student
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import MEMBERSHIP
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.membership import by_side, middle
from robustsuite.scenarios import membership
from robustsuite.scenarios.membership import Shadows
from robustsuite.serve.oracle import Oracle

MOST = 1e6
"""Degrees of freedom of a prior that says one variance for all examples."""


class Prior(NamedTuple):
    """A normal-inverse-gamma prior of means and variances: mean, its weight in draws, degrees of freedom, variance."""

    mu: float
    kappa: float
    nu: float
    s2: float


@membership.attack(
    needs=Access.SCORES | Access.AUX_DATA,
    paper="Brännvall, 2026, Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA, arXiv:2603.11799",
    cost=lambda classes, online, query_views: Cost(query_views),
    differs=(
        "from the abstract; the prior is fitted to all examples' means and variances, a side at a time",
        "the Student-t form; the paper's Gaussian one with a shrunk variance is left out",
        "offline the score is the t distribution's tail, as LiRA's is the normal one's",
    ),
    **MEMBERSHIP,
)
def bavaria(
    model: Oracle, x: Tensor, y: Tensor, *, rng: Rng, shadows: Shadows, online: bool = True, query_views: int = 2
) -> Tensor:
    """The likelihood ratio of what is answered, by Student's t over shadows that share a prior.

    online: by shadows of both sides, else by those alone that were not trained on it. query_views: the picture, its
    mirror image, and both moved by a pixel (18); densities are averaged. Raises BadValue for fewer than
    two shadows of a side.
    """
    if len(shadows.inside) < 4:
        raise BadValue(f"expected two shadows of a side for a variance of each example, got {len(shadows.inside)} in "
                       f"all; ask for 4 or more")  # fmt: skip
    parts = []
    for phi, inside, outside in by_side(model, x, y, shadows, query_views):
        if online:
            parts.append(log_density(phi, inside, prior(inside)) - log_density(phi, outside, prior(outside)))
        else:
            parts.append(log_tail(phi, outside, prior(outside)))
    return torch.stack(parts).mean(0)


def prior(values: Tensor) -> Prior:
    """The prior that values (n, N), n draws of each of N examples, come from.

    nu and s2 by the mean and variance of log variances (Smyth, 2004, empirical Bayes for variances): no few examples
    rule them; MOST degrees where these vary no more than n draws alone explain. mu is the median mean, kappa follows
    from the median of n (mean - mu)^2 / variance, which is (1 + n / kappa) times an F(1, n - 1).
    """
    n, degrees = len(values), len(values) - 1
    means, variances = values.mean(0), values.var(0)
    mu = float(middle(means))
    if not bool((variances > 0).any()):
        return Prior(mu, 1.0, MOST, 0.0)
    logs = variances[variances > 0].log()
    beyond = float(logs.var()) - float(polygamma(1, degrees / 2)) if len(logs) > 1 else 0.0
    nu = 2 * _trigamma_inverse(beyond) if beyond > polygamma(1, MOST / 2) else MOST
    bias = _log_bias(degrees) - _log_bias(nu)
    wider = float(middle(n * (means - mu).square() / variances.clamp_min(1e-300))) / fdtri(1, degrees, 0.5)
    return Prior(mu, n / (wider - 1) if wider > 1 + n / MOST else MOST, nu, math.exp(float(logs.mean()) - bias))


def _log_bias(degrees: float) -> float:
    """The mean logarithm of a chi-square over its degrees of freedom."""
    return float(digamma(degrees / 2)) - math.log(degrees / 2)


def _trigamma_inverse(value: float) -> float:
    """x with trigamma(x) = value > 0, by Newton's steps on 1 / trigamma, which is convex."""
    x = 0.5 + 1 / value
    for _ in range(30):
        own = polygamma(1, x)
        x += own * (1 - own / value) / polygamma(2, x)
    return float(x)


def _predicted(phi: Tensor, values: Tensor, known: Prior) -> tuple[Tensor, Tensor, float]:
    """phi (N,) as a deviate of Student's t beside values (n, N), its scale (N,), and the degrees of freedom."""
    n, mu, kappa = len(values), known.mu, known.kappa
    means = values.mean(0)
    squares = (values - means).square().sum(0) + kappa * n / (kappa + n) * (means - mu).square()
    nu = known.nu + n
    scale = ((known.nu * known.s2 + squares) / nu * (1 + 1 / (kappa + n))).sqrt().clamp_min(1e-30)
    return (phi - (kappa * mu + n * means) / (kappa + n)) / scale, scale, nu


def log_density(phi: Tensor, values: Tensor, known: Prior) -> Tensor:
    """log p (N,) of one more draw phi (N,) beside values (n, N)."""
    t, scale, nu = _predicted(phi, values, known)
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - math.log(nu * math.pi) / 2
    return constant - scale.log() - (nu + 1) / 2 * (t.square() / nu).log1p()


def log_tail(phi: Tensor, values: Tensor, known: Prior) -> Tensor:
    """log P (N,) that one more draw is at most phi (N,)."""
    t, _, nu = _predicted(phi, values, known)
    return torch.from_numpy(student.logcdf(t.cpu().numpy(), nu)).to(phi)
