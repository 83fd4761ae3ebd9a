"""What votes under noise came to: how likely the label is, picture by picture, beside the radius that follows from it.

A mean radius says little alone: it grows without bound with what is nearly sure already, and does not see what is
nearly proven.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from ..measure.kinds import certified, rate
from ..measure.scores import measured_as
from ..read.runs import Results, radius_of
from ..render.draw import LINES, STYLES, Figure, draw, legend, query_axes, radius_axes, slug, told_apart, where
from ..render.text import number, short
from .figures import called, drawn, key_of

GROUP = ("norm", "dataset", "model", "seed")

Line = tuple[Mapping[Any, Any], pd.DataFrame]
"""A certificate's cell and its examples."""


def voted(run: Results) -> list[Figure]:
    """Of each model: the spread of p_correct beside certified accuracy, and what more votes bring; none without votes.

    Cells whose n were decided one by one, at one radius, have no p_correct and are not drawn.
    """
    cells = run.cells[run.cells["scenario"] == "certification"]
    found = []
    for key, part, left in drawn(list(cells.groupby(list(GROUP), sort=False))):
        rows = [(cell, run.examples(source["run_id"])) for cell in part.to_dict("records")
                if (source := measured_as(cell, run.known)) is not None]  # fmt: skip
        lines: list[Line] = [(cell, examples) for cell, examples in rows if "p_correct" in examples]
        if not lines:
            continue
        best = _most(lines)
        systems = [f"{_doubt(cell['grade'])}{cell['defense']} · {cell['attack']}" for cell, _ in best]
        names = told_apart(systems, partial(short, width=46))
        caption = (
            f"Share of pictures whose label is at least so likely under noise, by lower bounds (left), and certified "
            f"accuracy by radius (right), of each system by the most votes it was given, {where(key)}{left}"
        )
        found.append(draw(f"votes-{slug(key)}", caption, (8.6, 3.2),
                          partial(_spread, lines=best, names=list(names.values()))))  # fmt: skip
        more = _by_votes(lines)
        if len(more):
            defenses = list(dict.fromkeys(more["defense"]))
            caption = (
                f"Certified accuracy by votes a picture, n0 + n, at radius 0 and at the threat's, {where(key)}{left}"
                f"{key_of(run, defenses)}"
            )
            named = called(run, defenses, partial(short, width=32))
            found.append(draw(f"by-votes-{slug(key)}", caption, (6.0, 3.2), partial(_more, rows=more, defenses=named)))
    return found


def _doubt(grade: object) -> str:
    """What a legend says before a number that failed a check."""
    return "INVALID: " if grade == "INVALID" else ""


def survival(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) numbers -> them in order, and the share (N,) of all that are at least as large."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return ordered, 1 - np.searchsorted(ordered, ordered, side="left") / len(ordered)


def _most(lines: list[Line]) -> list[Line]:
    """Of each system and threat the certificate with the most votes, in their order."""
    most: dict[tuple[str, str], Line] = {}
    for cell, examples in sorted(lines, key=lambda line: float(line[1]["votes"].mean())):
        most[cell["defense"], cell["threat"]] = cell, examples
    return [line for line in lines if any(line[0] is cell for cell, _ in most.values())]


def _by_votes(lines: list[Line]) -> pd.DataFrame:
    """A row a cell and radius, of systems that were certified with several numbers of votes."""
    rows = []
    for cell, examples in lines:
        for radius in (0.0, radius_of(cell) or 0.0):
            score = rate("certified_accuracy", certified(examples, radius))
            rows.append({"defense": cell["defense"], "radius": radius, "votes": float(examples["votes"].mean()),
                         "value": score.value, "lo": score.lo, "hi": score.hi, "n": score.n,
                         "doubt": _doubt(cell["grade"])})  # fmt: skip
    table = pd.DataFrame(rows).drop_duplicates(["defense", "radius", "votes"])
    return table[table.groupby("defense")["votes"].transform("nunique") > 1].sort_values("votes", kind="stable")


def _spread(canvas: Canvas, lines: list[Line], names: list[str]) -> None:
    left, right = canvas.subplots(1, 2)
    top = max(float(examples["radius"].max()) for _, examples in lines) or 1.0
    for i, ((_, examples), name) in enumerate(zip(lines, names, strict=True)):
        style = {"color": LINES[i % len(LINES)], "linestyle": STYLES[i % len(STYLES)], "linewidth": 1.6}
        p, share = survival(examples["p_correct"].to_numpy())
        left.step([0.0, *p, 1.0], [100.0, *(100 * share), 0.0], where="pre", label=f"{name}, n = {len(p)}", **style)
        radii = np.linspace(0, top, 81)
        proven = [100 * rate("certified_accuracy", certified(examples, r)).value for r in radii]
        right.plot(radii, proven, **style)
    radius_axes(right, str(lines[0][0]["norm"]), "certified accuracy, %", 1.02 * top)
    left.set_xlim(0.5, 1)  # below, a picture is not proven at any radius and counts as 0
    left.set_ylim(0, 102)
    left.grid(axis="y")
    left.set_axisbelow(True)
    left.tick_params(length=0)
    left.set_xlabel("p of the label under noise, at the least")
    left.set_ylabel("pictures, %")
    legend(canvas)


def _more(canvas: Canvas, rows: pd.DataFrame, defenses: dict[str, str]) -> None:
    ax = canvas.subplots()
    for i, (defense, label) in enumerate(defenses.items()):
        mine = rows[rows["defense"] == defense]
        for j, radius in enumerate(dict.fromkeys(mine["radius"])):
            part = mine[mine["radius"] == radius]
            error = [100 * (part["value"] - part["lo"]), 100 * (part["hi"] - part["value"])]
            name = f"{part['doubt'].max()}{label} radius {number(radius)}, n = {part['n'].min()}"
            ax.errorbar(part["votes"], 100 * part["value"], yerr=error, color=LINES[i % len(LINES)], marker="o",
                        linestyle=STYLES[j % len(STYLES)], markersize=4, capsize=2, label=name)  # fmt: skip
    query_axes(ax, sorted(set(rows["votes"])), "votes a picture", "certified accuracy, %")
    legend(canvas)
