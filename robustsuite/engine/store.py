"""Results on disk: runs/<name>/cells/<run_id>/{run.json, examples.parquet}, written aside, then renamed.

What a training found out about its network (a defense's own chart) stands beside them, in artefacts/.

No database, no lock, no pickle. A cell is there whole or not at all, so a killed run resumes by looking; several runs
may write into one folder. A long cell's parts stand in parts/<run_id>/ until the last one is there, and leases/ says
who works on what; neither is needed once the run has ended.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from robustsuite.engine.parts import Played, read_part, write_part
from robustsuite.errors import BadData, BadOutput, brief
from robustsuite.records.cells import read_cell, read_sweep
from robustsuite.records.examples import PACKED, stamp_of, table_of
from robustsuite.records.leases import Lease, held, leased, left, mark
from robustsuite.records.packed import CELLS, Known, known
from robustsuite.records.schema import CellRecord, dumped

FINISHED = ("done", "inert", "refused", "unmeasured")
"""Statuses that are not tried again; `failed` is."""

STALE = 24 * 3600.0
"""Seconds after which what another machine was writing is taken for left over."""


class Store:
    """One run's folder. run: the run that looks at it now, the same for all its workers."""

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder, self.run = folder, run or uuid4().hex
        self.cells = folder / "cells"
        self._pack = folder / PACKED / CELLS
        self._stamp: tuple[int, int] | None = None
        self._packed: dict[str, Known] = {}
        with writable(folder):
            self.cells.mkdir(parents=True, exist_ok=True)
            self._sweep()
            probe = self.cells / _aside("probe")
            probe.mkdir()
            probe.rmdir()

    @property
    def packed(self) -> dict[str, Known]:
        """The cells of the pack by run id, read once and again where another pack has taken its place."""
        stamp = stamp_of(self._pack)
        if stamp != self._stamp:
            self._stamp, self._packed = stamp, known(self.folder)
        return self._packed

    def finished(self, run_id: str) -> bool:
        """Whether this cell needs no more work."""
        own = self.cells / run_id
        if own.exists():
            with suppress(BadData):
                return read_cell(own).status in FINISHED
        kept = self.packed.get(run_id)
        return kept is not None and kept.status in FINISHED

    def ended(self, run_id: str) -> CellRecord | None:
        """The record of a cell that needs no more work in this run: finished, or failed in this very run."""
        try:
            record = read_cell(self.cells / run_id)
        except BadData:
            return None
        return record if record.status in FINISHED or self.failed(run_id) else None

    def lease(self, name: str) -> AbstractContextManager[Lease | None]:
        """Hold what has this name while it lasts; None where another live process does."""
        return leased(self.folder / "leases" / name, self.run)

    def parts(self, run_id: str) -> Parts:
        """The parts of a cell."""
        return Parts(self.folder, run_id)

    def halfway(self) -> dict[str, int]:
        """How many parts there are of each cell that is not whole yet."""
        found = {}
        for cell in (self.folder / "parts").glob("*"):
            with suppress(OSError):  # whole meanwhile, and its parts removed
                found[cell.name] = sum(1 for _ in cell.iterdir())
        return found

    def tidy(self) -> None:
        """Remove what only a run at work needs, where no other is at work."""
        self._sweep()
        for left_over in (self.folder / "leases").glob("*"):
            if left_over.name.startswith(f"failed-{self.run}-") or not held(left_over):
                left_over.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / "leases").rmdir()
        for parts in (self.folder / "parts").glob("*"):
            if self.finished(parts.name):
                _remove(parts)
        with suppress(OSError):
            (self.folder / "parts").rmdir()

    def _sweep(self) -> None:
        for left_over in (*self.folder.glob(".writing-*"), *self.cells.glob(".writing-*")):
            if _stale(left_over):
                _remove(left_over)

    def failed(self, run_id: str) -> bool:
        """Whether the cell has failed in this run."""
        return self._failed(run_id).exists()

    def _failed(self, run_id: str) -> Path:
        return self.folder / "leases" / f"failed-{self.run}-{run_id}"

    def write(self, record: CellRecord, examples: dict[str, Any] | None = None) -> None:
        """Store one cell: its record, and its examples' columns (numpy arrays by name).

        One that another writer has finished meanwhile stays: it holds the same numbers.
        """
        final, aside = self.cells / record.run_id, self.cells / _aside(record.run_id)
        with writable(self.folder):
            aside.mkdir()
            _dump(aside / "run.json", dumped(record))
            if examples is not None:
                with open(aside / "examples.parquet", "wb") as file:
                    pq.write_table(pa.table(examples), file, compression="zstd", write_page_checksum=True)
                    _sync(file)
            if self.finished(record.run_id):
                shutil.rmtree(aside)
            else:
                _place(aside, final)
            if record.status == "failed":
                self._failed(record.run_id).parent.mkdir(exist_ok=True)
                self._failed(record.run_id).touch()
            else:
                _remove(self.folder / "parts" / record.run_id)

    def audited(self, run_id: str) -> bool:
        """Whether an audit of this cell is stored."""
        kept = self.packed.get(run_id)
        own = self.cells / run_id
        return (own / "audit.json").is_file() or (kept is not None and kept.audited and not (own / "run.json").exists())

    def column(self, run_id: str, name: str) -> list[Any] | None:
        """One column of a cell's examples, in the order in which they were played; None where it has none."""
        file, kept = self.cells / run_id / "examples.parquet", self.packed.get(run_id)
        if file.is_file():
            return list(pq.read_table(file, columns=[name]).column(name).to_pylist())
        if kept is None or kept.place is None:
            return None
        return list(table_of(self.folder, kept.place, run_id).column(name).to_pylist())

    def amend(self, run_id: str, audit: dict[str, Any]) -> None:
        """Store what an audit adds to a finished cell, beside it."""
        self._put(self.cells / run_id / "audit.json", audit)

    def keep(self, name: str, artefact: dict[str, Any]) -> None:
        """Store what a training found out about its network, under artefacts/ by its content."""
        digest = hashlib.sha256(json.dumps(artefact, sort_keys=True).encode()).hexdigest()[:16]
        self._put(self.folder / "artefacts" / f"{name}-{digest}.json", artefact)

    def describe(self, sweep: dict[str, Any]) -> int:
        """Store what was swept, beside the cells. Returns how many cells the description before had besides."""
        before: tuple[str, ...] = ()
        with suppress(BadData):
            before = read_sweep(self.folder).cells or ()
        self._put(self.folder / "sweep.json", sweep)
        return len(set(before) - set(sweep.get("cells", ())))

    def billed(self, sentences: list[str]) -> None:
        """Store with what was swept what its services were sent and answered so far, for the report."""
        with suppress(BadData):  # cells that nobody described have no report
            described = read_sweep(self.folder).model_dump(mode="json")
            self._put(self.folder / "sweep.json", described | {"bills": sentences})

    def take(self, folder: Path) -> None:
        """Copy a whole cell from another run."""
        aside = self.cells / _aside(folder.name)
        with writable(self.folder):
            aside.mkdir()
            for name in ("run.json", "examples.parquet", "audit.json"):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, aside / name)
            _place(aside, self.cells / folder.name)

    def take_artefact(self, file: Path) -> None:
        """Copy what a training found out from another run."""
        final, aside = self.folder / "artefacts" / file.name, self.folder / _aside(file.name)
        with writable(self.folder):
            final.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, aside)
            os.replace(aside, final)

    def _put(self, file: Path, value: dict[str, Any]) -> None:
        aside = self.folder / _aside(file.name)
        with writable(self.folder):
            _dump(aside, value)
            for last in (False, True):
                file.parent.mkdir(exist_ok=True)
                try:
                    os.replace(aside, file)
                    break
                except FileNotFoundError:  # the cell was packed, and its folder removed, between the two
                    if last:
                        raise


@dataclass(frozen=True)
class Parts:
    """The parts of one cell that are stored; each is there whole or not at all."""

    folder: Path
    run_id: str

    def there(self, rows: range) -> bool:
        """Whether somebody has stored this part."""
        return self._file(rows).exists()

    def write(self, rows: range, part: Played) -> None:
        """Store a part."""
        file = self._file(rows)
        with writable(self.folder):
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = self.folder / _aside(file.name)
            write_part(aside, part)
            os.replace(aside, file)

    def read(self, rows: range) -> Played | None:
        """A part; None, and the file removed, where it is damaged: it is played again."""
        part = read_part(self._file(rows), len(rows))
        if part is None:
            self._file(rows).unlink(missing_ok=True)
        return part

    def _file(self, rows: range) -> Path:
        return self.folder / "parts" / self.run_id / f"{rows.start}-{rows.stop}.parquet"


def _aside(name: str) -> str:
    """A name that no other writer on this file system has, and that says whose it is."""
    return f".writing-{mark()}-{uuid4().hex}-{name}"


def _stale(left_over: Path) -> bool:
    """Whether nobody can be writing this any more; what another process writes is left alone."""
    if left(left_over.name.split("-")[1]):
        return True
    try:
        return time.time() - left_over.stat().st_mtime > STALE
    except FileNotFoundError:
        return False


def _place(aside: Path, final: Path) -> None:
    """Rename a whole cell to its name, whatever stands there and whoever does the same: the last one stays."""
    while True:
        try:
            return os.replace(aside, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        gone = aside.with_name(_aside("gone"))
        with suppress(FileNotFoundError):  # another writer was quicker
            os.rename(final, gone)
            _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _dump(file: Path, value: dict[str, Any]) -> None:
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        _sync(stream)


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the file system says into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadOutput(
                f"expected room on the disk that holds {folder}, got none; free some and run the same command again: "
                f"finished cells are kept"
            ) from error
        raise BadOutput(
            f"expected a folder that can be written at {brief(str(folder))}, got {error.strerror or error}; "
            f"choose one with --out"
        ) from error
