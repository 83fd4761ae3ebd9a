"""The report as one page: no network, every text escaped, readable on a phone, light and dark; self-contained, unless
a table has so many rows that they stand in a file beside it (`rows.py`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .document import Document, terms_of
from .rows import most_shown, scripts

TEMPLATES = Path(__file__).parent / "templates"
MOST_SAID = 7  # sentences that are read in ten seconds, or little more
MOST_ANSWERS = 40  # of very many groups the first ones have their short answer on the page, the tables have all
FILTER_FROM = 8  # a shorter table is read faster than it is searched


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja over our own templates: everything escaped, an unknown name an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}"
    environment.filters["breakable"] = _breakable
    environment.filters["brief"] = "{:.3g}".format
    environment.filters["embedded"] = lambda png: f"data:image/png;base64,{b64encode(png).decode()}"
    environment.filters["coded"] = _coded
    environment.filters["anchor"] = _anchor
    return environment


def _breakable(name: str) -> Markup:
    """Text whose names may break after their separators, and whose numbers stay beside their per cent; escaped."""
    together = name.replace(" %", "\u00a0%")
    return Markup(re.sub(r"(?<=[_+,])(?=\w)|(?<=\w)(?=\()", "<wbr>", str(escape(together))))


def _coded(step: str) -> Markup:
    """A sentence with what stands between backticks as code, escaped."""
    parts = (Markup("<code>{}</code>" if i % 2 else "{}").format(part) for i, part in enumerate(step.split("`")))
    return Markup("").join(parts)


def _used(document: Document) -> dict[str, list[str]]:
    """By section, which terms of the glossary it uses that no section before it did."""
    found: dict[str, list[str]] = {}
    known: set[str] = set()
    for section in document.sections:
        new = [term for term in terms_of(section, document.terms) if term not in known]
        known |= set(new)
        if new:
            found[section.name] = new
    return found


def _anchor(term: str) -> str:
    """The id of a term of the glossary."""
    return "word-" + re.sub(r"\W+", "-", term.lower()).strip("-")


def render(document: Document, *, csv: bool = True) -> dict[str, str]:
    """The page as text, and the rows of its longest tables in files beside it, by name. csv: whether csv files are."""
    files = {"css": "report.css", "tables_css": "tables.css", "js": "report.js", "rows_css": "rows.css",
             "rows_js": "rows.js", "gallery_css": "gallery.css"}  # fmt: skip
    parts = {name: Markup((TEMPLATES / file).read_text("utf-8")) for name, file in files.items()}
    template, most = environment().get_template("report.html.j2"), most_shown(document.sections)
    page = template.render(
        document=document, trusted=Markup, filter_from=FILTER_FROM, most=most, csv=csv, most_answers=MOST_ANSWERS,
        most_said=MOST_SAID, used=_used(document),
        **parts,
    )  # fmt: skip
    return {"report.html": page, **scripts(document.sections, most)}
