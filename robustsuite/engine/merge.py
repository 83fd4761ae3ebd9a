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
from robustsuite.records.seal import unlike
from robustsuite.records.swept import Entry, Part, SweepFacts

SOME = 256 << 20
"""Bytes of a packed run's rows that stay in memory."""

AXES = ("models", "data", "defenses", "shifts")


def merge(runs: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Put the finished cells of these run folders into `out`: how many stand there now, and what was left out and why.

    What is merged is sealed where every run is as it was sealed. Raises BadData where two runs hold other rows for one
    cell, or call one entry by two names.
    """
    sweeps = [read_sweep(run) for run in runs]
    described, there = _joined(sweeps), [dict[str, str]() for _ in runs]
    store, owner, skipped = Store(out), dict[str, Path](), list[str]()
    for i, run in enumerate(runs):
        examples = Examples(run, SOME)
        for cell in cells_of(run, examples):
            there[i][cell.name] = cell.record.digest if cell.record else ""
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
    parts = _parts(sweeps, there)
    store.describe(described | ({"parts": parts} if parts else {}))
    others = [unlike(*each) for each in zip(runs, sweeps, there, strict=True)]
    skipped += [f"{run}: {other}, so what is merged has no seal"
                for run, other in zip(runs, others, strict=True) if other]  # fmt: skip
    if not any(others):
        store.seal()
    return len(owner), skipped


def _taken(store: Store, run: Path, cell: Found) -> None:
    """Copy a cell, from its folder or from the pack, as it is: a digest that does not fit stays one."""
    store.take_pictures(run, cell.name)
    own = run / "cells" / cell.name
    if cell.frame is not None or (own / "run.json").is_file():
        store.take(own)
        return
    if cell.record is None:
        return
    columns = None
    if cell.place is not None:
        table = table_of(run, cell.place, cell.name)
        rows = {name: table.column(name) for name in table.column_names if name != "run_id"}
        columns = {"run_id": [cell.name] * len(table), **rows}
    store.write(cell.record, columns, seal=False)
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


def _parts(sweeps: Sequence[SweepFacts], there: Sequence[Iterable[str]]) -> list[dict[str, Any]]:
    """Whose each cell is, where the runs are of several plans: one name may stand for several things."""
    shares = [
        part if part.cells is not None else part.model_copy(update={"cells": tuple(sorted(cells))})
        for sweep, cells in zip(sweeps, there, strict=True) for part in sweep.shares()
    ]  # fmt: skip
    found: list[Part] = []
    for share in shares:
        if share not in found:
            found.append(share)
    return [part.model_dump(mode="json") for part in found] if len(found) > 1 else []


def _joined(runs: Sequence[SweepFacts]) -> dict[str, Any]:
    """What was swept, of all runs: each axis in the order of the first that has an entry."""
    sweeps = [run.model_dump(mode="json", exclude={"parts"}) for run in runs]
    first = dict(sweeps[0])
    first["planned"] = {run_id: said for sweep in reversed(sweeps) for run_id, said in sweep["planned"].items()}
    for axis in (*AXES, "cells", "bills"):
        first[axis] = _ordered(sweep.get(axis) or [] for sweep in sweeps)
    first["note"] = "; ".join(_ordered([sweep["note"]] for sweep in sweeps if sweep.get("note")))
    threats = _ordered(list(sweep["threats"]) for sweep in sweeps)
    first["threats"] = {t: _ordered(sweep["threats"].get(t, []) for sweep in sweeps) for t in threats}
    first["names"], first["entries"] = {}, {}
    meant: dict[tuple[str, str], Entry] = {}
    for share in (share for run in runs for share in run.shares()):
        for axis, entries in share.entries.items():
            first["entries"][axis] = {k: v.model_dump() for k, v in entries.items()} | first["entries"].get(axis, {})
        for axis, said in share.names.items():
            known = first["names"].setdefault(axis, {})
            for words, name in said.items():
                entry = share.entries.get(axis, {}).get(words, Entry())
                same = meant.setdefault((axis, words), entry) == entry  # else two entries, whose words are alike
                if known.setdefault(words, name) != name and same:
                    raise BadData(
                        f"expected one name for {words}, got {known[words]!r} and {name!r}; keep one after `as`"
                    )
    return first


def _ordered(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(lists)))
