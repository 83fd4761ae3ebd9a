"""What a run has stored, as rows of words and numbers."""

from pathlib import Path
from typing import Any

from robustsuite.records.cells import read_cell
from robustsuite.records.flat import flat


def rows(folder: Path | str) -> list[dict[str, Any]]:
    """Every finished cell of a run's folder, in the order of their names."""
    return [flat(read_cell(path)) for path in sorted(Path(folder, "cells").glob("[!.]*"))]
