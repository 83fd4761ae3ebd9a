"""Many finished cells in a few files, read as untrusted input: `runs/<name>/packed/{cells, examples-<sha>}.parquet`.

cells.parquet has one row a cell: a column for each field of its record, in JSON (most cells of a sweep share most of
them, so each is held against the schema once), what an audit added, in JSON or null, and where its examples stand: the
file and its row group. The examples of cells with the same columns stand in one file,
below each other in the order in which they were stored, each cell inside one row group. Pages carry checksums, so what
a disk changed is found: it costs the cells of its row group and is a sentence. Imports no torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from robustsuite.errors import BadData
from robustsuite.records.cells import counted, fitting, kinds_of
from robustsuite.records.schema import Audit, CellRecord, dumped
from robustsuite.records.untrusted import sentence_of

PACKED, CELLS, ASIDE = "packed", "cells.parquet", "damaged-"
AGAIN = "run the sweep again for what is absent, then delete it"
GROUP_ROWS = 1 << 16
"""Rows of examples in a row group, unless one cell has more."""

SOME = 1 << 26
"""Bytes of examples that are held while the cells are read one after another."""

GROUP_CELLS = 1 << 12
"""Rows of cells.parquet in a row group."""

FIELDS = tuple(name for name in CellRecord.model_fields if name != "run_id")
STARTED = "made.started"
"""A field that differs from cell to cell inside one that does not stands apart, so that the rest is shared."""

PLACE = ("audit", "file", "row_group")
"""Columns that may be null."""

SCHEMA = pa.schema([*((name, pa.string()) for name in ("run_id", *FIELDS, STARTED, "audit", "file")),
                    ("row_group", pa.int32())])  # fmt: skip
DAMAGED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError)
"""What reading a parquet file that was changed raises."""

Columns = dict[str, NDArray[Any]]
"""A cell's examples sorted by index, by the column's name."""

_TYPES = {name: TypeAdapter(CellRecord.model_fields[name].annotation) for name in FIELDS}


class Place(NamedTuple):
    """Where the examples of a cell stand: the file's name and its row group."""

    file: str
    row_group: int


class Packed(NamedTuple):
    """A cell of the pack: its record, what an audit added, where its examples stand; or why it cannot be read.

    name: its run id, or, of a whole row group that cannot be read, the file's name.
    """

    name: str
    record: CellRecord | None = None
    audit: Audit | None = None
    place: Place | None = None
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """One row group of examples, decoded: `runs` says which rows are whose, `twice` who has an index twice."""

    frame: pd.DataFrame
    runs: dict[str, slice]
    twice: frozenset[str]
    fits: dict[tuple[int, ...], CellRecord] = field(default_factory=dict)

    @cached_property
    def columns(self) -> Columns:
        """The columns as arrays over the whole group."""
        return {str(name): self.frame[name].to_numpy() for name in self.frame.columns}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """bool, int, float or other, by column."""
        return kinds_of(self.frame)

    @cached_property
    def bytes(self) -> int:
        """What it takes in memory."""
        return int(self.frame.memory_usage(index=False).sum())

    def check(self, record: CellRecord) -> None:
        """Raise BadData in a sentence where the rows are not what the record declares."""
        rows, names = self.runs.get(record.run_id, slice(0, 0)), ("the record", "the pack")
        counted(rows.stop - rows.start, record, *names)
        if record.run_id in self.twice:
            raise BadData("expected each index once, got some again")
        # Records share their columns (`_part`); the record is kept, so that no other object gets the identity.
        asked = (record.data.n > 0, *map(id, record.columns))
        if asked not in self.fits:
            fitting(self.kinds, record, *names)
            self.fits[asked] = record


@dataclass
class Examples:
    """The examples of a pack, a row group at a time; those read last stay in memory, up to `most` bytes in all."""

    folder: Path
    most: int
    held: OrderedDict[Place, Group] = field(default_factory=OrderedDict)
    bytes: int = 0

    def group(self, place: Place) -> Group:
        """A row group, decoded and sorted. Raises BadData where it is missing or damaged."""
        if place in self.held:
            self.held.move_to_end(place)
            return self.held[place]
        found = _decoded(table_of(self.folder, place))
        self.held[place], self.bytes = found, self.bytes + found.bytes
        while self.bytes > self.most and len(self.held) > 1:
            self.bytes -= self.held.popitem(last=False)[1].bytes
        return found

    def columns(self, run_id: str, place: Place) -> Columns:
        """A cell's columns, as views."""
        group = self.group(place)
        rows = group.runs[run_id]
        return {name: column[rows] for name, column in group.columns.items()}

    def frame(self, run_id: str, place: Place) -> pd.DataFrame:
        """A cell's rows."""
        group = self.group(place)
        return group.frame.iloc[group.runs[run_id]].reset_index(drop=True)


def stamp_of(file: Path) -> tuple[int, int] | None:
    """What changes when another file takes the place of this one; None where there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=256)
def _opened(file: Path, stamp: tuple[int, int] | None) -> pq.ParquetFile:
    texts = ["run_id"] if file.name != CELLS else list(SCHEMA.names)
    return pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=texts)


@lru_cache(maxsize=4)
def _table(file: Path, stamp: tuple[int, int] | None, row_group: int) -> pa.Table:
    return _opened(file, stamp).read_row_group(row_group)


def table_of(folder: Path, place: Place, run_id: str = "") -> pa.Table:
    """The examples of a row group, or of one cell, as they were stored. Raises BadData in a sentence."""
    file = folder / PACKED / place.file
    try:
        if Path(place.file).name != place.file:
            raise BadData(f"{CELLS} names a file elsewhere")
        stamp = stamp_of(file)
        if not 0 <= place.row_group < _opened(file, stamp).metadata.num_row_groups:
            raise BadData(f"{place.file} has no row group {place.row_group}")
        table = _table(file, stamp, place.row_group)
        return table.filter(pc.equal(table["run_id"].cast(pa.string()), run_id)) if run_id else table
    except FileNotFoundError as error:
        raise BadData(f"{place.file} is missing") from error
    except DAMAGED as error:
        raise BadData(f"{place.file} is damaged in row group {place.row_group}") from error


def _decoded(table: pa.Table) -> Group:
    """Each cell's rows sorted by index."""
    try:
        ids = table["run_id"].unify_dictionaries().combine_chunks()
        codes, names = ids.indices.to_numpy(), ids.dictionary.to_pylist()
        frame: pd.DataFrame = table.drop_columns(["run_id"]).to_pandas()
        if ids.null_count or len(set(frame.columns)) < frame.shape[1]:
            raise ValueError("no run_id, or a column twice")
        index = frame["index"].to_numpy(np.int64)
    except DAMAGED as error:
        raise BadData("expected the columns run_id and index, and each once, got another table") from error
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    owners = [names[code] for code in codes[starts]]
    if len(set(owners)) < len(owners):
        raise BadData("expected the rows of each cell below each other, got another table")
    same = np.diff(codes) == 0
    if (same & (np.diff(index) <= 0)).any():
        order = np.lexsort((index, np.repeat(np.arange(len(starts)), np.diff(starts, append=len(codes)))))
        frame, index = frame.iloc[order].reset_index(drop=True), index[order]
    twice = frozenset(names[code] for code in np.unique(codes[1:][same & (np.diff(index) == 0)]))
    runs = {name: slice(*ends) for name, *ends in zip(owners, starts.tolist(), [*starts[1:].tolist(), len(codes)],
                                                      strict=True)}  # fmt: skip
    return Group(frame, runs, twice)


def read_packed(folder: Path, examples: Examples | None = None) -> Iterator[Packed]:
    """Every cell of a run's pack, its record held against the schema and its examples against the record.

    Reads a row group at a time. examples: where the rows stay for those who ask for them next.
    """
    examples = examples or Examples(folder, SOME)
    for rows in _rows(folder):
        if isinstance(rows, Packed):
            yield rows
            continue
        places = zip(*(rows.pop(name) for name in PLACE), strict=True)
        for values, (audit, file, group) in zip(zip(*rows.values(), strict=True), places, strict=True):
            place = None if file is None or group is None else Place(file, group)
            yield _cell(dict(zip(rows, values, strict=True)), audit, place, examples)


def set_aside(folder: Path) -> Iterator[Packed]:
    """Files that were damaged when the rest was packed again: what they held may be absent, so every reader is told."""
    for file in sorted((folder / PACKED).glob(f"{ASIDE}*")):
        yield Packed(f"{PACKED}/{file.name}", reason=f"set aside as damaged; {AGAIN}")


def _rows(folder: Path) -> Iterator[dict[str, list[Any]] | Packed]:
    """The columns of cells.parquet as lists, a row group at a time; a damaged one is a Packed that says so."""
    file, name, seen = folder / PACKED / CELLS, f"{PACKED}/{CELLS}", set[str]()
    try:
        parquet = _opened(file, stamp_of(file))
        found = {column.name: getattr(column.type, "value_type", column.type) for column in parquet.schema_arrow}
    except FileNotFoundError:
        return
    except DAMAGED:
        yield Packed(name, reason="it is cut short or no parquet")
        return
    known = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))
    if not {"run_id", *PLACE} <= found.keys() or not found.items() <= known.items():
        yield Packed(name, reason=f"expected the columns {', '.join(SCHEMA.names)}, got others")
        return
    for i in range(parquet.metadata.num_row_groups):
        try:
            table = parquet.read_row_group(i)
            ids = table["run_id"].to_pylist()
            holes = any(table[column].null_count for column in found if column not in PLACE)
            if holes or not seen.isdisjoint(ids) or len(set(ids)) < len(ids):
                raise ValueError("a cell twice, or not whole")
            rows = {column: _values(column, table[column]) for column in found}
        except DAMAGED:
            yield Packed(name, reason=f"its row group {i} is damaged")
        else:
            seen.update(ids)
            yield rows


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """A column's values, those of a record's field as it holds them; a BadData where one does not fit the schema."""
    if name not in FIELDS:
        return column.to_pylist()
    whole = column.unify_dictionaries().combine_chunks()
    parts = [_part(name, text) for text in whole.dictionary.to_pylist()]
    return [parts[code] for code in whole.indices.to_pylist()]


@lru_cache(maxsize=4096)
def _part(name: str, text: str) -> Any:
    """One field of a record, or the BadData that says what is wrong with it."""
    try:
        return _TYPES[name].validate_json(text, strict=True)
    except ValidationError as error:
        return BadData(f"{CELLS}: {name}: {sentence_of(error)}")


def _cell(values: dict[str, Any], audit: str | None, place: Place | None, examples: Examples) -> Packed:
    run_id, started = values["run_id"], values.pop(STARTED, None)
    try:
        for value in values.values():
            if isinstance(value, BadData):
                raise BadData(*value.args)
        if started is not None and "made" in values:
            values["made"] = values["made"].model_copy(update={"started": started})
        record = _record(values)
        if record.status == "done":
            if place is None:
                raise BadData("its examples are missing")
            examples.group(place).check(record)
        return Packed(run_id, record, None if audit is None else _audit(run_id, audit), place)
    except BadData as error:
        return Packed(run_id, reason=str(error))


def _record(values: dict[str, Any]) -> CellRecord:
    try:
        return CellRecord.model_validate(values)
    except ValidationError as error:
        raise BadData(f"{CELLS}: {sentence_of(error)}") from error


def _audit(run_id: str, text: str) -> Audit:
    try:
        audit = Audit.model_validate_json(text)
    except ValidationError as error:
        raise BadData(f"{CELLS}: audit: {sentence_of(error)}") from error
    if audit.run_id != run_id:
        raise BadData(f"{CELLS}: an audit belongs to another cell")
    return audit


def row_of(record: CellRecord, audit: Audit | None, place: Place | None) -> dict[str, Any]:
    """A cell as a row of cells.parquet."""
    whole = dumped(record)
    started = whole["made"].pop("started")
    fields = {name: to_json(whole[name]).decode() for name in FIELDS}
    file, row_group = place or (None, None)
    added = None if audit is None else audit.model_dump_json()
    return {"run_id": record.run_id, **fields, STARTED: started, "audit": added, "file": file, "row_group": row_group}


class Known(NamedTuple):
    """What a sweep asks about a packed cell: its status, whether it was audited, where its examples stand."""

    status: str
    audited: bool
    place: Place | None


def known(folder: Path) -> dict[str, Known]:
    """Every cell of a pack that reads whole, by run id."""
    return {cell.name: Known(cell.record.status, cell.audit is not None, cell.place)
            for cell in read_packed(folder) if cell.record is not None}  # fmt: skip
