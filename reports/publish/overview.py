"""The tables a terminal of 80 columns shows when a sweep ends: rates in per cent with their intervals.

Defenses stand across under letters, since their names with parameters would not fit; a legend names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..answers.opening import said, short_answers
from ..measure.grades import label
from ..measure.scores import headline, measured_as, scores
from ..measure.seeds import THREAT, TOGETHER, over_seeds
from ..measure.tables import corruption_errors
from ..measure.worst import worst_case
from ..read.runs import Results, read
from ..render.document import Entry, words
from ..sections.every.checks_table import MEANING
from ..sections.generic import letters, mean_entry, one_severity

MARKS = {"PROVISIONAL": "≤ ", "INVALID": "✗ "}
"""Before a rate whose grade keeps it out of rankings."""

UNITS = {"mean_psnr": "dB", "suspicion_deviation": "standard deviations"}
"""Of headlines that are no shares."""

SAID = 6
"""Sentences that a terminal shows of those that the report opens with."""


class Grid(NamedTuple):
    """A title, a header (empty for a legend), rows; a rate's entry has its bar."""

    title: str
    header: list[str]
    rows: list[list[Entry]]


def overview(runs: Sequence[Path]) -> tuple[list[Grid], list[str]]:
    """One grid a threat (attacks down, defenses across), then one a shift set; and the sentences of failed cells.

    Where no system has a defense nothing stands above the rates. The last grids are titles alone: what is a screening,
    and what it comes to, a sentence a threat.
    """
    run = read(runs)
    table = scores(run)
    failed = run.cells[run.cells["status"] == "failed"]
    cells = failed.to_dict("records")
    on = {name: f" on {name}" if run.defended else "" for name in failed["defense"]}
    sentences = [f"{c['attack'] or c['corruption']}{on[c['defense']]}: {c['sentence']}" for c in cells]
    known = letters(run) or dict.fromkeys(run.cells["defense"], "")
    named = [[Entry(letter), words(name)] for name, letter in known.items() if letter]
    alone, errors = _of_one_seed(table), _of_one_seed(corruption_errors(run))
    grids = [*_threats(run, alone, worst_case(run)), *_shifts(run, errors), *_over_seeds(over_seeds(run))]
    marks = [[Entry(mark.strip()), Entry(MEANING[name])] for name, mark in MARKS.items() if name in set(table["grade"])]
    legend = [Grid("defenses" if named else "marks", [], [*named, *marks])] if named or marks else []
    answers = said(short_answers(run, table))
    left = [f"{len(answers) - SAID} more sentences stand in the report."] if len(answers) > SAID else []
    lines = [line for line in (_screenings(worst_case(run)), *answers[:SAID], *left) if line]
    shown = [g._replace(header=[known.get(h, h) for h in g.header]) for g in grids]
    return [*legend, *shown, *(Grid(line, [], []) for line in lines)], sentences


def _screenings(worst: pd.DataFrame) -> str:
    """Which threats' unions are screenings, and why, a line each: 'SOUND, screening: 80 images (linf, l2)'."""
    threats: dict[str, dict[str, None]] = {}
    for row in worst.to_dict("records"):
        if row["screening"]:
            threats.setdefault(label(row["grade"], row["screening"]).text, {})[str(row["threat"])] = None
    return "\n".join(f"{words} ({', '.join(names)})" for words, names in threats.items())


def _of_one_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of no threat or shift set that several seeds were asked under, whose means stand for them."""
    names = [name for name in ("threat", "shift", "model", "dataset") if name in rows]
    blank = rows[names].fillna("")
    return rows[rows.groupby([blank[name] for name in names])["seed"].transform("nunique") == 1] if len(rows) else rows


def _over_seeds(means: pd.DataFrame) -> Iterator[Grid]:
    kinds = means.groupby([*THREAT, "shift"], sort=False, dropna=False)
    for (_, threat, budget, _, dataset, model, shift), part in kinds:
        rows = part[part["metric"] != "clean_accuracy"] if (part["metric"] != "clean_accuracy").any() else part
        rows = rows.sort_values("attack", key=lambda names: names == TOGETHER, kind="stable")
        if not (threat or shift):
            continue
        grid = _grid(rows.assign(attack=rows["attack"].where(rows["attack"] != "", shift)), "attack", "defense", _mean)
        metric, unit = str(rows["metric"].iloc[0]).split("@")[0].replace("_", " "), "%, " if rows["rate"].all() else ""
        about = f"{threat} {budget}".strip() or shift
        title = f"{metric}, {unit}mean ± sd over {rows['seeds'].max()} seeds: {about}, {model} on {dataset}"
        yield Grid(title, ["", *grid.header[1:]], grid.rows)


def _mean(row: dict[Any, Any]) -> Entry:
    """A row of `over_seeds` in per cent where it is a share, with how many seeds are in it where not all are."""
    entry = mean_entry(row)
    short = f" ({row['sound']} of {row['seeds']})" if row["sound"] < row["seeds"] else ""
    return replace(entry, text=entry.text.removesuffix(" %") + short)


def _threats(run: Results, table: pd.DataFrame, worst: pd.DataFrame) -> Iterator[Grid]:
    part = table[table["threat"].fillna("") != ""]
    for (threat, model, dataset), rows in part.groupby(["threat", "model", "dataset"], sort=False):
        first = rows.iloc[0]
        sources = (measured_as(run.known[i], run.known) for i in rows["run_id"])
        wanted = next((headline(cell) for cell in sources if cell is not None), str(first["metric"]))
        shown = rows[(rows["metric"] == wanted) | ~rows["status"].isin(["done", "inert"])]
        grid = _grid(shown, "attack", "defense", _number if wanted in UNITS else _cell)
        if first["scenario"] == "evasion" and len(worst):
            here = worst[(worst["threat"] == threat) & (worst["model"] == model) & (worst["dataset"] == dataset)]
            united: dict[str, Mapping[Any, Any]] = {row["defense"]: row for row in here.to_dict("records")}
            grid.rows.append([Entry("all at once"), *(_rate(united.get(name)) for name in grid.header[1:])])
        unit = UNITS.get(wanted, "%")
        title = f"{wanted.split('@')[0].replace('_', ' ')}, {unit}: {threat} {first['budget']}, {model} on {dataset}"
        yield Grid(title, ["", *grid.header[1:]], grid.rows)


def _shifts(run: Results, errors: pd.DataFrame) -> Iterator[Grid]:
    if not len(errors):
        return
    keys = [k for k in ("shift", "model", "dataset") if k in errors]
    for key, rows in errors.groupby(keys, sort=False):
        grid = _grid(rows, "corruption", "defense", _error)
        over = one_severity(run, str(rows["shift"].iloc[0])) or "mean over severities"
        yield Grid(f"error, % ({over}): {', '.join(map(str, key))}", ["", *grid.header[1:]], grid.rows)


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


def _number(row: dict[Any, Any]) -> Entry:
    if row["status"] not in ("done", "inert") or pd.isna(row["value"]):
        return Entry(str(row["status"]))
    mark = MARKS.get(str(row.get("grade", "")), "")
    span = f" ({row['lo']:.1f}–{row['hi']:.1f})" if row["lo"] < row["hi"] else ""
    return Entry(f"{mark}{row['value']:.1f}{span}", float(row["value"]))


def _rate(row: Mapping[Any, Any] | None) -> Entry:
    if row is None or pd.isna(row["robust_accuracy"]):
        return Entry("–")
    mark, value = MARKS.get(str(row.get("grade", "")), ""), float(row["robust_accuracy"])
    text = f"{mark}{100 * value:.1f} ({100 * row['lo']:.0f}–{100 * row['hi']:.0f})"
    return Entry(text, value, bar=(value, row["lo"], row["hi"]))
