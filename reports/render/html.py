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

from .document import Document
from .rows import most_shown, scripts

TEMPLATES = Path(__file__).parent / "templates"
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
    return environment


def _breakable(name: str) -> Markup:
    """A name that may break after its separators, escaped."""
    return Markup(re.sub(r"(?<=[_+,])(?=\w)|(?<=\w)(?=\()", "<wbr>", str(escape(name))))


def render(document: Document, *, csv: bool = True) -> dict[str, str]:
    """The page as text, and the rows of its longest tables in files beside it, by name. csv: whether csv files are."""
    files = {"css": "report.css", "tables_css": "tables.css", "js": "report.js", "rows_css": "rows.css",
             "rows_js": "rows.js", "gallery_css": "gallery.css"}  # fmt: skip
    parts = {name: Markup((TEMPLATES / file).read_text("utf-8")) for name, file in files.items()}
    template, most = environment().get_template("report.html.j2"), most_shown(document.sections)
    page = template.render(
        document=document, trusted=Markup, filter_from=FILTER_FROM, most=most, csv=csv, most_answers=MOST_ANSWERS,
        **parts,
    )  # fmt: skip
    return {"report.html": page, **scripts(document.sections, most)}
