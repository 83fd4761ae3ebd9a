"""Where examples and kept pictures of the cells that were read are: in memory as far as there is room, or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from robustsuite.records.cells import FILE, checked, read_table
from robustsuite.records.examples import Columns, Examples
from robustsuite.records.folder import Found
from robustsuite.records.pictures import FOLDER as PICTURES
from robustsuite.records.pictures import Kept, read_pictures

HOLDS = 2**29
"""Bytes of examples that a report keeps in memory of cells in folders of their own, and as many of packed ones."""

FRAMES = 2048
"""Cells whose rows stay at hand as a DataFrame."""


class Held:
    """Where the examples of every cell are: in memory, up to HOLDS bytes of each kind, or on disk."""

    def __init__(self) -> None:
        self.frames: dict[str, pd.DataFrame] = {}
        self.bytes = 0
        self.cells: dict[str, tuple[Path, Found, Examples]] = {}
        self.frame = lru_cache(maxsize=FRAMES)(self._frame)

    def put(self, path: Path, cell: Found, examples: Examples) -> None:
        """Know where these are, and keep them if there is room."""
        if cell.frame is not None and self.bytes < HOLDS:
            self.frames[cell.name] = cell.frame
            self.bytes += int(cell.frame.memory_usage(index=False).sum())
        self.cells[cell.name] = path, cell._replace(frame=None), examples

    def _frame(self, run_id: str) -> pd.DataFrame:
        """A cell's rows, sorted by index."""
        if run_id in self.frames:
            return self.frames[run_id]
        path, cell, examples = self.cells.get(run_id) or nothing(run_id)
        if cell.place is not None:
            return examples.frame(run_id, cell.place)
        assert cell.record is not None
        return checked(read_table(path / "cells" / run_id), cell.record)

    def pictures(self, run_id: str) -> Iterator[Kept]:
        """What is kept of a cell's pictures."""
        path, cell, _ = self.cells.get(run_id) or nothing(run_id)
        if cell.record is not None and cell.record.pictures:
            yield from read_pictures(path / PICTURES / f"{run_id}.parquet")

    def columns(self, run_id: str) -> Columns:
        """A cell's rows as arrays by name."""
        _, cell, examples = self.cells.get(run_id) or nothing(run_id)
        return arrays_of(self.frame(run_id)) if cell.place is None else examples.columns(run_id, cell.place)


def arrays_of(frame: pd.DataFrame) -> Columns:
    """Rows as arrays by name, names of files left out."""
    return {str(name): frame[name].to_numpy() for name in frame.columns if name != FILE}


def nothing(run_id: str) -> Any:
    """Raise KeyError: this cell was not read."""
    raise KeyError(f"expected a cell of this run, got {run_id!r}; its folder was not among those read")
