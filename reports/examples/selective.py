"""How a system would do if it answered only where it is sure: risk against the share answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from ..measure.selective import SUREST, WHERE, Curve, curves, selective
from ..read.runs import Results
from ..render.document import Entry, Section, Table, counted, error, split_constant, words
from ..render.draw import LEGEND, LINES, MUTED, STYLES, Figure, draw, legend, slug, told_apart, where
from ..render.text import number, percent, short
from ..sections.figures import MOST

LINES_MOST, BOUNDED = len(LINES), 3
"""Systems in one figure, of which the table has all; and up to how many of them the best and random order are drawn."""


def selective_section(run: Results) -> Section:
    """The table of every system on the clean pictures, on every shift set and where it rejects, with its curves."""
    frame = selective(run)
    lead = (
        "How often the system is wrong if it answers only the pictures it is surest of and passes on the rest: the "
        "lower a curve stays, the better its confidence tells right from wrong answers. AURC is the mean of the curve. "
        "A random order has the error of all answers as its AURC; the optimal order, every right answer before a wrong "
        "one, has the least that this error allows.",
        *(("Systems that reject or abstain are a point: how much they answer, and how often that is wrong, under the "
           "attack that makes it most often wrong.",) if (frame["threat"] != "").any() else ()),
    )  # fmt: skip
    rows = len(frame) > 0
    return Section("selective", "Answering only when sure", lead, (_table(frame),) if rows else (),
                   tuple(_figures(run)), order=35)  # fmt: skip


def _table(frame: pd.DataFrame) -> Table:
    names, caption = split_constant(frame, WHERE[:-1])
    rows = []
    for row in frame.to_dict("records"):
        on = f"{row['threat']}, {row['attack']}" if row["threat"] else row["shift"]
        risk = error(row["risk"], row["lo"], row["hi"])
        least = "≥ " if row["grade"] == "PROVISIONAL" else ""  # a weak attack hides errors
        risk = replace(risk, text=least + risk.text, struck=row["grade"] == "INVALID")
        ordered = (_percent(row["risk_surest"]), _percent(row["aurc"]), _percent(row["aurc_random"]),
                   _percent(row["aurc_optimal"]))  # fmt: skip
        rows.append((*(words(row[name]) for name in names), Entry(on), words(row["defense"]),
                     counted(row["coverage"], percent(row["coverage"])), risk,
                     *ordered, counted(row["n"], number(row["n"]))))  # fmt: skip
    columns = (*names, "pictures", "defense", "answered", "wrong among them", f"among the surest {100 * SUREST:.0f} %",
               "AURC", "random", "optimal", "n")  # fmt: skip
    return Table("selective", "Wrong answers among what is answered", caption, columns, tuple(rows), "selective.csv")


def _percent(value: float) -> Entry:
    return Entry("–", 2.0) if np.isnan(value) else counted(value, percent(value))


def _figures(run: Results) -> list[Figure]:
    """A figure for the clean pictures and for each shift set, of several seeds the first."""
    sets: dict[tuple[Any, ...], list[Curve]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for curve in curves(run):
        key = tuple(curve.facts[name] for name in ("shift", "dataset", "model"))
        if curve.facts["seed"] == first.setdefault(key, curve.facts["seed"]):
            sets.setdefault(key, []).append(curve)
    found = []
    for key, mine in list(sets.items())[:MOST]:
        left = f"; the first {LINES_MOST} of {len(mine)} systems" if len(mine) > LINES_MOST else ""
        bounds = "; dotted: in random order and in the optimal one" if len(mine) <= BOUNDED else ""
        mine = mine[:LINES_MOST]
        caption = f"Wrong among the answered, the surest first{bounds}, {where(key)}{left}"
        names = told_apart([c.facts["defense"] for c in mine], partial(short, width=LEGEND)) if run.defended else {}
        found.append(draw(f"selective-{slug(key)}", caption, (5.4, 3.4), partial(_paint, some=mine, names=names)))
    return found


def _paint(canvas: Canvas, some: Sequence[Curve], names: dict[str, str]) -> None:
    ax = canvas.add_subplot()
    for i, curve in enumerate(some):
        colour, answered = LINES[i % len(LINES)], 100 * curve.coverage
        ax.plot(answered, 100 * curve.risk, color=colour, linestyle=STYLES[i % 4], linewidth=1.8,
                label=names.get(curve.facts["defense"], ""))  # fmt: skip
        for bound in (np.full_like(curve.risk, curve.risk[-1]), curve.best) if len(some) <= BOUNDED else ():
            ax.plot(answered, 100 * bound, color=colour, linestyle=":", linewidth=1)
    ax.set_xlim(0, 100)
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.set_xlabel("answered, %", color=MUTED)
    ax.set_ylabel("wrong among the answered, %")
    if names:
        legend(canvas)
