"""One run from several: the shares of one plan, or sweeps that are to be read together.

A cell's id is a hash of all that its number depends on, so a cell that stands in two of them must hold the same rows;
where it does not, something that nobody declared has changed, and nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from robustsuite.engine.store import FINISHED, Store
from robustsuite.errors import BadData
from robustsuite.records.cells import read_sweep, read_whole
from robustsuite.records.examples import Examples, table_of
from robustsuite.records.folder import Found, cells_of

SOME = 256 << 20
"""Bytes of a packed run's rows that stay in memory."""

AXES = ("models", "data", "defenses", "shifts")


def merge(runs: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Put the finished cells of these run folders into `out`: how many stand there now, and what was left out and why.

    Raises BadData where two runs hold other rows for one cell, or call an entry by two names.
    """
    described = _joined([read_sweep(run).model_dump(mode="json") for run in runs])
    store, owner, skipped = Store(out), dict[str, Path](), list[str]()
    for run in runs:
        examples = Examples(run, SOME)
        for cell in cells_of(run, examples):
            if cell.record is None:
                skipped.append(f"{run} {cell.name}: {cell.reason}")
            elif cell.name not in owner:
                owner[cell.name] = run
                _taken(store, run, cell)
            elif _differs(store.cells / cell.name, cell, examples):
                raise BadData(
                    f"expected the same rows for the cell {cell.name} in {owner[cell.name]} as in {run}, got others; "
                    f"they differ in what no id holds: packages, threads or machines"
                )
            elif not store.finished(cell.name):
                _taken(store, run, cell)
        for file in (run / "artefacts").glob("*.json"):
            store.take_artefact(file)
    store.describe(described)
    return len(owner), skipped


def _taken(store: Store, run: Path, cell: Found) -> None:
    """Copy a cell, from its folder or from the pack."""
    if cell.place is None:
        store.take(run / "cells" / cell.name)
        return
    if cell.record is None:
        return
    table = table_of(run, cell.place, cell.name)
    rows = {name: table.column(name) for name in table.column_names if name != "run_id"}
    store.write(cell.record, {"run_id": [cell.name] * len(table), **rows})
    if cell.audit is not None:
        store.amend(cell.name, cell.audit.model_dump(mode="json"))


def _differs(before: Path, cell: Found, examples: Examples) -> bool:
    """Whether both are finished and do not hold the same."""
    twin, rows, _ = read_whole(before)
    if cell.record is None or not {twin.status, cell.record.status} <= set(FINISHED):
        return False
    found = cell.frame if cell.place is None else examples.frame(cell.name, cell.place)
    if rows is None or found is None:
        return twin.status != cell.record.status
    return not rows.equals(found[list(rows.columns)]) if set(rows.columns) == set(found.columns) else True


def _joined(sweeps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was swept, of all runs: each axis in the order of the first that has an entry."""
    first = dict(sweeps[0])
    for axis in (*AXES, "cells"):
        first[axis] = _ordered(sweep.get(axis) or [] for sweep in sweeps)
    first["note"] = "; ".join(_ordered([sweep["note"]] for sweep in sweeps if sweep.get("note")))
    threats = _ordered(list(sweep["threats"]) for sweep in sweeps)
    first["threats"] = {t: _ordered(sweep["threats"].get(t, []) for sweep in sweeps) for t in threats}
    first["names"] = {}
    for axis, said in ((axis, said) for sweep in sweeps for axis, said in sweep["names"].items()):
        known = first["names"].setdefault(axis, {})
        for words, name in said.items():
            if known.setdefault(words, name) != name:
                raise BadData(f"expected one name for {words}, got {known[words]!r} and {name!r}; keep one after `as`")
    return first


def _ordered(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(lists)))
