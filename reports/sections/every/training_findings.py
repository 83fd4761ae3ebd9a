"""What defenses found out while they trained: a chart and a table each, from runs/<name>/artefacts/*.json.

An artefact names the weights it is about and holds a `finding`: title, note, and perhaps `bars` (axis, names,
values, the one marked) and a `table` (columns, rows). Nothing here knows which defense wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.records.findings import Artefact, Bars

from ...render.document import Entry, Section, Table, counted, words
from ...render.draw import INK, LINES, RULE, draw, slug
from ...render.text import number, plain, short


def poisons(cells: pd.DataFrame) -> dict[str, str]:
    """The weights (sha256) of these cells, and what their training set was poisoned with, '' where it was not."""
    by = cells["attack"].where(cells["scenario"].isin(["poisoning", "unlearnable"]), "")
    return dict(zip(cells["weights_sha256"], by, strict=True))


def artefact_section(artefacts: Iterable[Artefact], known: Mapping[str, str]) -> Section:
    """A section of the artefacts about these weights, as `poisons` names them; one where several agree."""
    shared: dict[str, list[Artefact]] = {}
    for artefact in artefacts:
        if artefact.weights_sha256 in known:
            shared.setdefault(artefact.finding.model_dump_json(), []).append(artefact)
    tables, figures, notes = [], [], []
    for group in shared.values():
        first, finding = group[0], group[0].finding
        defenses = ", ".join(dict.fromkeys(plain(a.defense) for a in group))
        poison = ", ".join(dict.fromkeys(plain(known[a.weights_sha256]) for a in group if known[a.weights_sha256]))
        on = f"{first.dataset} poisoned by {poison}" if poison else first.dataset
        about = f"{defenses} of {first.model} on {on}, seed {first.seed}"
        title, name = finding.title, slug((first.name, first.weights_sha256))
        notes.append(f"{title}: {finding.note} ({about}).")
        if bars := finding.bars:
            height = 0.75 + 0.21 * len(bars.names)
            figures.append(draw(f"bars-{name}", f"{title}, {about}", (7.2, height), partial(_bars, bars=bars)))
            rows = tuple((words(n), counted(v, number(v))) for n, v in zip(bars.names, bars.values, strict=True))
            tables.append(Table(f"bars-{name}", title, about, ("part", bars.axis), rows, ""))
        if listed := finding.table:
            entries = tuple(tuple(_entry(value) for value in row) for row in listed.rows)
            tables.append(Table(f"table-{name}", title, about, tuple(map(str, listed.columns)), entries, ""))
    title = "What defenses found while training"
    return Section("findings", title, tuple(notes), tuple(tables), tuple(figures), order=60)


def _entry(value: object) -> Entry:
    return counted(value, number(value)) if isinstance(value, int | float) else words(value)


def _bars(canvas: Canvas, bars: Bars) -> None:
    """A horizontal bar a name, in the given order from above; the marked one in its own colour."""
    ax = canvas.add_subplot()
    names, values = list(map(str, bars.names)), list(bars.values)
    colours = [LINES[1] if name == str(bars.marked) else LINES[0] for name in names]
    ax.barh(range(len(names)), values, color=colours, height=0.72)
    for place, value in enumerate(values):
        ax.text(value, place, f" {number(value)}", va="center", fontsize=7.2, color=INK)
    ax.set_yticks(range(len(names)), [short(name, 40) for name in names], fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(min(0.0, *values), 1.12 * max(*values, 1e-12))
    ax.tick_params(length=0)
    ax.set_xlabel(bars.axis)
    ax.axvline(0, color=RULE, linewidth=0.8)
