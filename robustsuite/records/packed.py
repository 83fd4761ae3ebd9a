"""Many finished cells in a few files, read as untrusted input: `runs/<name>/packed/{cells, examples-<sha>}.parquet`.

cells.parquet has one row a cell: a column for each field of its record, in JSON (most cells of a sweep share most of
them, so each is held against the schema once), what an audit added, in JSON or null, and where its examples stand: the
file and its row group (`examples.py`). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from robustsuite.errors import BadData
from robustsuite.records.cells import DAMAGED
from robustsuite.records.examples import PACKED, Examples, Place, opened, stamp_of
from robustsuite.records.schema import Audit, CellRecord, dumped
from robustsuite.records.untrusted import sentence_of

CELLS, ASIDE = "cells.parquet", "damaged-"
AGAIN = "run the sweep again for what is absent, then delete it"
SOME = 1 << 26
"""Bytes of examples that are held while the cells are read one after another."""

GROUP_CELLS = 1 << 12
"""Rows of cells.parquet in a row group."""

FIELDS = tuple(name for name in CellRecord.model_fields if name != "run_id")
STARTED = "made.started"
"""A field that differs from cell to cell inside one that does not stands apart, so that the rest is shared."""

PLACE = ("audit", "file", "row_group")
"""Columns that may be null."""

TEXTS = ("run_id", *FIELDS, STARTED, "audit", "file")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("row_group", pa.int32())])
_TYPES: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(get_type_hints(CellRecord)[name]) for name in FIELDS}


class Packed(NamedTuple):
    """A cell of the pack: its record, what an audit added, where its examples stand; or why it cannot be read.

    name: its run id, or, of a whole row group that cannot be read, the file's name.
    """

    name: str
    record: CellRecord | None = None
    audit: Audit | None = None
    place: Place | None = None
    reason: str = ""


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
        parquet = opened(file, stamp_of(file), TEXTS)
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
            table.validate(full=True)
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
        return list(column.to_pylist())
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
    """What a sweep asks about a packed cell: its status, whether it was audited, where its examples stand, digests."""

    status: str
    audited: bool
    place: Place | None
    digest: str
    audit_digest: str


def known(folder: Path) -> dict[str, Known]:
    """Every cell of a pack that reads whole, by run id."""
    return {cell.name: Known(cell.record.status, cell.audit is not None, cell.place, cell.record.digest,
                             cell.audit.digest if cell.audit else "")
            for cell in read_packed(folder) if cell.record is not None}  # fmt: skip
