"""Distance against queries: what a decision-based attack has reached after so many questions, and how often in reach.

Read from the columns <norm>_at_<queries> of the per-example rows. An image that fell at once (wrong when clean) is no
opponent and is left out; one without an adversarial picture by then counts as infinitely far.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.maths import stats

from ...measure.scores import measured_as
from ...read.runs import Results, once
from ...render.document import Entry, Section, Table, accuracy, counted, split_constant, words
from ...render.draw import LEGEND, LINES, STYLES, Figure, draw, legend, slug, told_apart, where
from ...render.text import number, short
from ..figures import drawn

WHERE = ("threat", "budget", "goal", "dataset", "model", "seed", "defense")
THRESHOLDS = {
    "l2": (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0),
    "linf": tuple(k / 255 for k in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)),
    "l1": (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
}
"""Distances in [0, 1] pixel units at which success is counted, where it is neither none nor all."""

MOST_THRESHOLDS = 5

SERIES = {f"{norm}_at": norm for norm in THRESHOLDS}
"""The distance of the nearest adversarial picture so far, at several numbers of queries, and its norm."""


@once
def distances(run: Results) -> pd.DataFrame:
    """One row a cell and number of queries: norm, median distance (inf where most images have none), n and `reached`.

    reached: the distances themselves, (n,) float64, inf where there is none.
    """
    rows: list[dict[str, Any]] = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "evasion" else None
        series = [c for c in source["record"].columns if c.series in SERIES and c.at is not None] if source else []
        examples = run.columns(source["run_id"]) if source and series else {}
        for column in series:
            reached = examples[column.name][examples["clean_ok"].astype(bool)].astype(np.float64)
            if np.isfinite(reached).any():
                reached = np.where(np.isnan(reached), np.inf, reached)
                base = {name: cell[name] for name in ("run_id", *WHERE, "attack")}
                rows.append({**base, "norm": SERIES[column.series], "queries": int(column.at),
                             "median": float(np.median(reached)), "n": len(reached), "reached": reached})  # fmt: skip
    table = pd.DataFrame(rows, columns=["run_id", *WHERE, "attack", "norm", "queries", "median", "n", "reached"])
    return table.sort_values("queries", kind="stable").reset_index(drop=True)


def query_section(run: Results) -> Section:
    """Median distance at equal queries, success at distance thresholds, and the curve of both."""
    table = distances(run)
    found, figured = [], []
    if len(table):
        for norm, part in table.groupby("norm", sort=False):
            names, caption = split_constant(part, WHERE)
            found += [_medians(part, str(norm), names, caption), *_successes(part, str(norm), names, caption)]
        figured = figures(table)
    lead = (
        "The distance of the nearest adversarial image an attack had asked about by then, over the images the "
        "system gets right. Lower is a stronger attack; read columns, not rows: they are at equal queries.",
    )
    return Section("queries", "Distance against queries", lead if found else (), tuple(found), tuple(figured), order=12)


def _medians(table: pd.DataFrame, norm: str, names: list[str], caption: str) -> Table:
    marks = sorted(set(table["queries"]))
    rows = []
    for _, part in table.groupby("run_id", sort=False):
        one, at = part.iloc[0], part.set_index("queries")["median"].to_dict()
        rows.append((*(words(one[name]) for name in names), words(one["attack"]),
                     *(_distance(at.get(mark)) for mark in marks), counted(one["n"], number(one["n"]))))  # fmt: skip
    columns = (*names, "attack", *(f"{number(mark)} queries" for mark in marks), "n")
    return Table(f"distance-queries-{norm}", f"Median {norm} distance", caption, columns, tuple(rows), "queries.csv")


def _distance(median: float | None) -> Entry:
    if median is None:
        return Entry("–", np.inf)
    return Entry(number(median), median) if np.isfinite(median) else Entry("none", np.inf, "most images have none yet")


def _successes(table: pd.DataFrame, norm: str, names: list[str], caption: str) -> list[Table]:
    """Success rates at the largest number of queries that every attack has a distance at."""
    shared = set.intersection(*(set(part["queries"]) for _, part in table.groupby("run_id")))
    if not shared:
        return []
    last = table[table["queries"] == max(shared)]
    rates = {t: [float((r <= t).mean()) for r in last["reached"]] for t in THRESHOLDS[norm]}
    telling = [t for t, each in rates.items() if max(each) > 0 and min(each) < 1][:MOST_THRESHOLDS]
    if not telling:
        return []
    rows = tuple((*(words(row[name]) for name in names), words(row["attack"]),
                  *(_success(row, t) for t in telling), counted(row["n"], number(row["n"])))
                 for row in last.to_dict("records"))  # fmt: skip
    columns = (*names, "attack", *(f"within {_radius(t, norm)}" for t in telling), "n")
    title = f"Success rate by {norm} distance, after {number(max(shared))} queries"
    return [Table(f"success-distance-{norm}", title, caption, columns, rows, "queries.csv")]


def _radius(distance: float, norm: str) -> str:
    return f"{distance * 255:g}/255" if norm == "linf" else f"{distance:g}"


def _success(row: Mapping[Any, Any], threshold: float) -> Entry:
    k, n = int((row["reached"] <= threshold).sum()), int(row["n"])
    return accuracy(k / n, *stats.clopper_pearson(k, n))


def figures(table: pd.DataFrame) -> list[Figure]:
    """One drawing a system and threat: median distance against queries, a line an attack."""
    found = []
    defended = bool((table["defense"] != "none").any())
    groups = table[np.isfinite(table["median"])].groupby(list(WHERE), sort=False)
    for key, part, left in drawn([(key, part) for key, part in groups if part["queries"].nunique() > 1]):
        names = told_apart(list(dict.fromkeys(part["attack"])), partial(short, width=LEGEND))
        about = where(key if defended else key[:-1])
        caption = f"Median {part['norm'].iloc[0]} distance against queries, {about}{left}"
        found.append(draw(f"queries-{slug(key)}", caption, (7.2, 3.9), partial(_lines, part=part, names=names)))
    return found


def _lines(canvas: Canvas, part: pd.DataFrame, names: dict[str, str]) -> None:
    ax = canvas.add_subplot()
    for i, (attack, rows) in enumerate(part.groupby("attack", sort=False)):
        ax.plot(rows["queries"], rows["median"], "o", linestyle=STYLES[i % 4], color=LINES[i % len(LINES)],
                markersize=4, linewidth=1.8, label=names[str(attack)])  # fmt: skip
    marks = sorted(set(part["queries"]))
    ax.set_xscale("log")
    ax.set_xticks(marks, [number(mark) for mark in marks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 1.08 * float(part["median"].max()))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0, which="both")
    ax.set_xlabel("queries an image")
    ax.set_ylabel(f"median {part['norm'].iloc[0]} distance")
    legend(canvas)
