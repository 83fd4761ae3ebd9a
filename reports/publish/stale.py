"""Whether a run's own report says what the run's rows lead to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from robustsuite.records.seal import Finding

from ..read.runs import uncollected
from .write import rendered

DRAWN = re.compile(r"<svg.*?</svg>|data:image/png;base64,[^\"]*", re.DOTALL)
"""What hangs on the version of who draws."""

TEXTS = {".csv": "csv", ".html": "html", ".md": "md", ".tex": "latex", ".json": "csv"}
"""Files of a report that are text, and the format that they belong to."""


@uncollected()
def stale(folder: Path) -> Iterator[Finding]:
    """Each text of the run's own report that is not what its rows give; nothing where none was written.

    Figures are left out of the comparison. Raises BadData where no cell can be read.
    """
    written = folder / "report"
    there = {str(file.relative_to(written)): file for file in sorted(written.glob("*")) if file.suffix in TEXTS}
    if not there:
        return
    formats = {TEXTS[file.suffix] for file in there.values()} | ({"evidence"} & {file.stem for file in there.values()})
    meant = dict(_texts(folder, formats))
    for name, text in meant.items():
        if name not in there:
            yield Finding(f"report/{name}", "missing: write the report again")
            continue
        now = there[name].read_text("utf-8", errors="replace")
        said = _first(now, text)
        if said and not (name == "report.html" and not _first(now, _alone(folder))):
            yield Finding(f"report/{name}", f"not what the rows lead to, {said}")
    for name in sorted(there.keys() - meant.keys()):
        yield Finding(f"report/{name}", "no file of this report")


def _alone(folder: Path) -> str:
    """The page as it is written where no csv files are."""
    return dict(_texts(folder, {"html"}))["report.html"]


def _texts(folder: Path, formats: Collection[str]) -> Iterator[tuple[str, str]]:
    for name, content in rendered([folder], sorted(formats)):
        if "/" not in name and Path(name).suffix in TEXTS:
            yield name, content if isinstance(content, str) else content.decode()


def _first(there: str, meant: str) -> str:
    """Where a file begins to differ, but for figures and line ends; '' where it does not."""
    mine, right = (DRAWN.sub("", text).splitlines() for text in (there, meant))
    for i, (a, b) in enumerate(zip(mine, right, strict=False), 1):
        if a != b:
            return f"from line {i} on: it was edited, or written by another version; write the report again"
    return f"{len(mine)} lines for {len(right)}; write the report again" if len(mine) != len(right) else ""
