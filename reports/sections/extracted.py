"""Model extraction: how near clones come to a system, by what its answers give away, and after how many questions.

Beside each clone stands the stranger: a network of the same architecture, trained as a clone is on the pictures that an
adversary may own, with their own labels. What it reaches is no theft. Transfer is of attacks that were made on the
clone, over the pictures that clone and victim both get right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.maths import stats

from ..measure.grades import shown
from ..measure.scores import measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, accuracy, counted, error, split_constant, words
from ..render.draw import LEGEND, LINES, MUTED, STYLES, Figure, draw, legend, query_axes, slug, told_apart, where
from ..render.text import number, percent, points, short
from .figures import drawn

WHERE = ("threat", "budget", "dataset", "model", "seed")
SHOWN = ("threat", "dataset", "model", "seed")
"""Of these what stands in the page: a threat has one budget, whose words are long here."""

SERIES = {"agree_at": "agreement", "clone_ok_at": "clone accuracy"}
COUNTED = (("agree", "answered"), ("clone_ok", ""), ("clean_ok", ""), ("transferred", "both_ok"),
           ("stranger_agree", "answered"), ("stranger_ok", ""),
           ("stranger_transferred", "stranger_both_ok"))  # fmt: skip
"""Columns with what they are counted among, '' for all."""

SAME = ("asked", "prada_after", "prada_w", "benign_after", "benign_w")


def thefts(run: Results) -> pd.DataFrame:
    """One row a cell: of each of COUNTED k_<column> of n_<column>, and what SAME say of all its rows."""
    rows = []
    for cell, examples in _cells(run):
        base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "defense", "sentence", "grade")}
        for column, among in COUNTED:
            counts = examples[examples[among].astype(bool)] if among else examples
            base |= {f"k_{column}": int(counts[column].sum()), f"n_{column}": len(counts)}
        rows.append(base | {name: float(examples[name].iloc[0]) for name in SAME})
    return pd.DataFrame(rows)


def curves(run: Results) -> pd.DataFrame:
    """One row a cell, number of queries and measure (agreement, clone accuracy): value, lo, hi, k of n."""
    rows = []
    for cell, examples in _cells(run):
        for column in cell["record"].columns:
            if column.series not in SERIES or column.at is None:
                continue
            counts = examples[examples["answered"].astype(bool)] if column.series == "agree_at" else examples
            k, n = int(counts[column.name].sum()), len(counts)
            if not n:
                continue
            lo, hi = stats.clopper_pearson(k, n)
            rows.append({
                **{name: cell[name] for name in ("run_id", *WHERE, "attack", "defense", "grade")},
                "queries": int(column.at), "measure": SERIES[column.series], "value": k / n, "lo": lo, "hi": hi,
                "k": k, "n": n,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _cells(run: Results) -> list[tuple[Mapping[Any, Any], pd.DataFrame]]:
    """The cells that were played, each with its examples where there are any."""
    cells = [(cell, measured_as(cell, run.known)) for cell in run.known.values() if cell["scenario"] == "extraction"]
    held = [(cell, run.examples(source["run_id"])) for cell, source in cells if source is not None]
    return [(cell, examples) for cell, examples in held if len(examples)]


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What model extraction adds to a report."""
    found = thefts(run)
    if not len(found):
        return Part((Section("extraction", "Model extraction"),))
    at = curves(run)
    lead = (
        "A thief asks a limited number of questions in total and trains a clone on the answers. Agreement is the share "
        "of test pictures, none of which it asked about, that clone and system answer alike. The stranger has the "
        "clone's architecture and asked nothing: it learnt the labels of pictures that a thief may own. Struck through "
        "is what agrees no more often than one class does: nothing was stolen by that attack, which shows nothing of "
        "others.",
    )
    section = Section("extraction", "Model extraction", lead, (_table(found), _detector(found)),
                      tuple(figures(at, found)), order=47)  # fmt: skip
    return Part((section,), frames={"extraction": found, "extraction_curves": at})


def _table(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, SHOWN)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
         counted(row["asked"], number(row["asked"])), _rate(row, "agree", error),
         _rate(row, "clone_ok", error), _ratio(row), _rate(row, "clean_ok", accuracy),
         _rate(row, "transferred", error), _rate(row, "stranger_agree", error),
         _rate(row, "stranger_transferred", error), _gain(row),
         counted(row["n_clean_ok"], number(row["n_clean_ok"])), Entry(row["sentence"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attack", "defense", "queries", "agreement", "clone accuracy", "of the system's",
               "system accuracy", "transfer", "stranger agrees", "stranger's transfer", "transfer beyond it", "n",
               "notes")  # fmt: skip
    return Table("extraction", "What is stolen through answers", caption, columns, rows, csv="extraction.csv")


def _rate(row: Mapping[Any, Any], name: str, made: Callable[[float, float, float], Entry]) -> Entry:
    k, n = int(row[f"k_{name}"]), int(row[f"n_{name}"])
    if not n:
        return Entry("–", -1.0, "no picture counts")
    entry = made(k / n, *stats.clopper_pearson(k, n))
    return shown(entry, row["grade"]) if name in ("agree", "clone_ok") and row["grade"] == "INVALID" else entry


def _ratio(row: Mapping[Any, Any]) -> Entry:
    """The clone's accuracy as a share of the system's."""
    if not row["k_clean_ok"]:
        return Entry("–", -1.0, "the system is never right")
    value = row["k_clone_ok"] / row["k_clean_ok"]
    return counted(value, percent(value))


def _gain(row: Mapping[Any, Any]) -> Entry:
    """Transfer from the clone less that from the stranger, in points."""
    if not (row["n_transferred"] and row["n_stranger_transferred"]):
        return Entry("–", -np.inf, "nothing that both get right")
    value = row["k_transferred"] / row["n_transferred"]
    value -= row["k_stranger_transferred"] / row["n_stranger_transferred"]
    return counted(value, points(value))


def _detector(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, SHOWN)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
         _alarm(row["prada_after"], row["prada_w"]), _least(row["prada_w"]),
         _alarm(row["benign_after"], row["benign_w"]), _least(row["benign_w"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attack", "defense", "alarm after", "least W", "benign: alarm after", "benign: least W")
    return Table("extraction_detected", "What PRADA says of the queries, and of the test pictures in their order",
                 caption, columns, rows)  # fmt: skip


def _alarm(after: float, w: float) -> Entry:
    if not np.isnan(after):
        return counted(after, f"{number(after)} queries")
    return Entry("too few queries", np.inf) if np.isnan(w) else Entry("none", np.inf)


def _least(w: float) -> Entry:
    return Entry("–", np.inf) if np.isnan(w) else counted(w, f"{w:.3f}")


def figures(table: pd.DataFrame, found: pd.DataFrame) -> list[Figure]:
    """Agreement and clone accuracy against queries: a drawing a system, threat and attack, a line a defense.

    Where nothing is defended, a drawing a system and threat, a line an attack.
    """
    told = set(table.loc[table["measure"] == "agreement", "run_id"]) if len(table) else set()
    table = table[table["run_id"].isin(told)] if told else table[:0]  # what answers nothing has nothing to draw
    if not told:
        return []
    defended = bool((table["defense"] != "none").any())
    line, by = ("defense", ["attack", *WHERE]) if defended else ("attack", [*WHERE])
    drawings = []
    for key, rows, left in drawn(list(table.groupby(by, sort=False))):
        names = told_apart(list(dict.fromkeys(rows[line])), partial(short, width=LEGEND))
        here = found[found["run_id"].isin(rows["run_id"])].iloc[0]
        stranger = here["k_stranger_agree"] / here["n_stranger_agree"] if here["n_stranger_agree"] else np.nan
        place = tuple(part for name, part in zip(by, key, strict=True) if name != "budget")
        caption = f"Agreement and clone accuracy against queries, {where(place)}{left}"
        paint = partial(_panels, rows=rows, line=line, names=names, stranger=stranger)
        drawings.append(draw(f"extraction-{slug(key)}", caption, (7.2, 3.9), paint))
    return drawings


def _panels(canvas: Canvas, rows: pd.DataFrame, line: str, names: dict[str, str], stranger: float) -> None:
    axes = canvas.subplots(1, 2, sharey=True)
    for ax, measure in zip(axes, SERIES.values(), strict=True):
        of = rows[rows["measure"] == measure]
        for i, (name, part) in enumerate(of.groupby(line, sort=False)):
            label = ("undefended" if name == "none" else names[str(name)]) if ax is axes[0] else None
            colour = LINES[i % len(LINES)]
            ax.plot(part["queries"], 100 * part["value"], marker="o", markersize=3, color=colour, linewidth=1.6,
                    linestyle=STYLES[i % 4], label=label)  # fmt: skip
            ax.fill_between(part["queries"], 100 * part["lo"], 100 * part["hi"], color=colour, alpha=0.1, linewidth=0)
        ticks = sorted(set(rows["queries"]))
        query_axes(ax, ticks[:: max(1, -(-len(ticks) // 6))], "queries", f"{measure}, %")
    if not np.isnan(stranger):
        axes[0].axhline(100 * stranger, color=MUTED, linewidth=1, linestyle=":", label="stranger, no queries")
    legend(canvas)
