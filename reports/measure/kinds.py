"""From a cell's columns to its scores, by what its record declares: one function a kind of score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.errors import BadData
from robustsuite.maths import privacy, stats
from robustsuite.records.schema import Column, Scoring

from ..read.extra import trusted
from ..read.runs import radius_of
from .calibration import expected_calibration_error, rms_calibration_error

SEED = 0
Rows = Mapping[str, Any] | pd.DataFrame
"""A cell's examples: columns by name."""

NAN = float("nan")

DELTA = 1e-5
"""At which bounds of epsilon are told."""


@dataclass(frozen=True)
class Score:
    """A number in its own unit, with its interval; `k` is the count behind a rate and -1 behind anything else."""

    metric: str
    value: float
    lo: float
    hi: float
    k: int
    n: int


def rate(metric: str, hits: Any) -> Score:
    """The share of True among (N,) bools, with its Clopper-Pearson interval."""
    v = np.asarray(hits, dtype=bool)
    k, n = int(v.sum()), int(v.size)
    lo, hi = stats.clopper_pearson(k, n)
    return Score(metric, k / n, lo, hi, k, n)


def average(metric: str, values: Any) -> Score:
    """The mean of (N,) numbers, with its bootstrap interval."""
    v = np.asarray(values, dtype=np.float64)
    lo, hi = stats.bootstrap_interval(v, SEED)
    return Score(metric, stats.mean(v), lo, hi, -1, int(v.size))


def measured(cell: Mapping[Any, Any], rows: Rows) -> Iterator[Score]:
    """Every score that the record declares and the rows have something for, in its order."""
    for column in cell["record"].columns:
        if column.name not in rows:
            continue
        for scoring in column.scores:
            counted = _where(rows, scoring, column.name)
            values = np.asarray(counted[column.name])
            if len(values) and (values.dtype.kind in "biu" or not pd.isna(values).any()):
                found = KINDS[scoring.kind](column, scoring, counted, cell)
                yield from (score for score in found if score.value != 0 or not scoring.sparse)


def _where(rows: Rows, scoring: Scoring, name: str) -> Rows:
    """The rows that count; of a rate's or a mean's, the column alone."""
    if not scoring.where:
        return rows
    mask = np.asarray(rows[scoring.where]).astype(bool)
    names = [name] if scoring.kind in ("rate", "mean") else [str(each) for each in rows]
    return {each: np.asarray(rows[each])[mask] for each in names}


def certified(rows: Rows, radius: float, by: str = "clean_ok") -> Any:
    """Which examples (N,) are proven right at `radius`; at 0 that is: answered, and answered right."""
    if radius <= 0:
        return np.asarray(rows[by], dtype=bool) & ~np.asarray(rows["abstained"], dtype=bool)
    # A radius equal to the budget is stored in float64 from a float32 bound: a relative hair is not a missed proof.
    return np.asarray(rows["radius"], dtype=np.float64) >= radius * (1 - 1e-6)


def radii(eps: float | None, largest: float) -> list[float]:
    """The radii to quote: 0, the threat's own and its simple multiples; quarters of the largest where it has none."""
    if eps is not None:
        return [0.0, eps / 2, eps] + [m * eps for m in (1.5, 2.0, 3.0) if m * eps <= largest]
    if largest <= 0:
        return [0.0]
    step = float(f"{largest / 4:.1g}")
    return [0.0, *(round(step * i, 12) for i in range(1, 5) if step * i <= largest)]


def statistic(column: Column, scoring: Scoring) -> Callable[[pd.DataFrame], float]:
    """The score as a function of rows, to resample them. Raises BadData for a kind that has no one value."""
    name = column.name
    simple: dict[str, Callable[[pd.DataFrame], float]] = {
        "rate": lambda rows: float(rows[name].mean()),
        "mean": lambda rows: float(rows[name].mean()),
        "median": lambda rows: float(rows[name].median()),
        "quantile": lambda rows: float(rows[name].quantile(scoring.at if scoring.at is not None else 0.5)),
        "auc": lambda rows: auc(rows[name].to_numpy(np.float64), rows[scoring.by].to_numpy(bool)),
        "tpr_at": lambda rows: tpr_at(
            rows[name].to_numpy(np.float64), rows[scoring.by].to_numpy(bool), scoring.at or 0.0
        ),
        "custom": lambda rows: float(trusted(scoring.function)(rows)),
    }
    if scoring.kind not in simple:
        raise BadData(f"expected a score with one value, got {scoring.name} of the kind {scoring.kind}")
    return simple[scoring.kind]


def auc(score: Any, positive: Any) -> float:
    """Area under the ROC curve of (N,) scores, larger for positives; ties count half, NaN where a side is empty."""
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return NAN
    ranks = pd.Series(score).rank().to_numpy()
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def tpr_at(score: Any, positive: Any, fpr: float) -> float:
    """Share of positives above the threshold that lets at most `fpr` of the negatives through; NaN without either."""
    if positive.all() or not positive.any():
        return NAN
    return float((score[positive] > operating_point(score, positive, fpr)).mean())


def operating_point(score: Any, positive: Any, fpr: float) -> float:
    """The threshold above which at most `fpr` of the negatives (one at least) lie; equal scores stay together."""
    negatives = np.sort(score[~positive])[::-1]
    return float(negatives[min(int(fpr * len(negatives) + 1e-9), len(negatives) - 1)])


def crossed(score: Any, positive: Any) -> Any:
    """Which of (N,) scores are called positive, each half at the threshold that is best on the other half.

    Halves are every other row: which rows are positive knows nothing of that.
    """
    called, half = np.zeros(len(score), dtype=bool), np.arange(len(score)) % 2
    for mine in (0, 1):
        other = half != mine
        called[~other] = score[~other] >= best_threshold(score[other], positive[other])
    return called


def best_threshold(score: Any, positive: Any) -> float:
    """Where (TPR + TNR) / 2 of (N,) scores is largest, between two scores; infinite where a side is empty."""
    order = np.argsort(-score, kind="stable")
    s, hit = score[order], positive[order]
    if hit.all() or not hit.any():
        return np.inf
    gain = np.cumsum(hit) / hit.sum() - np.cumsum(~hit) / (~hit).sum()
    ends = np.append(s[:-1] != s[1:], True)
    best = int(np.argmax(np.where(ends, gain, -np.inf)))
    below = s[best + 1] if best + 1 < len(s) else s[best]
    return float(s[best]) if not np.isfinite(below) else float((s[best] + below) / 2)


def _rate(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    yield rate(scoring.name, rows[column.name])


def _mean(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    if np.isfinite(np.asarray(rows[column.name], dtype=np.float64)).all():
        yield average(scoring.name, rows[column.name])


def _resampled(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    function, frame = statistic(column, scoring), pd.DataFrame(rows)
    value = function(frame)
    if np.isfinite(value):
        lo, hi = stats.resampled_interval(lambda i: function(frame.iloc[i]), len(frame), SEED)
        yield Score(scoring.name, value, lo, hi, -1, len(frame))


def _at_rate(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    """NaN where there are too few negatives to tell the rate: that none is above the threshold says too little."""
    score, positive = np.asarray(rows[column.name], np.float64), np.asarray(rows[scoring.by], bool)
    fpr, n = scoring.at or 0.0, int(positive.sum())
    if n and privacy.resolves(len(positive) - n, fpr):
        yield rate(scoring.name, score[positive] > operating_point(score, positive, fpr))
    else:
        yield Score(scoring.name, NAN, NAN, NAN, -1, n)


def _balanced(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    score, positive = np.asarray(rows[column.name], np.float64), np.asarray(rows[scoring.by], bool)
    if positive.any() and not positive.all():
        right = crossed(score, positive) == positive

        def mean(i: Any) -> float:
            sides = right[i][positive[i]], right[i][~positive[i]]
            return float(np.mean([side.mean() for side in sides])) if all(map(len, sides)) else NAN

        lo, hi = stats.resampled_interval(mean, len(right), SEED)
        yield Score(scoring.name, mean(np.arange(len(right))), lo, hi, -1, len(right))


def _epsilon(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    """A lower bound with 95 % confidence: nothing is said of how much larger it may be."""
    score, positive = np.asarray(rows[column.name], np.float64), np.asarray(rows[scoring.by], bool)
    guesses, right = privacy.right_guesses(score, positive, scoring.at or 0.0)
    if guesses:
        bound = privacy.one_run(len(score), guesses, right, delta=DELTA)
        yield Score(scoring.name, bound, bound, NAN, -1, len(score))


def _area(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    """As `_resampled`, by counts of each distinct score: nothing is sorted again for a draw."""
    score, positive = np.asarray(rows[column.name], np.float64), np.asarray(rows[scoring.by], bool)
    if positive.any() and not positive.all():
        kinds, place = np.unique(score, return_inverse=True)

        def area(i: Any) -> float:
            hits = np.bincount(place[i[positive[i]]], minlength=len(kinds))
            others = np.bincount(place[i[~positive[i]]], minlength=len(kinds))
            below = np.cumsum(others) - others / 2
            both = float(hits.sum()) * float(others.sum())
            return float(hits @ below) / both if both else NAN

        lo, hi = stats.resampled_interval(area, len(score), SEED)
        yield Score(scoring.name, auc(score, positive), lo, hi, -1, len(score))


def _calibration(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    error, frame = expected_calibration_error if scoring.kind == "ece" else rms_calibration_error, pd.DataFrame(rows)
    yield Score(scoring.name, error(frame[column.name], frame[scoring.by]), NAN, NAN, -1, len(frame))


def _beyond(column: Column, scoring: Scoring, rows: Rows, cell: Mapping[Any, Any]) -> Iterator[Score]:
    largest = float(np.asarray(rows[column.name], dtype=np.float64).max(initial=0.0))
    for radius in radii(radius_of(cell), largest):
        yield rate(f"{scoring.name}@{radius:.6g}", certified(rows, radius, scoring.by))


KINDS: dict[str, Callable[..., Iterator[Score]]] = {
    "rate": _rate, "mean": _mean, "median": _resampled, "quantile": _resampled, "auc": _area,
    "tpr_at": _at_rate, "balanced_accuracy": _balanced, "epsilon": _epsilon, "custom": _resampled,
    "ece": _calibration, "rms_calibration": _calibration, "beyond": _beyond,
}  # fmt: skip
