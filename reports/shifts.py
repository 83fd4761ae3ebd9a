"""The tables of the shift scenario: corruption errors with mCE, and natural shifts as paired drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustsuite import stats

from .document import Entry, Table, accuracy, counted, error, split_constant, words
from .mce import mce, relative_mce
from .read import Run
from .scores import rate
from .tables import CORRUPTIONS, corruption_errors, corruption_grid
from .text import number, percent, plain, points, pvalue

_WHERE = ("dataset", "model", "seed")


def shift_tables(run: Run) -> Iterator[Table]:
    """One table of mean corruption errors per shift set and model, then one of the natural shifts."""
    errors, grid = corruption_errors(run), corruption_grid(run)
    for i, (key, part) in enumerate(errors.groupby(["shift", *_WHERE], sort=False)):
        caption = ", ".join(
            f"{name} {value}" for name, value in zip(("dataset", "model", "seed"), key[1:], strict=True)
        )
        mine = grid[(grid[["shift", *_WHERE]] == list(key)).all(axis=1)]
        yield _corruptions(f"corruptions-{i + 1}", (str(key[0]), caption), part, mine)
    natural = _natural(run)
    if natural is not None:
        yield natural


def _corruptions(name: str, titles: tuple[str, str], part: pd.DataFrame, grid: pd.DataFrame) -> Table:
    defenses = list(dict.fromkeys(part["defense"]))
    cells = {(row["corruption"], row["defense"]): row for row in part.to_dict("records")}
    present = set(part["corruption"]) - {"mean"}
    names = [c for c in CORRUPTIONS if c in present] + sorted(present - set(CORRUPTIONS))
    clean = {row["defense"]: row["clean_error"] for row in part.to_dict("records")}
    rows = [(Entry("clean images", "0"), *(counted(clean[d], percent(clean[d])) for d in defenses))]
    rows.append(
        (
            Entry(f"mean of {len(present)} corruptions", "1"),
            *(_error(cells.get(("mean", d))) for d in defenses),
        )
    )
    against = ratios(grid, clean)
    for label, values in against.items():
        rows.append((Entry(label, "2"), *(counted(values[d], f"{values[d]:.1f} %") for d in defenses)))
    rows += [(Entry(c.replace("_", " "), c), *(_error(cells.get((c, d))) for d in defenses)) for c in names]
    columns = ("error, mean over severities", *(plain(d) for d in defenses))
    shift, caption = titles
    if against:
        caption += "; mCE in percent of AlexNet's published errors on ImageNet-C"
    return Table(name, shift, caption, columns, tuple(rows))


def _error(row: Mapping[Any, Any] | None) -> Entry:
    return Entry("–", 2.0) if row is None else error(row["error"], row["lo"], row["hi"])


def ratios(grid: pd.DataFrame, clean: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """mCE and relative mCE in percent per defense, where all fifteen corruptions have five severities; else nothing.

    grid: the rows of `corruption_grid` of one shift set, dataset, model and seed.
    """
    found: dict[str, dict[str, float]] = {"mCE": {}, "relative mCE": {}}
    for defense, rows in grid.groupby("defense", sort=False):
        errors = {
            str(name): list(1 - p.sort_values("severity")["accuracy"])
            for name, p in rows.groupby("corruption")
        }
        full = {name: errors.get(name, []) for name in CORRUPTIONS}
        if any(len(values) != 5 or np.isnan(values).any() for values in full.values()):
            return {}
        found["mCE"][str(defense)] = mce(full)
        found["relative mCE"][str(defense)] = relative_mce(full, clean[str(defense)])
    return found


def _natural(run: Run) -> Table | None:
    cells = run.cells[
        (run.cells["scenario"] == "shift") & (run.cells["corruption"] == "") & (run.cells["status"] == "done")
    ]
    if not len(cells):
        return None
    names, caption = split_constant(cells, _WHERE)
    rows = []
    for cell in cells.to_dict("records"):
        examples = run.examples(cell["run_id"])
        score = rate("accuracy", examples["robust"])
        drop, p = _drop(examples) if cell["shift"] != "clean" else (Entry("–", -1.0), Entry("–", 2.0))
        rows.append((*(words(cell[name]) for name in names), words(cell["shift"]), words(cell["defense"]),
                     accuracy(score.value, score.lo, score.hi, struck=bool(cell["flags"])), drop, p,
                     counted(score.n, number(score.n))))  # fmt: skip
    columns = (*names, "shift", "defense", "accuracy", "change from clean", "p", "n")
    return Table("shifts", "Shift sets", caption, columns, tuple(rows))


def _drop(examples: pd.DataFrame) -> tuple[Entry, Entry]:
    if "clean_ok" not in examples or examples["clean_ok"].isna().any():
        return Entry("unpaired", -1.0), Entry("–", 2.0)
    clean, shifted = examples["clean_ok"].to_numpy(bool), examples["robust"].to_numpy(bool)
    test = stats.mcnemar_exact(clean, shifted)
    return counted(test.difference, points(-test.difference)), counted(test.pvalue, pvalue(test.pvalue))
