"""The statistics every number of a report leans on: intervals for rates, a paired test, a correction for many tests.

Clopper & Pearson (1934), Biometrika 26(4), doi 10.1093/biomet/26.4.404; Wilson (1927), JASA 22(158);
McNemar (1947), Psychometrika 12(2), in its exact binomial form; Holm (1979), Scand. J. Statist. 6(2);
Efron (1979), Ann. Statist. 7(1), the percentile bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, betaincinv, ndtri  # scipy.stats alone takes most of a second to import

from robustsuite.errors import BadValue


@dataclass(frozen=True)
class Paired:
    """Two methods on the same examples: how often only one was right, and how surprising that is."""

    only_a: int
    only_b: int
    n: int
    pvalue: float

    @property
    def difference(self) -> float:
        """Rate of `a` minus rate of `b`, in [-1, 1]."""
        return (self.only_a - self.only_b) / self.n


@lru_cache(maxsize=1 << 16)
def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval (lo, hi) in [0, 1] for k successes in n trials; it never covers too rarely."""
    _check_counts(k, n, confidence)
    a = (1 - confidence) / 2
    lo = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, a))
    hi = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - a))
    return lo, hi


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval (lo, hi) in [0, 1]: shorter than Clopper-Pearson, right on average; for display only."""
    _check_counts(k, n, confidence)
    z = float(ndtri((1 + confidence) / 2))
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> Paired:
    """The exact two-sided McNemar test on two verdicts (N,) bool over the same examples in the same order."""
    first, second = np.asarray(a), np.asarray(b)
    if first.dtype != bool or second.dtype != bool or first.ndim != 1 or first.shape != second.shape:
        raise BadValue(
            f"expected two bool arrays of one shape (N,), got {first.dtype}{first.shape} and "
            f"{second.dtype}{second.shape}; align them on the example index first"
        )
    if not first.size:
        raise BadValue("expected at least one pair, got none; a test over nothing has no answer")
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_a + only_b
    return Paired(only_a, only_b, first.size, _fair(only_a, discordant) if discordant else 1.0)


@lru_cache(maxsize=1 << 16)
def _fair(k: int, n: int) -> float:
    """The two-sided p-value of k heads in n throws of a fair coin; the tests of one table ask for few, again and again.
    """
    return float(_both_tails(min(k, n - k), n))


def _both_tails(fewer: ArrayLike, total: ArrayLike) -> NDArray[np.float64]:
    """A fair coin is symmetric: twice the smaller tail."""
    return np.asarray(np.minimum(1.0, 2 * bdtr(fewer, total, 0.5)), dtype=np.float64)


@lru_cache(maxsize=1 << 16)
def one_sided(more: int, fewer: int) -> float:
    """The chance of at least `more` of the discordant pairs on one side if both were as likely."""
    return float(bdtrc(more - 1, more + fewer, 0.5)) if more + fewer else 1.0


def mcnemar_pvalues(only_a: ArrayLike, only_b: ArrayLike) -> NDArray[np.float64]:
    """The p-values of `mcnemar_exact` for many pairs at once, from their discordant counts (M,)."""
    a, b = np.asarray(only_a, dtype=np.int64), np.asarray(only_b, dtype=np.int64)
    (fewer, total), place = np.unique(np.stack([np.minimum(a, b), a + b]), axis=1, return_inverse=True)
    return _both_tails(fewer, total)[place.reshape(-1)]


def holm(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values (M,), in the order given; compare them with the level itself."""
    p = np.asarray(pvalues, dtype=np.float64)
    if p.ndim != 1 or np.any(~((p >= 0) & (p <= 1))):
        raise BadValue(f"expected p-values (M,) in [0, 1], got {p!r}; correct one table at a time")
    order = np.argsort(p, kind="stable")
    m = p.size
    stepped = np.minimum(1.0, np.maximum.accumulate((m - np.arange(m)) * p[order]))
    adjusted = np.empty(m)
    adjusted[order] = stepped
    return adjusted


def mean(values: ArrayLike) -> float:
    """The mean of (N,) finite numbers; a mean over nothing is an error, not a NaN."""
    v = np.asarray(values, dtype=np.float64)
    if not v.size:
        raise BadValue("expected at least one value, got none; a mean over nothing has no answer")
    if not np.isfinite(v).all():
        raise BadValue(
            f"expected finite values, got {int((~np.isfinite(v)).sum())} that are not; drop or count them"
        )
    return float(v.mean())


def bootstrap_interval(
    values: ArrayLike, seed: int, *, confidence: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """The percentile bootstrap interval (lo, hi) of the mean of (N,) values, resampling examples."""
    v = np.asarray(values, dtype=np.float64)
    mean(v)
    generator = np.random.default_rng(seed)
    # Blocks of draws bound the memory at a few MiB however many examples there are.
    block = max(1, 2**20 // v.size)
    means = [
        v[generator.integers(0, v.size, size=(min(block, draws - start), v.size))].mean(axis=1)
        for start in range(0, draws, block)
    ]
    a = (1 - confidence) / 2
    lo, hi = np.quantile(np.concatenate(means), [a, 1 - a])
    return float(lo), float(hi)


def resampled_interval(
    statistic: Callable[[NDArray[np.int64]], float], n: int, seed: int, *, confidence: float = 0.95, draws: int = 1000
) -> tuple[float, float]:
    """The percentile bootstrap interval (lo, hi) of any statistic of n examples, a function of their positions."""
    generator = np.random.default_rng(seed)
    values = np.array([statistic(generator.integers(0, n, size=n)) for _ in range(draws)])
    a = (1 - confidence) / 2
    lo, hi = np.nanquantile(values, [a, 1 - a])
    return float(lo), float(hi)


def resampled_test(difference: Callable[[NDArray[np.int64]], float], n: int, seed: int, *, draws: int = 1000) -> float:
    """Two-sided p-value that a statistic's difference over the same n examples is 0: the bootstrap's share beyond it.

    (Efron and Tibshirani, 1993, An Introduction to the Bootstrap, ch. 15.) Never below 2 / (draws + 1).
    """
    generator = np.random.default_rng(seed)
    values = np.array([difference(generator.integers(0, n, size=n)) for _ in range(draws)])
    values = values[np.isfinite(values)]
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (values.size + 1)))


def rank_ranges(better: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """Ranks as intervals from significance alone: better[i][j] says i is significantly better than j.

    Rank range of i = (1 + number significantly better than i, k - number significantly worse); equal ranges are ties.
    """
    b = np.asarray(better, dtype=bool).reshape(len(better), len(better))
    above, below = b.sum(axis=0), b.sum(axis=1)
    return [(1 + int(above[i]), len(better) - int(below[i])) for i in range(len(better))]


def _check_counts(k: int, n: int, confidence: float) -> None:
    if n <= 0 or not 0 <= k <= n:
        raise BadValue(
            f"expected 0 <= k <= n and n > 0, got k={k!r}, n={n!r}; a rate over nothing has no answer"
        )
    if not 0 < confidence < 1:
        raise BadValue(f"expected a confidence in (0, 1), got {confidence!r}; 0.95 is usual")
