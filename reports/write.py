"""One call from run folders to report files: html, markdown, latex and csv, each written aside and then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from robustsuite.errors import BadOutput, BadValue

from . import figures, html, latex, markdown, tables
from .artefacts import artefact_section
from .document import Document
from .integrity import integrity_section, to_json
from .inversion import inversion_section
from .ordered import ordered, ordered_section
from .poisoning import poisoning_section
from .provenance import cost_section, provenance_section
from .queries import distances, query_section
from .query_costs import query_costs
from .read import STATUSES, Run, read
from .scores import scores as scored
from .scores import to_csv
from .sections import (
    attack_section,
    certified_section,
    other_section,
    paired_section,
    shift_section,
    unmeasured_section,
    worst_section,
)
from .summary import answers, cautions, rankings
from .worst import paired

FORMATS = ("html", "md", "latex", "csv")


def write_report(runs: Sequence[Path], out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the report of one or several run folders into `out`; returns the files written.

    Files about scores hold no time, date or path, so two runs of one sweep give the same bytes; what a run cost stands
    in costs.csv, costs.md and the html page. Raises BadValue for an unknown format, BadData for an unreadable run,
    BadOutput where `out` cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise BadValue(
            f"expected formats among {', '.join(FORMATS)}, got {unknown or list(formats)!r}; name one of them"
        )
    run = read(runs)
    table = scored(run)
    document = build(run, table)
    render: dict[str, Callable[[], dict[str, str | bytes]]] = {
        "html": lambda: {"report.html": html.render(document)},
        "md": lambda: {
            "report.md": markdown.render(document),
            "costs.md": markdown.render_costs(document),
            **_pngs(document),
        },
        "latex": lambda: {"report.tex": latex.render(document)},
        "csv": lambda: csv_files(run, table),
    }
    files: dict[str, str | bytes] = {}
    for name in FORMATS:
        files |= render[name]() if name in formats else {}
    return [put(Path(out) / name, content) for name, content in files.items()]


def build(run: Run, table: pd.DataFrame) -> Document:
    """The whole document of a run; `table` is what `scores(run)` returned."""
    worst = rankings(run)
    counts = run.cells["status"].value_counts()
    made = [(name, int(counts.get(name, 0))) for name in STATUSES if counts.get(name, 0)]
    if run.skipped:
        made.append(("unreadable", len(run.skipped)))
    sections = (
        worst_section(worst),
        attack_section(run, table, [*figures.heatmaps(run, table), *figures.curves(run)]),
        query_section(run),
        ordered_section(run),
        certified_section(run, table, figures.sandwiches(run)),
        shift_section(run, figures.corruption_panels(run)),
        poisoning_section(run),
        inversion_section(run),
        other_section(run, table),
        artefact_section(run.artefacts, run.cells["weights_sha256"]),
        paired_section(run),
        integrity_section(run),
        unmeasured_section(run),
        cost_section(run),
        provenance_section(run),
    )
    return Document(
        run.title,
        run.note,
        tuple(made),
        tuple(cautions(run, worst)),
        tuple(answers(run, worst, table)),
        tuple(section for section in sections if section.tables or section.figures),
    )


def csv_files(run: Run, table: pd.DataFrame) -> dict[str, str | bytes]:
    """Every table of numbers as csv, by file name; costs.csv alone differs between two runs of one sweep."""
    frames = {
        "scores": table,
        "worst_case": rankings(run),
        "paired": paired(run),
        "corruptions": tables.corruption_errors(run),
        "queries": distances(run).drop(columns="reached"),
        "query_costs": query_costs(run),
        "ordered_topk": ordered(run),
        "flags": tables.flagged(run),
        "not_measured": tables.not_measured(run),
        "costs": tables.costs(run),
    }
    files = {f"{name}.csv": to_csv(frame) for name, frame in frames.items() if len(frame)}
    return {**files, "integrity.json": to_json(run)}


def _pngs(document: Document) -> dict[str, str | bytes]:
    return {f"figures/{f.name}.png": f.png for section in document.sections for f in section.figures}


def put(file: Path, content: str | bytes) -> Path:
    """Write one file aside, then rename it; raises BadOutput where that cannot be done."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(aside).chmod(0o644)
            os.replace(aside, file)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadOutput(
            f"expected a folder to write into, got {str(file.parent)!r} ({error.strerror}); name another"
        ) from error
    return file
