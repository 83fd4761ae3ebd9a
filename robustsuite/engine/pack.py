"""Move a run's cells from folders of their own into its pack (`records/packed.py`): a few files for any number.

One packer works in a run at a time, as the kernel says (`flock`); several sweeps may write cells meanwhile. A file of
examples is named by its content and never changed; cells.parquet says which of them count, and its rename is the one
step that makes a pack of what was written. A cell's folder goes after the pack has been read back and says the same, so
a kill at any moment loses nothing: it leaves files that the next packer removes, or cells that stand in both places.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from robustsuite.errors import BadData
from robustsuite.records.cells import read_audit, read_whole
from robustsuite.records.disk import synced, writable
from robustsuite.records.examples import GROUP_ROWS, PACKED, Place, table_of
from robustsuite.records.folder import added, loose
from robustsuite.records.packed import ASIDE, CELLS, GROUP_CELLS, SCHEMA, Packed, read_packed, row_of
from robustsuite.records.schema import VERSION, Audit
from robustsuite.records.untrusted import object_of, text_of

ORDER = ("threat", "data", "model", "seed", "defenses", "attack", "shift")
"""Fields that cells stand by in the files, so that what is read together stands together."""

LEAVING = ".packed-"
"""What a cell's folder is called until nobody can have written into it since it was compared."""


def pack(folder: Path) -> int:
    """Move every cell that reads whole into the run's pack. Returns how many; 0 where another packer is at work."""
    if not (folder / "cells").is_dir():
        return 0
    with writable(folder), _alone(folder / PACKED) as mine:
        if not mine:
            return 0
        _tidy(folder)
        waiting = sorted((cell for cell in loose(folder) if _packable(cell)), key=_order)
        if not waiting:
            return 0
        damaged = _merge(folder, waiting)
        return _leave(folder, {cell.name for cell in waiting}, damaged)


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether no other process packs this run; the kernel ends that with the process, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody holds it, or the file system has no locks: cells stay where they are
            yield False
        else:
            yield True


def _tidy(folder: Path) -> None:
    """What a packer that was killed left: files that were not whole go, folders on their way out come back."""
    for file in (folder / PACKED).glob(".writing-*"):
        file.unlink()
    for left in (folder / "cells").glob(".writing-*-gone"):
        shutil.rmtree(left, ignore_errors=True)
    for leaving in (folder / "cells").glob(f"{LEAVING}*"):
        name = leaving.name.removeprefix(LEAVING).partition("-")[2]
        try:
            os.rename(leaving, leaving.with_name(name))
        except OSError:  # another sweep has written the cell since
            shutil.rmtree(leaving)


def _packable(cell: Path) -> bool:
    """Whether a folder holds a record of this version, or an audit of a packed cell and nothing else."""
    try:
        return bool(object_of(text_of(cell / "run.json"), "run.json").get("version", 1) == VERSION)
    except BadData:
        return [file.name for file in cell.iterdir()] == ["audit.json"]


def _order(cell: Path) -> tuple[str, ...]:
    try:
        row = object_of(text_of(cell / "run.json"), "run.json")
    except BadData:
        return (cell.name,)
    return (*(json.dumps(row.get(name), sort_keys=True) for name in ORDER), cell.name)


def _merge(folder: Path, waiting: list[Path]) -> bool:
    """A pack of what the old one holds and these cells, in its place. Returns whether some of the old was damaged."""
    root = folder / PACKED
    writers: dict[pa.Schema, _Writer] = {}
    new: dict[str, tuple[dict[str, Any], _Writer | None]] = {}
    for cell in waiting:
        with suppress(BadData):  # a damaged one stays where it is
            record, frame, audit = read_whole(cell)
            if frame is None:
                new[cell.name] = row_of(record, audit, None), None
                continue
            table = _examples(cell)
            if table.schema not in writers:
                writers[table.schema] = _Writer(root, table.schema)
            writer = writers[table.schema]
            new[cell.name] = row_of(record, audit, Place("", writer.add(cell.name, table))), writer
    for writer in writers.values():
        writer.close()
    damaged: list[str] = []
    audited = {cell.name for cell in waiting} - new.keys()
    aside = root / f".writing-{uuid4().hex}"
    _write_cells(aside, chain(
        _kept(folder, new.keys(), audited, damaged),
        ({**row, "file": writer.name if writer else None} for row, writer in new.values()),
    ))  # fmt: skip
    if damaged:
        old = root / CELLS
        (os.rename if old.is_dir() else shutil.copyfile)(old, root / f"{ASIDE}{uuid4().hex}-{CELLS}")
    _folder_synced(root)
    os.replace(aside, root / CELLS)
    _folder_synced(root)
    return bool(damaged)


def _kept(folder: Path, new: Container[str], audited: Container[str], damaged: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the old pack that no new cell replaces; what cannot be read is named in `damaged`."""
    for cell in read_packed(folder):
        if cell.name in new:
            continue
        if cell.record is None:
            damaged.append(cell.name)
        else:
            whole = added(cell, folder) if cell.name in audited else cell
            yield row_of(cell.record, whole.audit, cell.place)


@dataclass
class _Writer:
    """Writes one file of examples, each cell inside one row group; its name is known once it is closed."""

    root: Path
    schema: pa.Schema
    name: str = ""
    waiting: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        self.aside = self.root / f".writing-{uuid4().hex}"
        self.stream = open(self.aside, "wb")  # noqa: SIM115
        whole = self.schema.insert(0, pa.field("run_id", pa.string()))
        self.parquet = pq.ParquetWriter(self.stream, whole, compression="zstd", write_page_checksum=True)

    def add(self, run_id: str, table: pa.Table) -> int:
        """Take a cell's examples; returns the row group where they will stand."""
        if self.waiting and self.rows + len(table) > GROUP_ROWS:
            self._flush()
        self.rows += len(table)
        self.waiting.append(table.add_column(0, "run_id", pa.repeat(run_id, len(table)).cast(pa.string())))
        return self.groups

    def _flush(self) -> None:
        whole = pa.concat_tables(self.waiting).combine_chunks()
        self.parquet.write_table(whole, row_group_size=len(whole))
        self.waiting, self.rows, self.groups = [], 0, self.groups + 1

    def close(self) -> None:
        """Put the file, whole, under the name of its content."""
        self._flush()
        self.parquet.close()
        synced(self.stream)
        self.stream.close()
        with open(self.aside, "rb") as stream:
            digest = sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        self.name = f"examples-{digest.hexdigest()[:16]}.parquet"
        final = self.root / self.name
        if final.is_dir():
            os.rename(final, self.root / f"{ASIDE}{uuid4().hex}")
        os.replace(self.aside, final)


def _examples(cell: Path) -> pa.Table:
    """A cell's examples as stored, without run_id. Raises BadData where a column has nulls that others' could not."""
    try:
        table = pq.ParquetFile(cell / "examples.parquet", page_checksum_verification=True).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:  # removed meanwhile
        raise BadData("examples.parquet is gone") from error
    table = table.drop_columns([name for name in table.column_names if name == "run_id"])
    if any(column.null_count and not pa.types.is_floating(column.type) for column in table.columns):
        raise BadData("examples.parquet holds nulls")
    return table.cast(pa.schema([(column.name, column.type) for column in table.schema]))


def _write_cells(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with open(file, "wb") as stream:
        with pq.ParquetWriter(stream, SCHEMA, compression="zstd", write_page_checksum=True) as parquet:
            part: list[dict[str, Any]] = []
            for row in rows:
                part.append(row)
                if len(part) == GROUP_CELLS:
                    parquet.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
                    part = []
            if part:
                parquet.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
        synced(stream)


def _leave(folder: Path, names: Container[str], damaged: bool) -> int:
    """Remove the folders of these cells that the pack, read back, holds just so, and what no cell needs any more.

    Returns how many folders. damaged: whether the old pack was; what it had is set aside, not removed.
    """
    gone, used = 0, set[str]()
    for cell in read_packed(folder):
        used |= {cell.place.file} if cell.place else set()
        own = folder / "cells" / cell.name
        before = _state(own)
        if cell.name not in names or cell.record is None or not _same(folder, cell):
            continue
        leaving = own.with_name(f"{LEAVING}{uuid4().hex}-{cell.name}")
        with suppress(FileNotFoundError):
            os.rename(own, leaving)
            if _state(leaving) == before:
                left = own.with_name(f".writing-{uuid4().hex}-gone")
                os.rename(leaving, left)
                shutil.rmtree(left, ignore_errors=True)
                gone += 1
            else:  # written to since: it stays, and is packed the next time
                with suppress(OSError):  # unless a third one wrote it once more
                    os.rename(leaving, own)
    for file in (folder / PACKED).glob("examples-*.parquet"):
        if file.name not in used:
            file.rename(file.with_name(f"{ASIDE}{file.name}")) if damaged else file.unlink()
    return gone


def _same(folder: Path, cell: Packed) -> bool:
    """Whether a cell's folder says what the pack says of it."""
    own = folder / "cells" / cell.name
    try:
        audit: Audit | None
        if (own / "run.json").exists():
            record, frame, audit = read_whole(own)
        else:
            return read_audit(own) == cell.audit
        if record != cell.record or audit != cell.audit:
            return False
        if frame is None or cell.place is None:
            return frame is None
        kept = table_of(folder, cell.place, cell.name).drop_columns(["run_id"])
        return bool(_examples(own).to_pandas().equals(kept.to_pandas()))
    except BadData:
        return False


def _state(cell: Path) -> dict[str, tuple[int, int, int]]:
    """What changes where anybody writes into a cell's folder."""
    found = {}
    with suppress(FileNotFoundError):
        for file in cell.iterdir():
            status = file.stat()
            found[file.name] = status.st_ino, status.st_mtime_ns, status.st_size
    return found


def _folder_synced(folder: Path) -> None:
    """Have a rename inside this folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
