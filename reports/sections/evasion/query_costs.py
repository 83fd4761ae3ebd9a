"""What a broken image cost an attack that sees scores or labels alone: queries over its successes, luck told apart.

An attack that starts from a surrogate's pictures often needs no search at all; such successes (column at_init) are
counted apart, or its queries look like a search's. The column iou says how far an attribution map stayed as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.maths import stats

from ...measure.scores import measured_as
from ...read.runs import Results, once
from ...render.document import Entry, Table, accuracy, counted, split_constant, words
from ...render.text import number

WHERE = ("threat", "budget", "goal", "dataset", "model", "seed")
NUMBERS = ("n", "broken", "mean", "median", "at_init", "searched_mean", "searched_median", "iou")


@once
def query_costs(run: Results) -> pd.DataFrame:
    """One row an attack that asked for no gradient but for several answers an image, and defense.

    n: images attacked; broken, at_init: how many of them; mean, median: queries over the broken; searched_*: over those
    the first population did not break (NaN where the attack has none); iou: mean over the broken.
    """
    rows = [{**{name: cell[name] for name in ("run_id", *WHERE, "attack", "defense")}, **_spent(examples)}
            for cell, _, examples in asking(run)]  # fmt: skip
    return pd.DataFrame(rows, columns=["run_id", *WHERE, "attack", "defense", *NUMBERS])


def asking(run: Results) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any], Mapping[str, NDArray[Any]]]]:
    """The evasion cells whose attacks asked for no gradient but for several answers an image, those that speak for
    them, and their examples.
    """
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "evasion" else None
        examples = run.columns(source["run_id"]) if source and not source["backwards"] else {}
        if source and "queries" in examples and (examples["queries"] > 1).any():
            yield cell, source, examples


def _spent(examples: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    attacked = examples["clean_ok"].astype(bool)
    broken = attacked & ~examples["robust"].astype(bool)
    queries, apart = examples["queries"][broken], "at_init" in examples
    lucky = examples["at_init"][broken].astype(bool) if apart else np.zeros(len(queries), dtype=bool)
    searched = queries[~lucky] if apart else queries[:0]
    return {
        "n": int(attacked.sum()), "broken": len(queries), "mean": _mean(queries), "median": _median(queries),
        "at_init": float(lucky.sum()) if apart else np.nan,
        "searched_mean": _mean(searched), "searched_median": _median(searched),
        "iou": _mean(examples["iou"][broken]) if "iou" in examples else np.nan,
    }  # fmt: skip


def _mean(values: NDArray[Any]) -> float:
    """Of those that are no NaN; NaN of none."""
    whole = len(values) and values.dtype.kind in "iu"
    return float(np.mean(values) if whole else pd.Series(values, dtype=np.float64).mean())


def _median(values: NDArray[Any]) -> float:
    """Of those that are no NaN; NaN of none."""
    whole = len(values) and values.dtype.kind in "iu"
    return float(np.median(values) if whole else pd.Series(values, dtype=np.float64).median())


def cost_tables(run: Results) -> tuple[Table, ...]:
    """The rows of `query_costs` as a table, or none; columns nobody fills are left out."""
    found = query_costs(run)
    if not len(found):
        return ()
    names, caption = split_constant(found, WHERE)
    apart, mapped = bool(found["at_init"].notna().any()), bool(found["iou"].notna().any())
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
         _share(row, "broken"), _number(row["mean"]), _number(row["median"]),
         *((_share(row, "at_init"), _number(row["searched_mean"]), _number(row["searched_median"])) if apart else ()),
         *((_number(row["iou"]),) if mapped else ()), counted(row["n"], number(row["n"])))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (
        *names, "attack", "defense", "broken", "mean queries", "median queries",
        *(("broken at the start", "mean, others", "median, others") if apart else ()),
        *(("map IoU",) if mapped else ()), "n",
    )  # fmt: skip
    return (Table("query-costs", "Queries of the broken images", caption, columns, rows, "query_costs.csv"),)


def _share(row: Mapping[Any, Any], name: str) -> Entry:
    """A count of images as a rate of those attacked, with its interval."""
    if np.isnan(row[name]) or not row["n"]:
        return Entry("–", -1.0)
    k, n = int(row[name]), int(row["n"])
    return accuracy(k / n, *stats.clopper_pearson(k, n))


def _number(value: float) -> Entry:
    return Entry("–", np.inf) if np.isnan(value) else counted(value, number(value))
