"""Whether the tables of a report are those that a run's rows lead to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from robustsuite.records.seal import Finding

from ..measure.scores import scores
from ..read.runs import read
from .write import csv_files


def stale(folder: Path) -> Iterator[Finding]:
    """Each csv file of the run's own report that says another thing than the rows; nothing where none was written.

    Raises BadData where no cell can be read.
    """
    written = folder / "report"
    if not any(written.glob("*.csv")):
        return
    run = read([folder])
    for name, content in csv_files(run, scores(run)).items():
        file = written / name
        if not name.endswith(".csv"):
            continue
        meant = content if isinstance(content, bytes) else content.encode()
        if not file.is_file():
            yield Finding(f"report/{name}", "missing: write the report again")
        elif (there := file.read_bytes()) != meant:
            yield Finding(f"report/{name}", f"not what the rows lead to, {_first(there, meant)}")


def _first(there: bytes, meant: bytes) -> str:
    """Which line differs first."""
    lines = there.decode(errors="replace").splitlines(), meant.decode().splitlines()
    for i, (mine, right) in enumerate(zip(*lines, strict=False), 1):
        if mine != right:
            return f"from line {i} on: it was edited, or written by another version; write the report again"
    return f"{len(lines[0])} lines for {len(lines[1])}; write the report again"
