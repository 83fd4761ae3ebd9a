"""From per-example rows to scores: one row per cell and metric, each with its n and its interval.

Rates carry the Clopper-Pearson interval, means a percentile bootstrap over the examples (95 % both). Nothing here
depends on when, where or how fast a cell ran, so a disturbed sweep and an undisturbed one give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..read.runs import Results, once, radius_of
from .kinds import Rows, measured
from .kinds import Score as Score
from .kinds import average as average
from .kinds import certified as certified
from .kinds import rate as rate

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
    "grade",
    "screening",
    "code",
    "sentence",
    "same_as",
    "flags",
)
NUMBERS = ("metric", "value", "lo", "hi", "k", "n")
FACTS = tuple(name for name in COLUMNS if name not in (*NUMBERS, "flags"))


@once
def scores(run: Results) -> pd.DataFrame:
    """Every cell's scores, tidy: one row a cell and metric; a cell without a measurement keeps one row that says why.

    An inert cell repeats the number of the undefended run that `same_as` names.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for cell in run.known.values():
        source = measured_as(cell, run.known)
        found = cell_scores(source, run.columns(source["run_id"])) if source else [_unmeasured(cell)]
        flags = flag_names(cell)
        for score in found:
            for name in NUMBERS:
                columns[name].append(getattr(score, name))
            for name in FACTS:
                columns[name].append(cell[name])
            columns["flags"].append(flags)
    return pd.DataFrame(columns, columns=list(COLUMNS))


def measured_as(cell: Mapping[Any, Any], known: Mapping[Any, Mapping[Any, Any]]) -> Mapping[Any, Any] | None:
    """The cell whose examples speak for this one: itself when done, the undefended one when inert, else None."""
    if cell["status"] == "done":
        return cell
    twin = known.get(cell["same_as"]) if cell["status"] == "inert" else None
    return twin if twin is not None and twin["status"] == "done" else None


def flag_names(cell: Mapping[Any, Any]) -> str:
    """The names of a cell's integrity flags, sorted, joined by a semicolon."""
    return ";".join(sorted({str(flag.get("name", "flag")) for flag in cell["flags"]}))


def cell_scores(cell: Mapping[Any, Any], rows: Rows) -> list[Score]:
    """The scores of one measured cell, in the order its record declares them."""
    return list(measured(cell, rows))


def headline(cell: Mapping[Any, Any]) -> str:
    """The name of the score that ranks a cell, with the radius where it is one of proofs."""
    record = cell["record"]
    scorings = {s.name: s for c in record.columns for s in c.scores}
    found = scorings.get(record.scenario.headline)
    if found is None:
        return next(iter(scorings), record.scenario.headline or "score")
    return f"{found.name}@{radius_of(cell) or 0.0:.6g}" if found.kind == "beyond" else found.name


def _unmeasured(cell: Mapping[Any, Any]) -> Score:
    nan = float("nan")
    return Score(cell["record"].scenario.headline or "score", nan, nan, nan, -1, 0)


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
