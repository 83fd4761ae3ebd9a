"""A finished cell's folder, read as untrusted input: every file is held against its schema, a sentence says the rest.

runs/<name>/cells/<run_id>/{run.json, examples.parquet, audit.json}. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from robustsuite.errors import BadData
from robustsuite.records.schema import VERSION, Audit, CellRecord
from robustsuite.records.swept import SweepFacts
from robustsuite.records.untrusted import object_of, sentence_of, text_of
from robustsuite.records.v1 import upgraded

FILE = "file"
"""The column that names each example's file, where it has one: for eyes, so tables that count leave it out."""

DAMAGED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError)
"""What reading a parquet file that was changed raises."""

MOST_VALUES = 1 << 28
"""Values that the examples of a cell have at the most, columns times rows: 2 GiB."""

KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float"}


def read_cell(folder: Path) -> CellRecord:
    """The record of a cell whose files all fit. Raises BadData: which file, which field, what was expected."""
    return read_whole(folder)[0]


def read_whole(folder: Path) -> tuple[CellRecord, pd.DataFrame | None, Audit | None]:
    """A cell's record, its examples sorted by index where it is done, what an audit added. Raises BadData."""
    text = text_of(folder / "run.json")
    row = object_of(text, "run.json")
    version = row.get("version", 1)
    table = read_table(folder) if row.get("status") == "done" else None
    if version == 1:
        record = upgraded(row, {} if table is None else kinds_of(table))
    elif version == VERSION:
        try:
            record = CellRecord.model_validate_json(text)
        except ValidationError as error:
            raise BadData(f"run.json: {sentence_of(error)}") from error
    else:
        raise BadData(f"run.json is of version {version!r}, this suite reads 1 and {VERSION}")
    if record.run_id != folder.name:
        raise BadData("run.json belongs to another cell")
    return record, None if table is None else checked(table, record), read_audit(folder)


def read_table(folder: Path) -> pd.DataFrame:
    """The examples as they are stored, without run_id. Raises BadData in a sentence."""
    file = folder / "examples.parquet"
    try:
        if file.exists() and not file.is_file():
            raise BadData("examples.parquet is no file")
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        if parquet.metadata.num_rows * parquet.metadata.num_columns > MOST_VALUES:
            raise BadData(f"examples.parquet has {parquet.metadata.num_rows:,} rows, more than any cell")
        table = parquet.read(use_threads=False)
        frame: pd.DataFrame = table.drop_columns([c for c in table.column_names if c == "run_id"]).to_pandas()
    except FileNotFoundError as error:
        raise BadData("examples.parquet is missing") from error
    except DAMAGED as error:
        raise BadData("examples.parquet is cut short or no parquet") from error
    if len(set(frame.columns)) < frame.shape[1]:
        raise BadData("examples.parquet names a column twice")
    return frame


def checked(frame: pd.DataFrame, record: CellRecord) -> pd.DataFrame:
    """The examples, if they are what the record declares, sorted by index. Raises BadData in a sentence."""
    counted(len(frame), record)
    fitting(kinds_of(frame), record)
    if frame["index"].duplicated().any():
        raise BadData("examples.parquet: expected each index once, got some again")
    return frame.sort_values("index", kind="stable").reset_index(drop=True)


def counted(rows: int, record: CellRecord, said: str = "run.json", held: str = "examples.parquet") -> None:
    """Raise BadData where `held` has another number of examples than the record, which stands in `said`, declares."""
    if not rows or rows != record.rows:
        raise BadData(f"{said} says {record.rows} examples, {held} holds {rows}")


def fitting(
    kinds: Mapping[str, str], record: CellRecord, said: str = "run.json", held: str = "examples.parquet"
) -> None:
    """Raise BadData where columns of these kinds are not those that the record declares and scores."""
    who = ("index", "label") if record.data.n else ("index",)
    wanted: dict[str, str] = {**dict.fromkeys(who, "int"), **{c.name: c.dtype for c in record.columns}}
    for name, kind in wanted.items():
        if name not in kinds:
            raise BadData(f"{held} has no column {name}")
        if kinds[name] != kind:
            raise BadData(f"{held}: expected {name} as {kind}, got {kinds[name]}; nulls or another type")
    for scoring in (s for c in record.columns for s in c.scores):
        if missing := {scoring.by, scoring.where} - {"", *kinds}:
            raise BadData(f"{said}: the score {scoring.name} is by {', '.join(sorted(missing))}, which no column is")


def kinds_of(frame: pd.DataFrame) -> dict[str, str]:
    """bool, int, float or other, by column."""
    found = {}
    for name in frame.columns:
        kind = frame[name].dtype
        found[str(name)] = KINDS.get(kind.kind, "other") if isinstance(kind, np.dtype) else "other"
    return found


def read_audit(folder: Path) -> Audit | None:
    """What an audit left in a cell's folder; None where there was none. Raises BadData for a damaged one."""
    file = folder / "audit.json"
    if not file.exists():
        return None
    try:
        audit = Audit.model_validate_json(text_of(file))
    except ValidationError as error:
        raise BadData(f"audit.json: {sentence_of(error)}") from error
    if audit.run_id != folder.name:
        raise BadData("audit.json belongs to another cell")
    return audit


def read_sweep(path: Path) -> SweepFacts:
    """What was swept in a run's folder. Raises BadData in a sentence."""
    file = path / "sweep.json"
    if not file.is_file():
        raise BadData(f"expected a run folder with sweep.json, got {str(path)!r}; name runs/<name>")
    try:
        return SweepFacts.model_validate_json(text_of(file))
    except (ValidationError, BadData) as error:
        got = sentence_of(error) if isinstance(error, ValidationError) else error
        raise BadData(f"expected a sweep's description in {str(file)!r}, got {got}; run the sweep again") from error


