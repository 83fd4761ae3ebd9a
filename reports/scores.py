"""From per-example rows to scores: one row per cell and metric, each with its n and its interval.

Rates carry the Clopper-Pearson interval, means a percentile bootstrap over the examples (95 % both). Nothing here
depends on when, where or how fast a cell ran, so a disturbed sweep and an undisturbed one give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robustsuite import stats
from robustsuite.integrity import epsilon

from .calibration import expected_calibration_error, rms_calibration_error
from .read import Run

IDENTITY = (
    "run_id", "threat", "scenario", "access", "budget", "goal", "model", "defense", "attack", "dataset", "shift",
    "corruption", "severity", "seed",
)  # fmt: skip
COLUMNS = (
    *IDENTITY,
    "metric",
    "value",
    "lo",
    "hi",
    "k",
    "n",
    "status",
    "verdict",
    "code",
    "sentence",
    "same_as",
    "flags",
)
HEADLINE = {
    "evasion": "robust_accuracy", "shift": "accuracy", "certification": "certified_accuracy",
    "poisoning": "attack_success_rate", "unlearnable": "clean_accuracy", "inversion": "mean_psnr",
}  # fmt: skip
_NAMES = {
    "clean_ok": "clean_accuracy",
    "triggered_as_target": "attack_success_rate",
    "robust": "robust_accuracy",
}
_NOT_A_SCORE = ("run_id", "index", "label", "prediction", "queries")
_SEED = 0


@dataclass(frozen=True)
class Score:
    """A number in its own unit, with its interval; `k` is the count behind a rate and -1 behind a mean."""

    metric: str
    value: float
    lo: float
    hi: float
    k: int
    n: int


def rate(metric: str, verdict: Any) -> Score:
    """The share of True among (N,) bools, with its Clopper-Pearson interval."""
    v = np.asarray(verdict, dtype=bool)
    k, n = int(v.sum()), int(v.size)
    lo, hi = stats.clopper_pearson(k, n)
    return Score(metric, k / n, lo, hi, k, n)


def average(metric: str, values: Any) -> Score:
    """The mean of (N,) numbers, with its bootstrap interval."""
    v = np.asarray(values, dtype=np.float64)
    lo, hi = stats.bootstrap_interval(v, _SEED)
    return Score(metric, stats.mean(v), lo, hi, -1, int(v.size))


def scores(run: Run) -> pd.DataFrame:
    """Every cell's scores, tidy: one row a cell and metric; a cell without a measurement keeps one row that says why.

    An inert cell repeats the number of the undefended run that `same_as` names.
    """
    rows: list[dict[str, Any]] = []
    for cell in run.known.values():
        base = {name: cell[name] for name in (*IDENTITY, "status", "code", "sentence", "same_as")}
        base["flags"], base["verdict"] = flag_names(cell), cell.get("verdict", "")
        source = measured_as(cell, run.known)
        found = cell_scores(source, run.examples(source["run_id"])) if source else [_unmeasured(cell)]
        rows += [{**base, **vars(score)} for score in found]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def measured_as(cell: Mapping[Any, Any], known: Mapping[Any, Mapping[Any, Any]]) -> Mapping[Any, Any] | None:
    """The cell whose examples speak for this one: itself when done, the undefended one when inert, else None."""
    if cell["status"] == "done":
        return cell
    twin = known.get(cell["same_as"]) if cell["status"] == "inert" else None
    return twin if twin is not None and twin["status"] == "done" else None


def flag_names(cell: Mapping[Any, Any]) -> str:
    """The names of a cell's integrity flags, sorted, joined by a semicolon."""
    return ";".join(sorted({str(flag.get("name", "flag")) for flag in cell["flags"]}))


def cell_scores(cell: Mapping[Any, Any], rows: pd.DataFrame) -> list[Score]:
    """The scores of one measured cell, its headline first."""
    if cell["scenario"] == "evasion":
        return list(_evasion(rows))
    if cell["scenario"] == "shift":
        return list(_shift(cell, rows))
    if cell["scenario"] == "certification":
        return list(_certification(cell, rows))
    if cell["scenario"] == "poisoning":
        return list(_poisoning(rows))
    if cell["scenario"] == "inversion":
        return list(_inversion(rows))
    return list(_any_scenario(rows))


def _unmeasured(cell: Mapping[Any, Any]) -> Score:
    nan = float("nan")
    return Score(HEADLINE.get(cell["scenario"], "score"), nan, nan, nan, -1, 0)


def _evasion(rows: pd.DataFrame) -> Iterator[Score]:
    yield rate("robust_accuracy", rows["robust"])
    yield rate("clean_accuracy", rows["clean_ok"])
    for column in ("rejected", "overturned"):
        if column in rows and rows[column].any():
            yield rate(f"{column}_rate", rows[column])


def _shift(cell: Mapping[Any, Any], rows: pd.DataFrame) -> Iterator[Score]:
    if cell["shift"] == "clean":
        yield rate("clean_accuracy", rows["robust"])
        return
    yield rate("accuracy", rows["robust"])
    if "clean_ok" in rows and rows["clean_ok"].notna().all():
        yield rate("clean_accuracy", rows["clean_ok"])
    if "confidence" in rows:
        for error in (rms_calibration_error, expected_calibration_error):
            value = error(rows["confidence"], rows["robust"])
            yield Score(error.__name__, value, float("nan"), float("nan"), -1, len(rows))


def _certification(cell: Mapping[Any, Any], rows: pd.DataFrame) -> Iterator[Score]:
    r = rows["radius"].to_numpy(np.float64)
    for radius in radii(cell["budget"], float(r.max(initial=0.0))):
        yield rate(f"certified_accuracy@{radius:.6g}", certified(rows, radius))
    yield average("mean_certified_radius", r)
    yield rate("abstained_rate", rows["abstained"])
    if "clean_ok" in rows and rows["clean_ok"].notna().all():
        yield rate("clean_accuracy", rows["clean_ok"])


def certified(rows: pd.DataFrame, radius: float) -> Any:
    """Which examples (N,) are proven right at `radius`; at 0 that is: answered, and answered right."""
    if radius <= 0:
        return (rows["prediction"] == rows["label"]).to_numpy() & ~rows["abstained"].to_numpy(bool)
    # A radius equal to the budget is stored in float64 from a float32 bound: a relative hair is not a missed proof.
    return rows["radius"].to_numpy(np.float64) >= radius * (1 - 1e-6)


def radii(budget: str, largest: float) -> list[float]:
    """The radii to quote: 0, the threat's own and its simple multiples; quarters of the largest where it has none."""
    eps = epsilon(budget)
    if eps is not None:
        return [0.0, eps / 2, eps] + [m * eps for m in (1.5, 2.0, 3.0) if m * eps <= largest]
    if largest <= 0:
        return [0.0]
    step = float(f"{largest / 4:.1g}")
    return [0.0, *(round(step * i, 12) for i in range(1, 5) if step * i <= largest)]


def _poisoning(rows: pd.DataFrame) -> Iterator[Score]:
    meant = rows["eligible"].astype(bool)
    if meant.any():
        yield rate("attack_success_rate", rows.loc[meant, "triggered_as_target"])
        yield rate("triggered_rejected_rate", rows.loc[meant, "flagged"])
        yield average("mean_psnr", rows.loc[meant, "psnr"])
    yield rate("clean_accuracy", rows["clean_ok"])
    yield rate("clean_rejected_rate", rows["flagged_clean"])


def _inversion(rows: pd.DataFrame) -> Iterator[Score]:
    yield average("mean_psnr", rows["psnr"])
    yield average("mean_ssim", rows["ssim"])
    for column in ("label_ok", "label_found", "identified", "failed"):
        yield rate(f"{column}_rate", rows[column])
    if "federated_accuracy" in rows:
        yield average("mean_federated_accuracy", rows["federated_accuracy"])


def _any_scenario(rows: pd.DataFrame) -> Iterator[Score]:
    for column in rows.columns:
        values = rows[column]
        if column in _NOT_A_SCORE or column.startswith("after_") or values.isna().all():
            continue
        present = values.dropna()
        if pd.api.types.is_bool_dtype(values) or set(map(type, present)) == {bool}:
            yield rate(_NAMES.get(column, f"{column}_rate"), present.astype(bool))
        elif pd.api.types.is_numeric_dtype(values) and np.isfinite(present).all():
            yield average(f"mean_{column}", present)


def to_csv(table: pd.DataFrame) -> str:
    """A DataFrame as csv text with fixed float digits and line ends, the same bytes for the same rows everywhere."""
    shown = table.copy()
    for name in shown.columns:
        if pd.api.types.is_float_dtype(shown[name]):
            shown[name] = [_number(v) for v in shown[name]]
        elif shown[name].dtype == object or pd.api.types.is_string_dtype(shown[name]):
            shown[name] = [_inert(v) for v in shown[name]]
    return shown.to_csv(index=False, lineterminator="\n")


def _number(value: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6f}"


def _inert(value: Any) -> Any:
    # A spreadsheet runs a cell that starts with one of these as a formula; names come from other people's plugins.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
