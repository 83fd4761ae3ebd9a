"""Robust accuracy against queries: how fast an attack that sees scores or labels alone breaks images at the budget.

An image counts as broken after q queries where the judge says that it broke and the attack had got there by then: its
`queries` are at most q, or, for attacks that go on looking for a nearer picture, its distance after q
(<norm>_at_<queries>) is within the budget's radius. So no curve ends below the robust accuracy of the cell, and what
goes on to its last question, as attacks on a system that draws noise do, breaks nothing before. The attack success rate
at equal queries of BlackboxBench (arXiv 2312.16979) is 1 minus the curve over the accuracy at 0 queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from robustsuite.maths import stats

from ...measure.grades import shown
from ...read.runs import Results, once, radius_of
from ...render.document import Entry, Section, Table, accuracy, counted, split_constant, words
from ...render.draw import LEGEND, LINES, STYLES, Figure, draw, legend, query_axes, slug, told_apart, where
from ...render.text import number, percent, short
from ..figures import drawn
from .queries import SERIES, WHERE
from .query_costs import asking

MARKS = (100, 250, 500, 1000, 2500, 5000, 10000)
"""Numbers of queries that the table shows, up to the most that an attack asked of an image."""

FINE = 48
"""Points of a curve whose successes are known to the query."""


class Broken(NamedTuple):
    """When images broke: (n,) queries, inf for never and 0 for wrong when clean; `known`: at which they are told.

    exact: whether each is told to the query, else to the next of `known`.
    """

    after: NDArray[np.float64]
    known: NDArray[np.int64]
    exact: bool


@once
def query_curves(run: Results) -> pd.DataFrame:
    """One row a cell and number of queries: robust_accuracy with its interval, k of n, after so many.

    Of the broken, `mean` and `median` queries; NaN where they are known to the next checkpoint alone, or none is.
    A cell of attacks that seek the nearest picture within no radius is left out.
    """
    rows: list[dict[str, Any]] = []
    for cell, source, examples in asking(run):
        broken = when_broken(source, examples)
        if broken is None:
            continue
        searched = broken.after[(broken.after > 0) & np.isfinite(broken.after)]
        told = searched if broken.exact else searched[:0]
        base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "grade")}
        base |= {"mean": told.mean() if len(told) else np.nan, "median": np.median(told) if len(told) else np.nan}
        n, before = len(broken.after), -1
        for q in broken.known.tolist():
            k = int((broken.after > q).sum())
            if k == before and q not in (*MARKS, broken.known[-1]):
                continue  # the curve is level there
            if k != before:
                lo, hi = stats.clopper_pearson(k, n)
            rows.append({**base, "queries": q, "robust_accuracy": k / n, "lo": lo, "hi": hi, "k": k, "n": n})
            before = k
    numbers = ("queries", "robust_accuracy", "lo", "hi", "k", "n", "mean", "median")
    return pd.DataFrame(rows, columns=["run_id", *WHERE, "attack", "grade", *numbers])


def when_broken(cell: Mapping[Any, Any], examples: Mapping[str, NDArray[Any]]) -> Broken | None:
    """When the images of a cell broke; None where its columns do not say."""
    clean, asked = examples["clean_ok"].astype(bool), examples["queries"].astype(np.int64)
    fell, eps = clean & ~examples["robust"].astype(bool), radius_of(cell)
    most = int(asked.max())
    series = sorted((c.at, c.name) for c in cell["record"].columns
                    if SERIES.get(c.series) == cell["norm"] and c.at is not None
                    and (c.at <= most or np.isfinite(examples[c.name]).any()))  # fmt: skip
    after = np.where(clean, np.inf, 0.0)
    if not series:
        if "linf" in examples:  # the nearest was sought and nobody noted when: `queries` are all it was given
            return None
        after[fell] = asked[fell]
        marks = [q for q in MARKS if q <= most]
        fine = np.unique(np.geomspace(1, most, FINE).round().astype(np.int64))
        return Broken(after, np.unique([0, *marks, *fine, most]), True)
    if eps is None or not np.isfinite(eps):
        return None
    after[fell] = most  # got there in the end, be it by another route
    for at, name in reversed(series):
        after[fell & (examples[name] <= eps)] = at
    marks = [int(at) for at, _ in series]
    return Broken(after, np.array([0, *marks, *([most] if most > marks[-1] else [])]), False)


def query_curve_section(run: Results) -> Section:
    """Robust accuracy after equal numbers of queries, and the curve."""
    table = query_curves(run)
    lead = (
        "How much is left standing at the budget's radius after so many queries an image, with exact 95 % intervals. "
        "Read columns, not rows: they are at equal queries. An attack that was given fewer has no number there. "
        "Mean and median are of the images that broke.",
    )
    found = (_table(table),) if len(table) else ()
    return Section("query-curves", "Robust accuracy against queries", lead if found else (), found,
                   tuple(figures(table)), order=12)  # fmt: skip


def _table(table: pd.DataFrame) -> Table:
    names, caption = split_constant(table, WHERE)
    marks = [mark for mark in MARKS if mark in set(table["queries"])]
    rows = []
    for _, part in table.groupby("run_id", sort=False):
        one, at = part.iloc[0], part.set_index("queries").to_dict("index")
        rows.append((
            *(words(one[name]) for name in names), words(one["attack"]),
            counted(at[0]["robust_accuracy"], percent(at[0]["robust_accuracy"])),
            *(_rate(at.get(mark), str(one["grade"])) for mark in marks), _told(one["mean"]), _told(one["median"]),
            counted(one["n"], number(one["n"])),
        ))  # fmt: skip
    columns = (*names, "attack", "no attack", *(f"{number(mark)} queries" for mark in marks), "mean queries",
               "median queries", "n")  # fmt: skip
    return Table("accuracy-queries", "Robust accuracy after so many queries", caption, columns, tuple(rows),
                 "query_curves.csv")  # fmt: skip


def _rate(row: Mapping[Any, Any] | None, grade: str) -> Entry:
    if row is None:
        return Entry("–", np.inf)
    return shown(accuracy(row["robust_accuracy"], row["lo"], row["hi"]), grade)


def _told(value: float) -> Entry:
    return Entry("–", np.inf) if np.isnan(value) else counted(value, number(value))


def figures(table: pd.DataFrame) -> list[Figure]:
    """One drawing a system and threat: robust accuracy against queries, a line an attack with its band."""
    found = []
    defended = bool((table["defense"] != "none").any())
    for key, part, left in drawn(list(table.groupby(list(WHERE), sort=False))):
        names = told_apart(list(dict.fromkeys(part["attack"])), partial(short, width=LEGEND))
        caption = f"Robust accuracy against queries, {where(key if defended else key[:-1])}{left}"
        found.append(draw(f"query-curve-{slug(key)}", caption, (7.2, 3.9), partial(_lines, part=part, names=names)))
    return found


def _lines(canvas: Canvas, part: pd.DataFrame, names: dict[str, str]) -> None:
    ax = canvas.add_subplot()
    part = part[part["queries"] > 0]
    for i, (attack, rows) in enumerate(part.groupby("attack", sort=False)):
        colour = LINES[i % len(LINES)]
        ax.step(rows["queries"], 100 * rows["robust_accuracy"], where="post", linestyle=STYLES[i % 4], color=colour,
                linewidth=1.8, label=names[str(attack)])  # fmt: skip
        ax.fill_between(rows["queries"], 100 * rows["lo"], 100 * rows["hi"], step="post", color=colour, alpha=0.13,
                        linewidth=0)  # fmt: skip
    ticks = [mark for mark in (1, 10, *MARKS) if part["queries"].min() <= mark <= part["queries"].max()]
    query_axes(ax, ticks, "queries an image", "robust accuracy, %")
    legend(canvas)
