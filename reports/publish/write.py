"""One call from run folders to report files: html, markdown, latex and csv, each written aside and then renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from robustsuite.errors import BadValue

from ..across.budgets import budgets_section
from ..across.models import models_section
from ..across.nearest import nearness, nearness_section
from ..across.seeds import seeds_section
from ..across.strength import strength_section
from ..across.threats import over_threats, threats_section
from ..across.transfers import transfers, transfers_section
from ..answers.opening import cautions, short_answers
from ..answers.steps import steps
from ..answers.terms import glossary
from ..examples.classes import classes_section
from ..examples.gallery import gallery_section
from ..examples.selective import selective_section
from ..measure import tables
from ..measure.budgets import over_eps
from ..measure.classes import confusions, per_class
from ..measure.scores import scores as scored
from ..measure.scores import to_csv
from ..measure.seeds import over_seeds
from ..measure.selective import selective
from ..measure.strength import attack_pairs
from ..measure.worst import worst_case
from ..read.extra import trusted
from ..read.runs import STATUSES, Results, read, uncollected
from ..render import html, latex, markdown
from ..render.document import Document, Part, undefended, with_n
from ..render.files import put
from ..sections.every.checks_table import integrity_section, to_json
from ..sections.every.costs import cost_section, provenance_section
from ..sections.every.training_findings import artefact_section, poisons
from ..sections.generic import names_section, other_section, unmeasured_section
from . import evidence, pdf

FORMATS = ("html", "md", "latex", "csv")
ASKED = ("evidence", "pdf")
"""Formats that are written only when they are asked for by name."""


@uncollected()
def write_report(runs: Sequence[Path], out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the report of one or several run folders into `out`; returns the files written.

    Files about scores hold no time, date or path, so two runs of one sweep give the same bytes; what a run cost stands
    in costs.csv, costs.md and the html page. `evidence` is written where asked for by name, and so is `pdf`, last,
    which a browser prints of the page. Raises BadValue for an unknown format or where no browser can print, BadData for
    an unreadable run, BadOutput where `out` cannot be written.
    """
    return [put(Path(out) / name, content) for name, content in rendered(runs, formats)]


def rendered(runs: Sequence[Path], formats: Sequence[str]) -> Iterator[tuple[str, str | bytes]]:
    """The files of a report by name, each made when it is asked for; raises as `write_report` does."""
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
        "evidence": lambda: {"evidence.html": evidence.render(run)},
        # after the others are there: a machine may have no browser
        "pdf": lambda: {"report.pdf": pdf.printed(html.render(document, csv=False)["report.html"])},
    }
    for name, made in render.items():
        if name in formats:
            yield from made().items()


def build(run: Results, table: pd.DataFrame, parts: Sequence[Part] | None = None) -> Document:
    """The whole document of a run; `table` is what `scores(run)` returned, `parts` what `added` did."""
    parts = added(run, table) if parts is None else parts
    counts = run.cells["status"].value_counts()
    made = [(name, int(counts.get(name, 0))) for name in STATUSES if counts.get(name, 0)]
    if run.skipped:
        made.append(("unreadable", len(run.skipped)))
    sections = [
        *(section for part in parts for section in part.sections),
        threats_section(run),
        seeds_section(run),
        budgets_section(run),
        models_section(run, table),
        transfers_section(run),
        strength_section(run),
        nearness_section(run),
        gallery_section(run),
        classes_section(run),
        selective_section(run),
        other_section(run, table),
        artefact_section(run.artefacts, poisons(run.cells)),
        integrity_section(run),
        unmeasured_section(run),
        names_section(run),
        cost_section(run),
        provenance_section(run),
    ]
    shown = sorted((s for s in sections if s.tables or s.figures or s.galleries), key=lambda section: section.order)
    if not run.defended:
        shown = [undefended(section) for section in shown]
    said = with_n(short_answers(run, table, [answer for part in parts for answer in part.answers]))
    warned = tuple(cautions(run, worst_case(run)))
    return Document(run.title, run.note, tuple(made), warned, said, tuple(shown), steps(run), glossary(shown),
                    run.roots)  # fmt: skip


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
        "nearness": nearness(run),
        "transfers": transfers(run),
        "all_threats": over_threats(run),
        "per_class": per_class(run),
        "confusions": confusions(run),
        "selective": selective(run),
        "names": tables.names(run),
        "flags": tables.flagged(run),
        "not_measured": tables.not_measured(run),
        "costs": tables.costs(run),
    }  # fmt: skip
    files = {f"{name}.csv": to_csv(frame) for name, frame in frames.items() if len(frame)}
    return {**files, "integrity.json": to_json(run)}


def _pngs(document: Document) -> dict[str, str | bytes]:
    drawn = {figure.name: figure.png for section in document.sections for figure in section.figures}
    drawn |= {gallery.name: gallery.png() for section in document.sections for gallery in section.galleries}
    return {f"figures/{name}.png": png for name, png in drawn.items()}
