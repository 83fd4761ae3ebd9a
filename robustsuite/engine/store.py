"""Results on disk: runs/<name>/cells/<run_id>/{run.json, examples.parquet}, written aside, then renamed.

What a training found out about its network (a defense's own chart) stands beside them, in artefacts/.

No database, no lock, no pickle. A cell is there whole or not at all, so a killed run resumes by looking.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustsuite.errors import BadData, BadOutput
from robustsuite.records.cells import read_cell
from robustsuite.records.schema import CellRecord, dumped

FINISHED = ("done", "inert", "refused", "unmeasured")
"""Statuses that are not tried again; `failed` and `timeout` are."""


class Store:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"
        with writable(folder):
            self.cells.mkdir(parents=True, exist_ok=True)
            for left_over in self.cells.glob(".writing-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            probe = self.cells / ".writing-probe"
            probe.write_bytes(b"")
            probe.unlink()

    def finished(self, run_id: str) -> bool:
        """Whether this cell needs no more work."""
        try:
            return read_cell(self.cells / run_id).status in FINISHED
        except BadData:
            return False

    def write(self, record: CellRecord, examples: dict[str, Any] | None = None) -> None:
        """Store one cell: its record, and its examples' columns (numpy arrays by name)."""
        final, aside = self.cells / record.run_id, self.cells / f".writing-{record.run_id}-{os.getpid()}"
        with writable(self.folder):
            aside.mkdir(exist_ok=True)
            _dump(aside / "run.json", dumped(record))
            if examples is not None:
                with open(aside / "examples.parquet", "wb") as file:
                    pq.write_table(pa.table(examples), file, compression="zstd")
                    _sync(file)
            if final.is_dir():
                shutil.rmtree(final)
            else:
                final.unlink(missing_ok=True)
            os.replace(aside, final)

    def keep(self, name: str, artefact: dict[str, Any]) -> None:
        """Store what a training found out about its network, under artefacts/ by its content."""
        digest = hashlib.sha256(json.dumps(artefact, sort_keys=True).encode()).hexdigest()[:16]
        aside = self.folder / f".writing-{name}-{os.getpid()}.json"
        with writable(self.folder):
            (self.folder / "artefacts").mkdir(exist_ok=True)
            _dump(aside, artefact)
            os.replace(aside, self.folder / "artefacts" / f"{name}-{digest}.json")

    def describe(self, sweep: dict[str, Any]) -> None:
        """Store what was swept, beside the cells."""
        aside = self.folder / f".writing-sweep-{os.getpid()}.json"
        with writable(self.folder):
            _dump(aside, sweep)
            os.replace(aside, self.folder / "sweep.json")


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
            f"expected a folder that can be written at {folder}, got {error.strerror or error}; choose one with --out"
        ) from error
