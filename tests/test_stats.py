"""robustsuite.maths.stats against statsmodels and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from robustsuite.errors import BadValue
from robustsuite.maths import stats


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (1, 1), (0, 100), (3, 100), (50, 100), (100, 100), (4123, 10000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_intervals_agree_with_statsmodels(k: int, n: int, confidence: float) -> None:
    exact = proportion_confint(k, n, alpha=1 - confidence, method="beta")
    score = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    assert stats.clopper_pearson(k, n, confidence) == pytest.approx(exact, abs=1e-12)
    assert stats.wilson(k, n, confidence) == pytest.approx(score, abs=1e-12)


def test_zero_of_a_hundred_has_the_closed_form_bound() -> None:
    assert stats.clopper_pearson(0, 100) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)))


def test_mcnemar_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random(60) < 0.7, rng.random(60) < 0.5
        table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
        got = stats.mcnemar_exact(a, b)
        assert got.pvalue == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert got.difference == pytest.approx(a.mean() - b.mean())


def test_mcnemar_of_a_verdict_with_itself_finds_nothing() -> None:
    a = np.array([True, False, True])
    assert stats.mcnemar_exact(a, a) == stats.Paired(0, 0, 3, 1.0)


def test_five_discordant_pairs_can_never_be_significant_and_six_can() -> None:
    n = 100
    for k, significant in [(5, False), (6, True)]:
        b = np.zeros(n, bool)
        b[:k] = True
        assert (stats.mcnemar_exact(b, np.zeros(n, bool)).pvalue < 0.05) is significant


def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for m in (1, 2, 10, 45):
        p = rng.random(m) ** 3
        assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert stats.holm([]).shape == (0,)


def test_bootstrap_interval_is_near_the_normal_one_and_repeats() -> None:
    v = np.random.default_rng(2).normal(3, 2, size=400)
    lo, hi = stats.bootstrap_interval(v, seed=7)
    half = 1.96 * v.std() / 20
    assert (lo, hi) == pytest.approx((v.mean() - half, v.mean() + half), abs=0.05)
    assert stats.bootstrap_interval(v, seed=7) == (lo, hi)
    assert stats.bootstrap_interval(v, seed=8) != (lo, hi)


def test_rank_ranges_print_equal_ranges_for_ties() -> None:
    better = [[False, False, True], [False, False, True], [False, False, False]]
    assert stats.rank_ranges(better) == [(1, 2), (1, 2), (3, 3)]
    assert stats.rank_ranges([]) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.mean([]),
        lambda: stats.mean([1.0, float("nan")]),
        lambda: stats.bootstrap_interval([], seed=0),
        lambda: stats.clopper_pearson(0, 0),
        lambda: stats.clopper_pearson(3, 2),
        lambda: stats.clopper_pearson(1, 2, 95),
        lambda: stats.mcnemar_exact(np.zeros(0, bool), np.zeros(0, bool)),
        lambda: stats.mcnemar_exact([1, 0], [True, False]),
        lambda: stats.mcnemar_exact([True], [True, False]),
        lambda: stats.holm([0.5, float("nan")]),
        lambda: stats.holm([1.5]),
    ],
)
def test_nothing_or_nonsense_is_an_error(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadValue, match=r"expected .*got"):
        call()
