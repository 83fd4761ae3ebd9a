"""Read finished cells back from the folders a sweep wrote: `runs/<name>/{sweep.json, cells/<run_id>/…}`.

A cell that is unfinished, truncated or contradicts itself is skipped and counted: a report is made from what stands,
and says what it left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowException

from robustsuite.errors import BadData
from robustsuite.integrity import standings

from .artefacts import read_artefacts

MEASURED = ("done",)
STATUSES = ("done", "inert", "refused", "unmeasured", "failed", "timeout")
AXES = ("threat", "dataset", "model", "seed", "defense", "attack", "shift", "corruption", "severity")
_TEXT = (
    "run_id", "sweep", "threat", "scenario", "access", "budget", "goal", "model", "defense", "attack", "dataset",
    "shift", "corruption", "status", "code", "sentence", "same_as", "traceback", "suite_version", "commit", "device",
    "dtype", "weights_sha256", "data_sha256", "started", "needs", "head", "transform",
)  # fmt: skip
_NUMBERS = ("severity", "n", "seed", "seconds", "peak_bytes", "forwards", "backwards", "queries")
_LISTED = {"model": "models", "defense": "defenses", "dataset": "data", "shift": "shifts"}


@dataclass(frozen=True)
class Run:
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
    artefacts: tuple[dict[str, Any], ...] = field(repr=False, default=())
    load: Callable[[str], pd.DataFrame] = field(repr=False, default=lambda run_id: _nothing(run_id))

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """Every cell as a dict, by its run id, in the order of `cells`."""
        return {str(cell["run_id"]): cell for cell in self.cells.to_dict("records")}  # type: ignore[misc]

    def examples(self, run_id: str) -> pd.DataFrame:
        """The per-example rows of one cell, sorted by the example's `index`."""
        return self.load(run_id)


def read(paths: Sequence[Path]) -> Run:
    """One `Run` from one or several run folders; a cell that stands in several of them is counted once.

    Raises BadData where a folder holds no sweep.json, or where no cell can be read at all.
    """
    if not paths:
        raise BadData("expected at least one run folder, got none; name the folder `robustsuite run` wrote")
    sweeps = [_read_sweep(Path(path)) for path in paths]
    rows: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    skipped: list[str] = []
    absent = foreign = 0
    for path, sweep in zip(paths, sweeps, strict=True):
        folders = _cell_folders(Path(path))
        planned = set(map(str, sweep.get("cells") or [folder.name for folder in folders]))
        absent += len(planned - {folder.name for folder in folders})
        for folder in folders:
            row, reason = _read_cell(folder)
            # Cells of an earlier plan would be mixed into this one's worst cases, other image counts and all.
            if row is not None and folder.name not in planned:
                foreign += 1
            elif row is None:
                skipped.append(f"{folder.name}: {reason}")
            elif row["run_id"] not in rows:
                rows[row["run_id"]] = row
                files[row["run_id"]] = folder / "examples.parquet"
    if not rows:
        raise BadData(f"expected finished cells, got none in {[str(p) for p in paths]}; run the sweep first")
    artefacts, damaged = read_artefacts(paths)
    unique = {s["title"]: s for s in sweeps}
    notes = dict.fromkeys(str(s.get("note") or "") for s in sweeps)
    run = Run(
        title=" + ".join(unique),
        note="; ".join(note for note in notes if note),
        cells=_ordered(rows.values(), sweeps),
        skipped=tuple(sorted([*skipped, *damaged])),
        absent=absent,
        foreign=foreign,
        artefacts=tuple(artefacts),
        load=_loader(files),
    )
    return _judged(run)


def _judged(run: Run) -> Run:
    """The run with the flags that its cells raise against one another, and with a verdict a cell."""
    found = standings(run.known.values(), run.examples)
    ids = run.cells["run_id"]
    flags = [[*own, *(f.facts() for f in found[i].flags)] for own, i in zip(run.cells["flags"], ids, strict=True)]
    cells = run.cells.copy()
    cells["flags"], cells["verdict"] = flags, [found[i].verdict for i in ids]
    return replace(run, cells=cells)


def _audited(folder: Path) -> list[dict[str, Any]]:
    """The flags that an audit left in a cell's folder; none where there was no audit, or a damaged one."""
    try:
        flags = json.loads((folder / "audit.json").read_text("utf-8"))["flags"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [flag for flag in flags if isinstance(flag, dict)]


def _read_sweep(path: Path) -> dict[str, Any]:
    file = path / "sweep.json"
    if not file.is_file():
        raise BadData(f"expected a run folder with sweep.json, got {str(path)!r}; name runs/<name>")
    try:
        sweep: dict[str, Any] = dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadData(f"expected a sweep's description in {str(file)!r}, got {error}; run the sweep again") from error
    sweep["title"] = str(sweep.get("title") or sweep.get("name") or path.name)
    return sweep


def _cell_folders(path: Path) -> list[Path]:
    root = path / "cells"
    # Dotted and .tmp names are what the store is still writing aside; a finished folder has its plain name.
    return sorted(f for f in root.iterdir() if f.is_dir() and not _aside(f.name)) if root.is_dir() else []


def _aside(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith((".tmp", ".part"))


def _read_cell(folder: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        row = json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError:
        return None, "run.json is missing"
    except ValueError:
        return None, "run.json is cut short"
    if not isinstance(row, dict) or row.get("run_id") != folder.name:
        return None, "run.json belongs to another cell"
    if row.get("status") not in STATUSES:
        return None, "run.json has no status this version knows"
    if row["status"] in MEASURED:
        try:
            count = pq.ParquetFile(folder / "examples.parquet").metadata.num_rows
        except FileNotFoundError:
            return None, "examples.parquet is missing"
        except (ArrowException, OSError):
            return None, "examples.parquet is cut short"
        if count == 0 or (row.get("n") is not None and count != row["n"]):
            return None, f"run.json says {row.get('n')} examples, examples.parquet holds {count}"
        row["flags"] = [*(row.get("flags") or []), *_audited(folder)]
    return row, ""


def _ordered(rows: Iterable[Mapping[str, Any]], sweeps: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    columns = (*_TEXT, *_NUMBERS, "flags", "packages", "canaries", "dirty")
    frame = pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns))
    for name in _TEXT:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str).astype(object)
    for name in _NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    frame["seed"] = frame["seed"].fillna(0).astype("int64")
    frame["flags"] = [list(f) if isinstance(f, list) else [] for f in frame["flags"]]
    frame["defense"] = frame["defense"].replace("", "none")
    keys = pd.DataFrame({axis: _rank(frame[axis], _listed(axis, sweeps)) for axis in AXES})
    keys["run_id"] = frame["run_id"]
    return frame.loc[keys.sort_values([*AXES, "run_id"], kind="stable").index].reset_index(drop=True)


def _rank(values: pd.Series, listed: Sequence[str]) -> list[tuple[int, Any]]:
    place = {name: position for position, name in enumerate(listed)}
    if values.dtype != object:
        return [(0, -1.0 if pd.isna(v) else float(v)) for v in values]
    return [(place.get(v, len(place)), v) for v in values]


def _listed(axis: str, sweeps: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {"": None, "clean": None} if axis == "shift" else {}
    for sweep in sweeps:
        attacks = sweep.get("threats") or sweep.get("attacks")
        by_threat = attacks if isinstance(attacks, dict) else {}
        if axis == "threat":
            found |= dict.fromkeys(map(str, by_threat))
        elif axis == "attack":
            for names in by_threat.values() or ([attacks] if isinstance(attacks, list) else []):
                found |= dict.fromkeys(map(str, names or []))
        elif axis in _LISTED:
            found |= dict.fromkeys(map(str, sweep.get(_LISTED[axis]) or []))
    return list(found)


def _loader(files: Mapping[str, Path]) -> Callable[[str], pd.DataFrame]:
    @lru_cache(maxsize=2048)
    def load(run_id: str) -> pd.DataFrame:
        if run_id not in files:
            _nothing(run_id)
        # run_id repeats the folder's name on every row, and would be most of what the cache holds.
        table = pq.read_table(files[run_id])
        frame: pd.DataFrame = table.drop_columns([c for c in table.column_names if c == "run_id"]).to_pandas()
        return frame.sort_values("index", kind="stable").reset_index(drop=True)

    return load


def _nothing(run_id: str) -> pd.DataFrame:
    raise KeyError(f"expected a cell of this run, got {run_id!r}; its folder was not among those read")
