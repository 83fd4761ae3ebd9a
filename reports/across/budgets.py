"""Robust accuracy by radius: threats that differ in nothing else, as one table and one figure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.records.schema import radius_words

from ..measure.budgets import FAMILY, SYSTEM, over_eps
from ..measure.grades import shown
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, split_constant, words
from ..render.draw import LEGEND, LINES, STYLES, Figure, draw, legend, radius_axes, slug, told_apart
from ..render.text import deviated, plain, short
from ..sections.figures import drawn
from ..sections.generic import groups

MOST_LINES = 8
"""Systems of one figure; more lines than colours are not told apart."""


def budgets_section(run: Results) -> Section:
    """Systems down and radii across, and the same as lines with their bands."""
    table = over_eps(run)
    found, figured = [], []
    for i, (key, part) in enumerate(groups(table, FAMILY)):
        threats, access, goal, norm = (str(value) for value in key)
        names, caption = split_constant(part, SYSTEM[:2])
        radii = sorted(set(part["eps"]))
        rows = []
        for system, mine in part.groupby(list(SYSTEM), sort=False):
            at = {row["eps"]: row for row in mine.to_dict("records")}
            said = dict(zip(SYSTEM, system, strict=True))
            rows.append((*(words(said[name]) for name in names), words(said["defense"]),
                         *(_entry(at.get(radius)) for radius in radii)))  # fmt: skip
        columns = (*names, "defense", *(radius_words(r, norm) if r else "no attack" for r in radii))
        about = (f"{norm} radius across", f"access to {access}", f"goal {goal}", caption)
        caption = "; ".join(said for said in about if said)
        found.append(Table(f"radii-{i + 1}", threats, caption, columns, tuple(rows), "over_eps.csv"))
    for key, part, left in drawn(list(groups(table, [*FAMILY, "dataset"]))):
        figured.append(_figure(run, key, part, left))
    lead = (
        "Threats that differ in their radius alone: the share of images right under every attack at once, with its "
        "exact 95 % interval; of several seeds the mean ± sample standard deviation and the range of the seeds.",
    )
    title = "Robust accuracy by radius"
    return Section("radii", title, lead if found else (), tuple(found), tuple(figured), order=10)


def _entry(row: Mapping[Any, Any] | None) -> Entry:
    if row is None or np.isnan(row["robust_accuracy"]):
        return Entry("–", -1.0, "" if row is None else row["grade"])
    if row["seeds"] == 1 and np.isnan(row["sd"]):
        return shown(accuracy(row["robust_accuracy"], row["lo"], row["hi"]), row["grade"], row["grade"])
    text = f"{deviated(100 * row['robust_accuracy'], 100 * row['sd'], '{:.1f}'.format)} %"
    bar = (row["robust_accuracy"], row["lo"], row["hi"])
    return shown(Entry(text, float(row["robust_accuracy"]), bar=bar), row["grade"], row["grade"])


def _figure(run: Results, key: tuple[Any, ...], part: pd.DataFrame, left: str) -> Figure:
    threats, access, goal, norm, dataset = (str(value) for value in key)
    several = bool((part["seeds"] > 1).any())
    models = part["model"].nunique() > 1
    defense = ", " + part["defense"].map(plain) if run.defended else ""
    system = part["model"] + defense if models else part["defense"]
    names = list(dict.fromkeys(system))
    more = f"; the first {MOST_LINES} of {len(names)} systems" if len(names) > MOST_LINES else ""
    about = (threats, access, goal, dataset, "" if models else str(part["model"].iloc[0]))
    band = "range over seeds" if several else "exact 95 % interval"
    caption = (
        f"Robust accuracy by {norm} radius, all attacks at once, with its {band} (numbers that failed a check are left "
        f"out), {' · '.join(filter(None, about))}{more}{left}"
    )
    some = names[:MOST_LINES]
    said = told_apart(some, partial(short, width=LEGEND)) if run.defended or models else dict.fromkeys(some, "")
    lines = part.assign(system=system)
    return draw(f"radii-{slug(key)}", caption, (7.2, 3.9), partial(_lines, part=lines, names=said, norm=norm))


def _lines(canvas: Canvas, part: pd.DataFrame, names: dict[str, str], norm: str) -> None:
    ax = canvas.add_subplot()
    for i, (system, name) in enumerate(names.items()):
        rows = part[(part["system"] == system) & (part["grade"] != "INVALID")]
        colour, y = LINES[i], 100 * rows[["robust_accuracy", "lo", "hi"]].astype(float)
        ax.plot(rows["eps"], y["robust_accuracy"], "o", color=colour, linestyle=STYLES[i % 4], linewidth=1.8,
                markersize=4, label=name)  # fmt: skip
        ax.fill_between(rows["eps"].astype(float), y["lo"], y["hi"], color=colour, alpha=0.13, linewidth=0)
    radii = sorted(set(part["eps"]))
    radius_axes(ax, norm, "robust accuracy, %", 1.03 * radii[-1])
    said = [radius_words(radius, norm) for radius in radii]
    whole = norm == "linf" and all(len(text.removesuffix("/255")) <= 5 for text in said)
    ax.set_xticks(radii, [text.removesuffix("/255") if whole else text for text in said])
    ax.set_xlabel("linf radius, 1/255" if whole else f"{norm} radius")
    if any(names.values()):
        legend(canvas)
