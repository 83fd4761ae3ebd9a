"""One call from run folders to report files: html, markdown, latex and csv, each written aside and then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from robustsuite.errors import BadOutput, BadValue

from ..across.budgets import budgets_section
from ..across.models import models_section
from ..across.seeds import seeds_section
from ..across.strength import strength_section
from ..answers.opening import cautions, short_answers
from ..answers.steps import steps
from ..answers.terms import glossary
from ..measure import tables
from ..measure.budgets import over_eps
from ..measure.scores import scores as scored
from ..measure.scores import to_csv
from ..measure.seeds import over_seeds
from ..measure.strength import attack_pairs
from ..measure.worst import worst_case
from ..read.extra import trusted
from ..read.runs import STATUSES, Results, read, uncollected
from ..render import html, latex, markdown
from ..render.document import Document, Part, undefended, with_n
from ..sections.checks_table import integrity_section, to_json
from ..sections.costs import cost_section, provenance_section
from ..sections.generic import names_section, other_section, unmeasured_section
from ..sections.training_findings import artefact_section
from . import pdf

FORMATS = ("html", "md", "latex", "csv")
ASKED = ("pdf",)
"""Formats that are written only when they are asked for by name."""


@uncollected()
def write_report(runs: Sequence[Path], out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the report of one or several run folders into `out`; returns the files written.

    Files about scores hold no time, date or path, so two runs of one sweep give the same bytes; what a run cost stands
    in costs.csv, costs.md and the html page, which a browser prints as `pdf`, last, where that is asked for by name.
    Raises BadValue for an unknown format or where no browser can print, BadData for an unreadable run, BadOutput where
    `out` cannot be written.
    """
    known = (*FORMATS, *ASKED)
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise BadValue(f"expected formats among {', '.join(known)}, got {unknown or list(formats)!r}; name one of them")
    run = read(runs)
    table = scored(run)
    parts = added(run, table)
    document = build(run, table, parts)
    render: dict[str, Callable[[], dict[str, str | bytes]]] = {
        "html": lambda: {**html.render(document, csv="csv" in formats)},
        "md": lambda: {
            "report.md": markdown.render(document),
            "costs.md": markdown.render_costs(document),
            **_pngs(document),
        },
        "latex": lambda: {"report.tex": latex.render(document)},
        "csv": lambda: csv_files(run, table, parts),
    }
    files: dict[str, str | bytes] = {}
    for name in FORMATS:
        files |= render[name]() if name in formats else {}
    written = [put(Path(out) / name, content) for name, content in files.items()]
    if "pdf" in formats:  # after the others are there: a machine may have no browser
        written.append(put(Path(out) / "report.pdf", pdf.printed(html.render(document, csv=False)["report.html"])))
    return written


def build(run: Results, table: pd.DataFrame, parts: Sequence[Part] | None = None) -> Document:
    """The whole document of a run; `table` is what `scores(run)` returned, `parts` what `added` did."""
    parts = added(run, table) if parts is None else parts
    counts = run.cells["status"].value_counts()
    made = [(name, int(counts.get(name, 0))) for name in STATUSES if counts.get(name, 0)]
    if run.skipped:
        made.append(("unreadable", len(run.skipped)))
    sections = [
        *(section for part in parts for section in part.sections),
        seeds_section(run),
        budgets_section(run),
        models_section(run, table),
        strength_section(run),
        other_section(run, table),
        artefact_section(run.artefacts, run.cells["weights_sha256"]),
        integrity_section(run),
        unmeasured_section(run),
        names_section(run),
        cost_section(run),
        provenance_section(run),
    ]
    shown = sorted((s for s in sections if s.tables or s.figures), key=lambda section: section.order)
    if not run.defended:
        shown = [undefended(section) for section in shown]
    said = with_n(short_answers(run, table, [answer for part in parts for answer in part.answers]))
    warned = tuple(cautions(run, worst_case(run)))
    return Document(run.title, run.note, tuple(made), warned, said, tuple(shown), steps(run), glossary(shown))


def added(run: Results, table: pd.DataFrame) -> list[Part]:
    """What the scenarios of the run add to its report, in the document's order."""
    names = dict.fromkeys(cell["record"].scenario.sections for cell in run.known.values())
    parts: list[Part] = [trusted(name)(run, table) for name in names if name]
    return sorted(parts, key=lambda part: min((section.order for section in part.sections), default=50))


def csv_files(run: Results, table: pd.DataFrame, parts: Sequence[Part] | None = None) -> dict[str, str | bytes]:
    """Every table of numbers as csv, by file name; costs.csv alone differs between two runs of one sweep."""
    frames = {
        "scores": table,
        **{name: frame for part in (added(run, table) if parts is None else parts)
           for name, frame in part.frames.items()},
        "over_seeds": over_seeds(run),
        "over_eps": over_eps(run),
        "attack_pairs": attack_pairs(run),
        "names": tables.names(run),
        "flags": tables.flagged(run),
        "not_measured": tables.not_measured(run),
        "costs": tables.costs(run),
    }  # fmt: skip
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
