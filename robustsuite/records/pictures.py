"""The pictures of a cell that are kept: runs/<name>/pictures/<run_id>.parquet, exact, compressed, read as untrusted.

A row a picture: its example's index, the clean picture, and what was added to it, both as float32 values in the order
(C, H, W). Differences of an attack are few or small, so they take a fraction of what the pictures would; where a sum in
float32 is not the attacked picture to the last bit, `at` and `value` say what stands there. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustsuite.errors import BadData
from robustsuite.records.cells import DAMAGED

Floats = NDArray[np.float32]

FOLDER = "pictures"
"""The folder inside a run's."""

GROUP_VALUES = 1 << 24
"""Values of clean pictures in a row group at the most, unless one picture has more: 64 MiB."""

MOST_VALUES = 1 << 26
"""Values of a picture that is kept at the most: 256 MiB."""

_SHAPE = b"shape"
_LISTS = {"at": pa.list_(pa.int32()), "value": pa.list_(pa.float32())}


class Kept(NamedTuple):
    """Pictures of some examples: ids (M,) int64, clean and adversarial (M, C, H, W) float32 in [0, 1]."""

    ids: NDArray[np.int64]
    clean: Floats
    adversarial: Floats

    def at(self, rows: slice | NDArray[np.intp]) -> Kept:
        """Those of these rows."""
        return Kept(self.ids[rows], self.clean[rows], self.adversarial[rows])


def both(parts: Iterable[Kept]) -> Kept | None:
    """The pictures of several parts, one after another; None of none."""
    found = list(parts)
    return Kept(*map(np.concatenate, zip(*found, strict=True))) if found else None


def write_pictures(file: Path, parts: Iterable[Kept]) -> tuple[int, str]:
    """Write the pictures into a new file. Returns how many, and the sha256 of what they are; of none no file."""
    digest, n, writer = hashlib.sha256(), 0, None
    try:
        for group in (group for part in parts for group in _groups(part)):
            table = _table(group)
            if writer is None:
                writer = pq.ParquetWriter(
                    file, table.schema, compression="zstd", write_page_checksum=True,
                    use_dictionary=["clean.list.element"],
                    column_encoding={"difference.list.element": "BYTE_STREAM_SPLIT"},
                )  # fmt: skip
            writer.write_table(table, row_group_size=len(table))
            _digest(digest, group)
            n += len(group.ids)
    finally:
        if writer is not None:
            writer.close()
    return n, digest.hexdigest() if n else ""


def read_pictures(file: Path) -> Iterator[Kept]:
    """The pictures of a file, a row group at a time. Raises BadData where it is missing, damaged or of another kind."""
    try:
        if file.exists() and not file.is_file():
            raise ValueError("no file")
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        shape = json.loads((parquet.schema_arrow.metadata or {})[_SHAPE])
        if not (len(shape) == 3 and all(isinstance(side, int) and 0 < side <= 1 << 14 for side in shape)):
            raise ValueError("no shape of a picture")
        values = math.prod(shape)
        if not parquet.schema_arrow.equals(_schema(values)):
            raise ValueError("other columns")
        for i in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(i).num_rows
            if rows * values > (MOST_VALUES if rows == 1 else GROUP_VALUES):
                raise ValueError("a row group that no writer of ours makes")
            yield _kept(parquet.read_row_group(i, use_threads=False), tuple(shape))
    except FileNotFoundError as error:
        raise BadData(f"{FOLDER}/{file.name} is missing") from error
    except DAMAGED as error:
        raise BadData(f"{FOLDER}/{file.name} is damaged, or holds no pictures") from error


def digest_of(parts: Iterable[Kept]) -> tuple[int, str]:
    """How many pictures these are, and the sha256 that `write_pictures` returned of them."""
    digest, n = hashlib.sha256(), 0
    for part in parts:
        _digest(digest, part)
        n += len(part.ids)
    return n, digest.hexdigest() if n else ""


def _digest(digest: hashlib._Hash, part: Kept) -> None:
    for index, clean, adversarial in zip(*part, strict=True):
        digest.update(np.array([index, *clean.shape], dtype="<i8").tobytes())
        digest.update(clean.astype("<f4").tobytes() + adversarial.astype("<f4").tobytes())


def _groups(part: Kept) -> Iterator[Kept]:
    step = max(1, GROUP_VALUES // max(1, math.prod(part.clean.shape[1:])))
    for start in range(0, len(part.ids), step):
        yield part.at(slice(start, start + step))


def _schema(values: int) -> pa.Schema:
    pictures = {name: pa.list_(pa.float32(), values) for name in ("clean", "difference")}
    return pa.schema({"index": pa.int64(), **pictures, **_LISTS})


def _table(part: Kept) -> pa.Table:
    clean, adversarial = (np.ascontiguousarray(p, dtype=np.float32).reshape(len(p), -1) for p in part[1:])
    difference = adversarial - clean
    off = (clean + difference).view(np.int32) != adversarial.view(np.int32)
    at = [np.flatnonzero(row).astype(np.int32) for row in off]
    schema = _schema(clean.shape[1]).with_metadata({_SHAPE: json.dumps(part.clean.shape[1:]).encode()})
    columns = [
        pa.array(part.ids, pa.int64()), *(pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), p.shape[1])
                                            for p in (clean, difference)),
        pa.array(at, _LISTS["at"]),
        pa.array([row[i] for row, i in zip(adversarial, at, strict=True)], _LISTS["value"]),
    ]  # fmt: skip
    return pa.table(columns, schema=schema)


def _kept(table: pa.Table, shape: tuple[int, ...]) -> Kept:
    table.validate(full=True)
    if any(column.null_count for column in table.columns):
        raise ValueError("a hole")
    n = len(table)
    clean, difference = (table[name].combine_chunks().flatten().to_numpy().reshape(n, -1)
                         for name in ("clean", "difference"))  # fmt: skip
    adversarial = clean + difference
    for row, at, value in zip(adversarial, table["at"].to_pylist(), table["value"].to_pylist(), strict=True):
        if at and min(at) < 0:
            raise ValueError("a place before the first")
        row[np.array(at, dtype=np.int64)] = value
    if not (np.isfinite(clean).all() and np.isfinite(adversarial).all()):
        raise ValueError("values that no picture has")
    return Kept(table["index"].to_numpy(), clean.reshape(n, *shape), adversarial.reshape(n, *shape))
