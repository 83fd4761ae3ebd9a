"""The report as GitHub-flavoured markdown; figures are files beside it, costs stand in a page of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .document import Document, Entry, Section, Table


def render(document: Document) -> str:
    """The scores as markdown text: the same bytes for the same scores, whenever and wherever they were measured."""
    lines = [
        f"# {_title(document)}",
        "",
        ", ".join(f"{count} {name}" for name, count in document.counts) + ".",
        "",
    ]
    for i, (first, *others) in enumerate(document.said, 1):
        lines.append(f"{i}. **{escape(first)}** {escape(' '.join(others))}".rstrip())
    if document.steps:
        lines += ["", "What to do next:", "", *(f"- {_step(step)}" for step in document.steps)]
    lines += ["", *(f"- **{escape(caution)}**" for caution in document.cautions)]
    for answer in document.answers:
        spans = [f" ({span})" if span else "" for _, _, span, _ in answer.numbers]
        numbers = ", ".join(f"{n[0]} {n[1]}{span}" for n, span in zip(answer.numbers, spans, strict=True))
        said = " ".join([f"{numbers}." if numbers else "", *answer.sentences])
        lines += ["", f"**{escape(answer.title)}** ({escape(answer.where)}): {escape(said)}"]
    for section in document.sections:
        if not section.passing:
            lines += ["", *_section(section)]
    if document.terms:
        lines += ["", "## Words", "", *(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in document.terms)]
    return "\n".join([*lines, "", "Intervals are 95 %: Clopper-Pearson for rates, bootstrap for means.", ""])


def render_costs(document: Document) -> str:
    """What the run cost and on what it ran, as markdown text."""
    lines = [f"# Cost of {_title(document)}"]
    for section in document.sections:
        if section.passing:
            lines += ["", *_section(section)]
    return "\n".join([*lines, ""])


@lru_cache(maxsize=1 << 16)
def escape(text: str) -> str:
    """Text that renders as itself: no markup, no html, no table cell of its own."""
    flat = re.sub(r"\s+", " ", text)
    return re.sub(
        r"([\\`*_\[\]|~#$])", r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def _step(step: str) -> str:
    """A step with its commands as code."""
    return "`".join(part if i % 2 else escape(part) for i, part in enumerate(step.split("`")))


def _title(document: Document) -> str:
    return escape(document.title + (f" ({document.note})" if document.note else ""))


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    for line in section.lead:
        yield from ("", escape(line))
    for figure in section.figures:
        yield from ("", f"![{escape(figure.caption)}](figures/{figure.name}.png)")
    for gallery in section.galleries:
        yield from ("", f"### {escape(gallery.title)}", "", escape(gallery.caption), "")
        yield f"![{escape(gallery.title)}](figures/{gallery.name}.png)"
        yield ""
        yield from (f"- {escape('; '.join((shot.words, *shot.facts)))}" for shot in gallery.shots)
    for table in section.tables:
        yield from ("", *_table(table))


def _table(table: Table) -> Iterator[str]:
    yield f"### {escape(table.title)}"
    yield ""
    if table.caption:
        yield from (escape(table.caption), "")
    yield f"| {' | '.join(escape(column) for column in table.columns)} |"
    yield f"|{'|'.join(' --- ' for _ in table.columns)}|"
    for row in table.rows:
        yield f"| {' | '.join(_entry(entry) for entry in row)} |"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    return f"~~{text}~~" if entry.struck else text
