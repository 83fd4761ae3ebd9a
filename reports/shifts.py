"""The tables of the shift scenario: corruption errors with mCE, and natural shifts as paired drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from robustsuite import stats

from .document import Entry, Table, accuracy, counted, split_constant, words
from .read import Run
from .scores import rate
from .tables import CORRUPTIONS, corruption_errors
from .text import number, percent, plain, pvalue

_WHERE = ("dataset", "model", "seed")


def shift_tables(run: Run) -> Iterator[Table]:
    """One table of mean corruption errors per shift set and model, then one of the natural shifts."""
    errors = corruption_errors(run)
    for i, (key, part) in enumerate(errors.groupby(["shift", *_WHERE], sort=False)):
        caption = ", ".join(f"{name} {value}" for name, value in zip(("dataset", "model", "seed"), key[1:], strict=True))
        yield _corruptions(f"corruptions-{i + 1}", str(key[0]), caption, part)
    natural = _natural(run)
    if natural is not None:
        yield natural


def _corruptions(name: str, shift: str, caption: str, part: pd.DataFrame) -> Table:
    defenses = list(dict.fromkeys(part["defense"]))
    cells = {(row["corruption"], row["defense"]): row for row in part.to_dict("records")}
    present = set(part["corruption"]) - {"mean"}
    names = [c for c in CORRUPTIONS if c in present] + sorted(present - set(CORRUPTIONS))
    clean = {row["defense"]: row["clean_error"] for row in part.to_dict("records")}
    rows = [(Entry("clean images", "0"), *(counted(clean[d], percent(clean[d])) for d in defenses))]
    rows.append((Entry(f"mean of {len(present)} corruptions", "1"), *(_error(cells.get(("mean", d))) for d in defenses)))
    for label, values in relative_errors(part).items():
        rows.append((Entry(label, "2"), *(counted(values[d], percent(values[d])) for d in defenses)))
    rows += [(Entry(c.replace("_", " "), c), *(_error(cells.get((c, d))) for d in defenses)) for c in names]
    columns = ("error, mean over severities", *(plain(d) for d in defenses))
    return Table(name, shift, caption, columns, tuple(rows))


def _error(row: Mapping[str, Any] | None) -> Entry:
    return Entry("–", 2.0) if row is None else accuracy(row["error"], row["lo"], row["hi"])


def relative_errors(part: pd.DataFrame) -> dict[str, dict[str, float]]:
    """mCE and relative mCE per defense, where all fifteen corruptions were measured for every defense; else nothing."""
    rows = part[part["corruption"].isin(CORRUPTIONS)]
    by_defense = {str(d): dict(zip(p["corruption"], p["error"], strict=True)) for d, p in rows.groupby("defense", sort=False)}
    if set(by_defense) != set(part["defense"]) or any(len(errors) < len(CORRUPTIONS) for errors in by_defense.values()):
        return {}
    from . import mce as ratios

    clean = {row["defense"]: float(row["clean_error"]) for row in part.to_dict("records")}
    return {
        "mCE": {d: ratios.mce(errors) for d, errors in by_defense.items()},
        "relative mCE": {d: ratios.relative_mce(errors, clean[d]) for d, errors in by_defense.items()},
    }


def _natural(run: Run) -> Table | None:
    cells = run.cells[(run.cells["scenario"] == "shift") & (run.cells["corruption"] == "") & (run.cells["status"] == "done")]
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
    columns = (*names, "shift", "defense", "accuracy", "drop from the paired clean images", "p", "n")
    return Table("shifts", "Shift sets", caption, columns, tuple(rows))


def _drop(examples: pd.DataFrame) -> tuple[Entry, Entry]:
    if "clean_ok" not in examples or examples["clean_ok"].isna().any():
        return Entry("unpaired", -1.0), Entry("–", 2.0)
    clean, shifted = examples["clean_ok"].to_numpy(bool), examples["robust"].to_numpy(bool)
    test = stats.mcnemar_exact(clean, shifted)
    return counted(test.difference, f"{100 * test.difference:.1f} points"), counted(test.pvalue, pvalue(test.pvalue))
