"""The tables of the shift scenario: corruption errors with mCE, and natural shifts as paired drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..measure.mce import ALEXNET_EXTRA, mce, relative_mce
from ..measure.tables import CORRUPTIONS, corruption_errors, corruption_grid
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, counted, error
from ..render.text import percent
from .explained import shape_bias, shape_tables
from .figures import corruption_panels
from .generic import across, groups, one_severity, titled
from .natural import natural_tables

_WHERE = ("dataset", "model", "seed")


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What shifts add to a report."""
    tables = (*shift_tables(run), *shape_tables(run))
    section = Section("shifts", "Distribution shift", (), tables, tuple(corruption_panels(run)), order=30)
    shape = {"shape_bias": shape_bias(run)} if len(shape_bias(run)) else {}
    return Part((section,), frames={"corruptions": corruption_errors(run), **shape})


def shift_tables(run: Results) -> Iterator[Table]:
    """One table of mean corruption errors per shift set and model, then one of the natural shifts."""
    errors, grid = corruption_errors(run), corruption_grid(run)
    parts = list(groups(errors, ("shift", *_WHERE)))
    titles = titled([key for key, _ in parts], ("shift", *_WHERE))
    for i, ((key, part), title) in enumerate(zip(parts, titles, strict=True)):
        caption = ", ".join(
            f"{name} {value}" for name, value in zip(("dataset", "model", "seed"), key[1:], strict=True)
        )
        caption += _read_as(run, key)
        mine = grid[(grid[["shift", *_WHERE]] == list(key)).all(axis=1)]
        over = one_severity(run, str(key[0])) or "mean over severities"
        yield _corruptions(run, f"corruptions-{i + 1}", (title, caption, over), part, mine)
    yield from natural_tables(run)


def _corruptions(
    run: Results, name: str, titles: tuple[str, str, str], part: pd.DataFrame, grid: pd.DataFrame
) -> Table:  # fmt: skip
    defenses = list(dict.fromkeys(part["defense"]))
    cells = {(row["corruption"], row["defense"]): row for row in part.to_dict("records")}
    present = set(part["corruption"]) - {"mean"}
    names = [c for c in CORRUPTIONS if c in present] + sorted(present - set(CORRUPTIONS))
    meant = len(present - set(ALEXNET_EXTRA)) or len(present)
    clean = {row["defense"]: row["clean_error"] for row in part.to_dict("records")}
    rows = [(Entry("clean images", "0"), *(counted(clean[d], percent(clean[d])) for d in defenses))]
    rows.append(
        (
            Entry(f"mean of {meant} corruptions", "1"),
            *(_error(cells.get(("mean", d))) for d in defenses),
        )
    )
    against = ratios(grid, clean)
    for label, values in against.items():
        rows.append((Entry(label, "2"), *(counted(values[d], f"{values[d]:.1f} %") for d in defenses)))
    extra = {c: " (extra, in no mean)" if c in ALEXNET_EXTRA and meant < len(present) else "" for c in names}
    rows += [(Entry(c.replace("_", " ") + extra[c], c), *(_error(cells.get((c, d))) for d in defenses)) for c in names]
    shift, caption, over = titles
    heads, said = across(run, defenses)
    columns = (f"error, {over}", *heads)
    caption += "; mCE in percent of AlexNet's published errors on ImageNet-C" if against else ""
    caption += said
    return Table(name, shift, caption, columns, tuple(rows), "corruptions.csv")


def _read_as(run: Results, key: Sequence[Any]) -> str:
    """How the set was made or read, as its cells say."""
    cells = run.cells[(run.cells[["shift", *_WHERE]] == list(key)).all(axis=1)]
    said = [note for name in ("transform", "sentence") for note in cells[name].unique() if note]
    return "".join(f"; {note}" for note in said)


def _error(row: Mapping[Any, Any] | None) -> Entry:
    return Entry("–", 2.0) if row is None else error(row["error"], row["lo"], row["hi"])


def ratios(grid: pd.DataFrame, clean: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """mCE and relative mCE in percent per defense, where all fifteen corruptions have five severities; else nothing.

    grid: the rows of `corruption_grid` of one shift set, dataset, model and seed.
    """
    found: dict[str, dict[str, float]] = {"mCE": {}, "relative mCE": {}}
    for defense, rows in grid.groupby("defense", sort=False):
        errors = {str(name): list(1 - p.sort_values("severity")["accuracy"]) for name, p in rows.groupby("corruption")}
        full = {name: errors.get(name, []) for name in CORRUPTIONS}
        if any(len(values) != 5 or np.isnan(values).any() for values in full.values()):
            return {}
        found["mCE"][str(defense)] = mce(full)
        found["relative mCE"][str(defense)] = relative_mce(full, clean[str(defense)])
    return found
