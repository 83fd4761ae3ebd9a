"""The tables a terminal of 80 columns shows when a sweep ends: rates in per cent with their intervals.

Defenses stand across under letters, since their names with parameters would not fit; a legend names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..measure.scores import headline, measured_as, scores
from ..measure.tables import corruption_errors
from ..measure.worst import worst_case
from ..read.runs import Results, read
from ..render.document import Entry, words
from ..sections.checks_table import MEANING

MARKS = {"PROVISIONAL": "≤ ", "INVALID": "✗ "}
"""Before a rate whose grade keeps it out of rankings."""


class Grid(NamedTuple):
    """A title, a header (empty for a legend), rows; a rate's entry has its bar."""

    title: str
    header: list[str]
    rows: list[list[Entry]]


def overview(runs: Sequence[Path]) -> tuple[list[Grid], list[str]]:
    """One grid a threat (attacks down, defenses across), then one a shift set; and the sentences of failed cells."""
    run = read(runs)
    table = scores(run)
    failed = run.cells[run.cells["status"] == "failed"]
    cells = failed.to_dict("records")
    sentences = [f"{c['attack'] or c['corruption']} on {c['defense']}: {c['sentence']}" for c in cells]
    letters = {name: _letter(i) for i, name in enumerate(dict.fromkeys(table["defense"]))}
    legend = Grid("defenses", [], [[Entry(letter), words(name)] for name, letter in letters.items()])
    grids = [*_threats(run, table, worst_case(run)), *_shifts(corruption_errors(run))]
    if marks := [[mark.strip(), MEANING[name]] for name, mark in MARKS.items() if name in set(table["grade"])]:
        legend = legend._replace(rows=[*legend.rows, *([Entry(text) for text in row] for row in marks)])
    return [legend, *(g._replace(header=[letters.get(h, h) for h in g.header]) for g in grids)], sentences


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"A{i}"


def _threats(run: Results, table: pd.DataFrame, worst: pd.DataFrame) -> Iterator[Grid]:
    part = table[table["threat"].fillna("") != ""]
    for (threat, model, dataset, seed), rows in part.groupby(["threat", "model", "dataset", "seed"], sort=False):
        first = rows.iloc[0]
        sources = (measured_as(run.known[i], run.known) for i in rows["run_id"])
        wanted = next((headline(cell) for cell in sources if cell is not None), str(first["metric"]))
        shown = rows[(rows["metric"] == wanted) | ~rows["status"].isin(["done", "inert"])]
        grid = _grid(shown, "attack", "defense", _decibels if wanted == "mean_psnr" else _cell)
        if first["scenario"] == "evasion" and len(worst):
            here = worst[(worst["threat"] == threat) & (worst["model"] == model) & (worst["dataset"] == dataset)]
            rated = here[here["seed"] == seed].to_dict("records")
            united: dict[str, Mapping[Any, Any]] = {row["defense"]: row for row in rated}
            grid.rows.append([Entry("all at once"), *(_rate(united.get(name)) for name in grid.header[1:])])
        unit = "dB" if wanted == "mean_psnr" else "%"
        title = f"{wanted.split('@')[0].replace('_', ' ')}, {unit}: {threat} {first['budget']}, {model} on {dataset}"
        title += f", seed {seed}" if part["seed"].nunique() > 1 else ""
        yield Grid(title, ["", *grid.header[1:]], grid.rows)


def _shifts(errors: pd.DataFrame) -> Iterator[Grid]:
    if not len(errors):
        return
    keys = [k for k in ("shift", "model", "dataset", "seed") if k in errors]
    for key, rows in errors.groupby(keys, sort=False):
        grid = _grid(rows, "corruption", "defense", _error)
        yield Grid(f"error, % (mean over severities): {', '.join(map(str, key))}", ["", *grid.header[1:]], grid.rows)


def _grid(rows: pd.DataFrame, down: str, across: str, cell: Callable[[dict[Any, Any]], Entry]) -> Grid:
    columns, index = list(dict.fromkeys(rows[across])), list(dict.fromkeys(rows[down]))
    found = {(row[down], row[across]): cell(row) for row in rows.to_dict("records")}
    return Grid("", [down, *columns], [[words(i), *(found.get((i, c), Entry("")) for c in columns)] for i in index])


def _cell(row: dict[Any, Any]) -> Entry:
    if row["status"] not in ("done", "inert"):
        return Entry(str(row["status"]))
    return _rate({**row, "robust_accuracy": row["value"]})


def _error(row: dict[Any, Any]) -> Entry:
    value = float(row["error"])
    return Entry(f"{100 * value:.1f}", value, bar=(value, row["lo"], row["hi"]))


def _decibels(row: dict[Any, Any]) -> Entry:
    if row["status"] not in ("done", "inert") or pd.isna(row["value"]):
        return Entry(str(row["status"]))
    mark = MARKS.get(str(row.get("grade", "")), "")
    return Entry(f"{mark}{row['value']:.1f} ({row['lo']:.1f}–{row['hi']:.1f})", float(row["value"]))


def _rate(row: Mapping[Any, Any] | None) -> Entry:
    if row is None or pd.isna(row["robust_accuracy"]):
        return Entry("–")
    mark, value = MARKS.get(str(row.get("grade", "")), ""), float(row["robust_accuracy"])
    text = f"{mark}{100 * value:.1f} ({100 * row['lo']:.0f}–{100 * row['hi']:.0f})"
    return Entry(text, value, bar=(value, row["lo"], row["hi"]))
