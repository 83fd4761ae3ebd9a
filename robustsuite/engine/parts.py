"""A cell in parts of bounded bytes and work: what several workers share, and what a killed run loses at the most.

Streams are keyed by example, so the rows are the same however a cell is divided; it is divided by what is known before
it is played, so that everybody divides it alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from robustsuite.records.pictures import Kept
from robustsuite.records.schema import At
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import WIDTH
from robustsuite.scenarios.record import Record
from robustsuite.serve.oracle import TILE


class Bounds(NamedTuple):
    """Of a part: its pictures' bytes, its questions (a gradient counts as two more), and examples at the least.

    Attacks hold some eight times their pictures. Fewer examples would leave batches half empty.
    """

    bytes: int
    work: int
    least: int


CPU, GPU = Bounds(96 << 20, 1 << 16, WIDTH), Bounds(512 << 20, 1 << 22, 4 * WIDTH)

KEY = b"robustsuite"
"""Of a part's file: where its counts stand."""


class Played(NamedTuple):
    """A part as it was played: seconds it took, the most bytes that were held, the pictures that are kept."""

    record: Record
    seconds: float
    peak: int
    pictures: Callable[[], Iterable[Kept]] = tuple


def divided(cell: Cell) -> list[range]:
    """The positions of the cell's parts, in order; one where its scenario looks at all examples together."""
    n, step = len(cell.split), max(1, cell.scenario.together(cell))
    if step >= n:
        return [range(n)]
    bounds = CPU if cell.lifecycle.device.startswith("cpu") else GPU
    by_work = max(bounds.least, bounds.work * n // max(1, work_of(cell)))
    most = max(1, min(by_work, bounds.bytes // (4 * math.prod(cell.lifecycle.model.space.shape))))
    step = math.lcm(step, TILE) if math.lcm(step, TILE) <= most else step
    size = math.ceil(math.ceil(n / math.ceil(n / most)) / step) * step
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def work_of(cell: Cell) -> int:
    """Questions that the cell asks at the most; 0 where its plugin cannot say."""
    try:
        cost = cell.cost()
        return int(cost.forwards + 2 * cost.backwards)
    except Exception:  # a plugin may raise anything; its cell will say so
        return 0


def write_part(file: Path, part: Played) -> None:
    """A part's columns, with its counts beside them."""
    record = part.record
    facts = {
        "forwards": record.forwards, "backwards": record.backwards, "seconds": part.seconds, "peak": part.peak,
        "series": {name: [name.series, name.at] for name in record.columns if isinstance(name, At)},
    }  # fmt: skip
    table = pa.table({str(name): column.numpy() for name, column in record.columns.items()})
    table = table.replace_schema_metadata({KEY: json.dumps(facts).encode()})
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_part(file: Path, n: int) -> Played | None:
    """A part of n examples; None where there is none that is whole."""
    if not file.exists():
        return None
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        facts = json.loads((table.schema.metadata or {})[KEY])
        series = {name: At.of(of, int(at)) for name, (of, at) in facts["series"].items()}
        columns = {
            series.get(name, name): torch.from_numpy(np.array(table.column(name).to_numpy()))
            for name in table.column_names
        }
        record = Record(columns, [], int(facts["forwards"]), int(facts["backwards"]))
        whole = table.num_rows == n and bool(columns)
        return Played(record, float(facts["seconds"]), int(facts["peak"])) if whole else None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        return None
