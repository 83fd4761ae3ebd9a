"""Every cell of a run's folder, wherever it stands: in a folder of its own or in the pack; its own folder wins.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from robustsuite.errors import BadData
from robustsuite.records.cells import read_audit, read_whole
from robustsuite.records.examples import Examples, Place
from robustsuite.records.packed import Packed, read_packed, set_aside
from robustsuite.records.schema import Audit, CellRecord


class Found(NamedTuple):
    """A cell with its rows, read (`frame`) or where they stand in the pack (`place`); or why it cannot be read."""

    name: str
    record: CellRecord | None = None
    audit: Audit | None = None
    frame: pd.DataFrame | None = None
    place: Place | None = None
    reason: str = ""


def loose(folder: Path) -> list[Path]:
    """The folders of a run's cells by name, without what is being written."""
    root = folder / "cells"
    return sorted(f for f in root.iterdir() if f.is_dir() and not _aside(f.name)) if root.is_dir() else []


def _aside(name: str) -> bool:
    # Dotted and .tmp names are what the store is still writing aside; a finished folder has its plain name.
    return name.startswith((".", "_")) or name.endswith((".tmp", ".part"))


def cells_of(folder: Path, examples: Examples) -> Iterator[Found]:
    """Every cell of a run's folder once. A folder that cannot be read does no harm to a packed cell of that name.

    The pack is read last, so a cell that is packed meanwhile is found in one of the two.
    """
    left: dict[str, Found] = {}
    seen: set[str] = set()
    for cell in loose(folder):
        try:
            record, frame, audit = read_whole(cell)
        except BadData as error:
            left[cell.name] = Found(cell.name, reason=str(error))
        else:
            seen.add(cell.name)
            yield Found(cell.name, record, audit, frame)
    for packed in chain(read_packed(folder, examples), set_aside(folder)):
        if packed.name in seen or (packed.record is None and packed.name in left):
            continue
        if left.pop(packed.name, None):
            packed = added(packed, folder)
        yield Found(packed.name, packed.record, packed.audit, None, packed.place, packed.reason)
    yield from left.values()


def added(cell: Packed, folder: Path) -> Packed:
    """A packed cell with what an audit has put into cells/<run_id>/audit.json since, unless that is damaged."""
    try:
        return cell._replace(audit=read_audit(folder / "cells" / cell.name) or cell.audit)
    except BadData:
        return cell
