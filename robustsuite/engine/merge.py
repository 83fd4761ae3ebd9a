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

AXES = ("models", "data", "defenses", "shifts")


def merge(runs: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Put the finished cells of these run folders into `out`: how many stand there now, and what was left out and why.

    Raises BadData where two runs hold other rows for one cell, or call an entry by two names.
    """
    described = _joined([read_sweep(run).model_dump(mode="json") for run in runs])
    found: dict[str, Path] = {}
    skipped = []
    for folder in chain.from_iterable(map(_cells, runs)):
        try:
            record, examples, _ = read_whole(folder)
        except BadData as error:
            skipped.append(f"{folder}: {error}")
            continue
        before = found.get(folder.name)
        if before is None:
            found[folder.name] = folder
            continue
        twin, rows, _ = read_whole(before)
        if record.status in FINISHED and twin.status in FINISHED:
            same = examples is rows is None or (examples is not None and rows is not None and examples.equals(rows))
            if not same or record.status != twin.status:
                raise BadData(
                    f"expected the same rows for the cell {folder.name} in {before.parents[1]} as in "
                    f"{folder.parents[1]}, got others; they differ in what no id holds: packages, threads or machines"
                )
        found[folder.name] = folder if twin.status not in FINISHED else before
    store = Store(out)
    for run_id, folder in found.items():
        if folder != store.cells / run_id:
            store.take(folder)
    for file in chain.from_iterable((run / "artefacts").glob("*.json") for run in runs):
        store.take_artefact(file)
    store.describe(described)
    return len(found), skipped


def _cells(run: Path) -> list[Path]:
    return sorted(f for f in (run / "cells").glob("*") if f.is_dir() and not f.name.startswith("."))


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
