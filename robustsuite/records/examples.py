"""The examples of packed cells, read as untrusted input a row group at a time: `packed/examples-<sha>.parquet`.

Cells with the same columns stand in one file below each other, in the order in which they were stored, each inside one
row group. Pages carry checksums, so what a disk changed is found: it costs the cells of its row group and is a
sentence. Imports no torch.
"""

from __future__ import annotations

from collections import OrderedDict
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

from robustsuite.errors import BadData
from robustsuite.records.cells import DAMAGED, FILE, counted, fitting, kinds_of
from robustsuite.records.schema import CellRecord

PACKED = "packed"
"""The folder inside a run's."""

GROUP_ROWS = 1 << 16
"""Rows in a row group, unless one cell has more."""

Columns = dict[str, NDArray[Any]]
"""A cell's examples sorted by index, by the column's name."""


class Place(NamedTuple):
    """Where the examples of a cell stand: the file's name and its row group."""

    file: str
    row_group: int


@dataclass(frozen=True)
class Group:
    """One row group of examples, decoded: `runs` says which rows are whose, `twice` who has an index twice."""

    frame: pd.DataFrame
    runs: dict[str, slice]
    twice: frozenset[str]
    fits: dict[tuple[int, ...], CellRecord] = field(default_factory=dict)

    @cached_property
    def columns(self) -> Columns:
        """The columns as arrays over the whole group, names of files left out."""
        return {str(name): self.frame[name].to_numpy() for name in self.frame.columns if name != FILE}

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
def opened(file: Path, stamp: tuple[int, int] | None, texts: tuple[str, ...] = ("run_id",)) -> pq.ParquetFile:
    """A file whose columns `texts` are read as dictionaries, and whose checksums are. stamp: what `stamp_of` says."""
    return pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=list(texts))


@lru_cache(maxsize=4)
def _table(file: Path, stamp: tuple[int, int] | None, row_group: int) -> pa.Table:
    table = opened(file, stamp).read_row_group(row_group)
    table.validate(full=True)  # what no checksum covers, a dictionary's indices for one
    return table


def table_of(folder: Path, place: Place, run_id: str = "") -> pa.Table:
    """The examples of a row group, or of one cell, as they were stored. Raises BadData in a sentence."""
    file = folder / PACKED / place.file
    try:
        if Path(place.file).name != place.file:
            raise BadData("its examples stand in a file elsewhere")
        stamp = stamp_of(file)
        if not 0 <= place.row_group < opened(file, stamp).metadata.num_row_groups:
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
