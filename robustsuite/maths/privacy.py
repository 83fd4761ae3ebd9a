"""How private a training is: what differs between members and others bounds epsilon from below, its noise from above.

Audits: Clopper & Pearson's bounds over several trainings (Nasr et al., 2021, arXiv:2101.04535), and one training alone
(Steinke, Nasr, Jagielski, 2023, arXiv:2305.08846, theorem 5.2). Accounting: the sampled Gaussian mechanism (Mironov,
Talwar, Zhang, 2019, arXiv:1908.10530, section 3.3), and from Renyi's divergence to (epsilon, delta) as Balle et al.
(2020, arXiv:1905.09982, theorem 21).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, betaincinv, expit, gammaln, logsumexp

from robustsuite.errors import BadValue

ORDERS = tuple(range(2, 129))
"""Whole orders of Renyi's divergence among which the best is taken."""

HIGHEST = 50.0
"""An epsilon that no bound here reaches."""


def highest_rate(k: int, n: int, alpha: float) -> float:
    """The one-sided upper bound (Clopper-Pearson) of a rate of which k of n were seen, at level alpha; 1 of none."""
    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - alpha))


def resolves(n: int, rate: float, alpha: float = 0.05) -> bool:
    """Whether n trials can show a rate to be this small at all: none of n says no more than about 3 / n."""
    return n > 0 and highest_rate(0, n, alpha) <= rate


def several_runs(
    members: ArrayLike, others: ArrayLike, *, delta: float = 0.0, alpha: float = 0.05,
    thresholds: ArrayLike | None = None,
) -> float:  # fmt: skip
    """A lower bound of epsilon at level 1 - alpha from scores of independent trainings, with a canary and without it.

    members (n,), others (m,): one score each, of a training of its own: scores of one training depend on each other.
    thresholds: fixed beforehand, all of them corrected for (Bonferroni); where they are not given, one is chosen on the
    first half of both and tested on the second. Raises BadValue for fewer than two of each.
    """
    p, q = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if min(p.size, q.size) < 2:
        raise BadValue(f"expected two scores of each side or more, got {p.size} and {q.size}; train more")
    if thresholds is not None:
        tried = np.atleast_1d(np.asarray(thresholds, np.float64))
        return max(_rates(p, q, t, delta, alpha / tried.size) for t in tried)
    early, late = (p[: p.size // 2], q[: q.size // 2]), (p[p.size // 2 :], q[q.size // 2 :])
    candidates = np.unique(np.concatenate(early))
    best = max(candidates, key=lambda t: _rates(*early, t, delta, alpha))
    return _rates(*late, best, delta, alpha)


def _rates(p: NDArray[np.float64], q: NDArray[np.float64], threshold: float, delta: float, alpha: float) -> float:
    """The bound at one threshold: both directions follow from the same two bounds of rates, each at level alpha / 2."""
    missed, let = int((p < threshold).sum()), int((q >= threshold).sum())
    miss, false = highest_rate(missed, p.size, alpha / 2), highest_rate(let, q.size, alpha / 2)
    kept, wrong = 1 - miss - delta, 1 - false - delta
    one = math.log(kept / false) if kept > 0 else 0.0
    two = math.log(wrong / miss) if wrong > 0 else 0.0
    return max(0.0, one, two)


def one_run_p(m: int, guesses: int, right: int, epsilon: float, delta: float = 0.0) -> float:
    """The p-value of so many right guesses about m coins, had the training been (epsilon, delta)-private.

    Each of m examples is in the training set by a fair coin of its own; how many are guessed is fixed beforehand.
    """
    chance = float(expit(epsilon))

    def reached(v: ArrayLike) -> NDArray[np.float64]:
        """P[Bin(guesses, chance) >= v]."""
        v = np.asarray(v, dtype=np.float64)
        return np.where(v <= 0, 1.0, bdtrc(np.maximum(v, 1) - 1, guesses, chance))

    beta = float(reached(right))
    if not delta or right < 1:
        return min(1.0, beta)
    i = np.arange(1, right + 1)
    slope = float(np.max((reached(right - i) - beta) / i))
    return min(1.0, beta + 2 * m * delta * max(0.0, slope))


def one_run(m: int, guesses: int, right: int, *, delta: float = 0.0, alpha: float = 0.05) -> float:
    """The lower bound of epsilon at level 1 - alpha from one training: where `one_run_p` reaches alpha; 0 where none.

    Raises BadValue for counts that cannot be.
    """
    if not 0 <= right <= guesses <= m or not m:
        raise BadValue(f"expected 0 <= right <= guesses <= m, got {right!r}, {guesses!r} and {m!r}; count again")
    low, high = 0.0, HIGHEST
    if one_run_p(m, guesses, right, low, delta) >= alpha:
        return 0.0
    while high - low > 1e-6:
        half = (low + high) / 2
        low, high = (half, high) if one_run_p(m, guesses, right, half, delta) < alpha else (low, half)
    return low


def right_guesses(scores: ArrayLike, member: ArrayLike, share: float) -> tuple[int, int]:
    """How many guesses are made and right: the top share / 2 of the scores are called members, the bottom others.

    Ties are broken by place, which knows nothing of membership.
    """
    order = np.argsort(np.asarray(scores), kind="stable")
    truth, each = np.asarray(member, bool)[order], int(len(order) * share / 2)
    return 2 * each, int(truth[len(order) - each :].sum() + (~truth[:each]).sum())


def renyi(rate: float, noise: float, steps: int) -> NDArray[np.float64]:
    """Renyi's divergence at ORDERS of `steps` Gaussian mechanisms on Poisson samples.

    rate: of the sample; noise: the deviation in units of the clip. Neighbours differ by one example more or less.
    """
    if not (0 < rate <= 1 and noise > 0 and steps >= 0):
        raise BadValue(f"expected 0 < rate <= 1, noise > 0 and steps >= 0, got {rate!r}, {noise!r} and {steps!r}")
    return steps * np.array([_order(rate, noise, order) for order in ORDERS])


@lru_cache(maxsize=1 << 12)
def _order(rate: float, noise: float, order: int) -> float:
    k = np.arange(order + 1)
    if rate == 1:
        return order / (2 * noise**2)
    chosen = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = chosen + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * noise**2)
    return float(logsumexp(terms)) / (order - 1)


def spent(rate: float, noise: float, steps: int, delta: float) -> float:
    """The epsilon that such a training keeps, at this delta: an upper bound, the best of ORDERS."""
    orders = np.array(ORDERS, np.float64)
    epsilon = renyi(rate, noise, steps) + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(epsilon.min()))
