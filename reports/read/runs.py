"""Read finished cells back from the folders a sweep wrote: `runs/<name>/{sweep.json, cells/<run_id>/…}`.

A cell that is unfinished, truncated or contradicts itself is skipped and counted: a report is made from what stands,
and says what it left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from robustsuite.errors import BadData
from robustsuite.integrity.cross_cell import grades
from robustsuite.records.cells import checked, read_sweep, read_table, read_whole
from robustsuite.records.findings import Artefact
from robustsuite.records.flat import flat
from robustsuite.records.labels import called, labels
from robustsuite.records.schema import STATUSES as STATUSES
from robustsuite.records.schema import CellRecord, SweepFacts

from .artefacts import read_artefacts

T = TypeVar("T")
AXES = ("threat", "dataset", "model", "seed", "defense", "attack", "shift", "corruption", "severity")
_TEXT = (
    "run_id", "sweep", "threat", "scenario", "access", "budget", "goal", "model", "defense", "attack", "dataset",
    "shift", "corruption", "status", "code", "sentence", "same_as", "traceback", "suite_version", "commit", "device",
    "dtype", "weights_sha256", "data_sha256", "started", "needs", "head", "transform", "norm",
)  # fmt: skip
_NUMBERS = ("severity", "n", "seed", "seconds", "peak_bytes", "forwards", "backwards", "queries", "eps")
HOLDS = 2**30
"""Bytes of examples that a report keeps in memory."""

_LISTED = {"model": "models", "defense": "defenses", "dataset": "data", "shift": "shifts"}


@dataclass(frozen=True)
class Results:
    """The cells of one or several sweeps: one row each in `cells`, their per-example rows on demand.

    `skipped` names unreadable folders, `absent` counts planned cells that are not there, `foreign` those that an
    earlier sweep left in the same folder. `artefacts` is what defenses found out while they trained.
    """

    title: str
    note: str
    cells: pd.DataFrame
    skipped: tuple[str, ...] = ()
    absent: int = 0
    foreign: int = 0
    artefacts: tuple[Artefact, ...] = field(repr=False, default=())
    load: Callable[[str], pd.DataFrame] = field(repr=False, default=lambda run_id: _nothing(run_id))
    found: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """Every cell as a dict, by its run id, in the order of `cells`."""
        return {str(cell["run_id"]): cell for cell in self.cells.to_dict("records")}  # type: ignore[misc]

    @cached_property
    def budgets(self) -> dict[str, tuple[float | None, str]]:
        """Radius in full (None without one) and norm, by the words that tables are grouped by; the words tell apart."""
        return {str(cell["budget"]): (radius_of(cell), str(cell["norm"])) for cell in self.known.values()}

    def examples(self, run_id: str) -> pd.DataFrame:
        """The per-example rows of one cell, sorted by the example's `index`."""
        return self.load(run_id)


def once(function: Callable[[Results], T]) -> Callable[[Results], T]:
    """What a function finds in a run, found once: several tables rest on it, none changes it."""

    @wraps(function)
    def known(run: Results) -> T:
        if function.__qualname__ not in run.found:
            run.found[function.__qualname__] = function(run)
        return run.found[function.__qualname__]  # type: ignore[no-any-return]

    return known


def radius_of(cell: Mapping[Any, Any]) -> float | None:
    """The radius of a cell's budget in full; None where it has none."""
    eps = cell.get("eps")
    return None if eps is None or pd.isna(eps) else float(eps)


def read(paths: Sequence[Path]) -> Results:
    """One `Results` from one or several run folders; a cell that stands in several of them is counted once.

    Raises BadData where a folder holds no sweep.json, or where no cell can be read at all.
    """
    if not paths:
        raise BadData("expected at least one run folder, got none; name the folder `robustsuite run` wrote")
    sweeps = [read_sweep(Path(path)) for path in paths]
    rows: dict[str, dict[str, Any]] = {}
    files: dict[str, tuple[Path, CellRecord]] = {}
    held = Held()
    skipped: list[str] = []
    absent = foreign = 0
    for path, sweep in zip(paths, sweeps, strict=True):
        folders = _cell_folders(Path(path))
        planned = set(sweep.cells or [folder.name for folder in folders])
        absent += len(planned - {folder.name for folder in folders})
        for folder in folders:
            row, examples, reason = _read_cell(folder)
            # Cells of an earlier plan would be mixed into this one's worst cases, other image counts and all.
            if row is not None and folder.name not in planned:
                foreign += 1
            elif row is None:
                skipped.append(f"{folder.name}: {reason}")
            elif row["run_id"] not in rows:
                rows[row["run_id"]] = row
                files[row["run_id"]] = folder, row["record"]
                held.put(row["run_id"], examples)
    if not rows:
        why = f" that can be read ({len(skipped)} cannot: {skipped[0]})" if skipped else ""
        raise BadData(f"expected finished cells{why}, got none in {[str(p) for p in paths]}; run the sweep first")
    artefacts, damaged = read_artefacts(paths)
    unique = dict.fromkeys(s.title or s.name or Path(p).name for s, p in zip(sweeps, paths, strict=True))
    notes = dict.fromkeys(s.note for s in sweeps)
    run = Results(
        title=" + ".join(unique),
        note="; ".join(note for note in notes if note),
        cells=_labelled(_ordered(rows.values(), sweeps), sweeps),
        skipped=tuple(sorted([*skipped, *damaged])),
        absent=absent,
        foreign=foreign,
        artefacts=tuple(artefacts),
        load=_loader(files, held),
    )
    return _judged(run)


def _judged(run: Results) -> Results:
    """The run with the flags that its cells raise against one another, and with a grade a cell."""
    found = grades(run.known.values(), run.examples)
    ids = run.cells["run_id"]
    flags = [[*own, *(f.facts() for f in found[i].flags)] for own, i in zip(run.cells["flags"], ids, strict=True)]
    cells = run.cells.copy()
    cells["flags"], cells["grade"] = flags, [found[i].grade for i in ids]
    return replace(run, cells=cells)


def _labelled(cells: pd.DataFrame, sweeps: Sequence[SweepFacts]) -> pd.DataFrame:
    """The cells under what tables call their model, data, defense, attack and shift; the records keep the words."""
    names: dict[str, dict[str, str]] = {}
    for sweep in reversed(sweeps):  # of two names for one entry the first run's holds
        for axis, said in sweep.names.items():
            names.setdefault(axis, {}).update(said)
    rows = cells.to_dict("records")
    found = labels(rows, names)
    new = pd.DataFrame([called(row, found) for row in rows], index=cells.index)
    return cells.assign(**new)


def _cell_folders(path: Path) -> list[Path]:
    root = path / "cells"
    # Dotted and .tmp names are what the store is still writing aside; a finished folder has its plain name.
    return sorted(f for f in root.iterdir() if f.is_dir() and not _aside(f.name)) if root.is_dir() else []


def _aside(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith((".tmp", ".part"))


def _read_cell(folder: Path) -> tuple[dict[str, Any] | None, pd.DataFrame | None, str]:
    try:
        record, examples, audit = read_whole(folder)
    except BadData as error:
        return None, None, str(error)
    row = flat(record)
    row["flags"] += [flag.model_dump() for flag in audit.flags] if audit else []
    return row, examples, ""


def _ordered(rows: Iterable[Mapping[str, Any]], sweeps: Sequence[SweepFacts]) -> pd.DataFrame:
    columns = (*_TEXT, *_NUMBERS, "flags", "packages", "canaries", "dirty", "record")
    frame = pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns))
    for name in _TEXT:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str).astype(object)
    for name in _NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    frame["seed"] = frame["seed"].fillna(0).astype("int64")
    keys = pd.DataFrame({axis: _rank(frame[axis], _listed(axis, sweeps)) for axis in AXES})
    keys["run_id"] = frame["run_id"]
    return frame.loc[keys.sort_values([*AXES, "run_id"], kind="stable").index].reset_index(drop=True)


def _rank(values: pd.Series, listed: Sequence[str]) -> list[tuple[int, Any]]:
    place = {name: position for position, name in enumerate(listed)}
    if values.dtype != object:
        return [(0, -1.0 if pd.isna(v) else float(v)) for v in values]
    return [(place.get(v, len(place)), v) for v in values]


def _listed(axis: str, sweeps: Sequence[SweepFacts]) -> list[str]:
    found: dict[str, None] = {"": None, "clean": None} if axis == "shift" else {}
    for sweep in sweeps:
        if axis == "threat":
            found |= dict.fromkeys(sweep.threats)
        elif axis == "attack":
            for names in sweep.threats.values():
                found |= dict.fromkeys(names)
        elif axis in _LISTED:
            found |= dict.fromkeys(getattr(sweep, _LISTED[axis]))
    return list(found)


class Held:
    """Examples that stay in memory once read, up to HOLDS bytes in all: each table of a report asks for them again."""

    def __init__(self) -> None:
        self.frames: dict[str, pd.DataFrame] = {}
        self.bytes = 0

    def put(self, run_id: str, examples: pd.DataFrame | None) -> None:
        """Keep these, if there is room."""
        if examples is not None and self.bytes < HOLDS:
            self.frames[run_id] = examples
            self.bytes += int(examples.memory_usage(index=False).sum())


def _loader(files: Mapping[str, tuple[Path, CellRecord]], held: Held) -> Callable[[str], pd.DataFrame]:
    @lru_cache(maxsize=2048)
    def again(run_id: str) -> pd.DataFrame:
        if run_id not in files:
            _nothing(run_id)
        folder, record = files[run_id]
        return checked(read_table(folder), record)

    return lambda run_id: held.frames[run_id] if run_id in held.frames else again(run_id)


def _nothing(run_id: str) -> pd.DataFrame:
    raise KeyError(f"expected a cell of this run, got {run_id!r}; its folder was not among those read")
