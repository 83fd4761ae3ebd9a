"""The report as one self-contained page: no network, every text escaped, readable on a phone, light and dark."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .document import Document

TEMPLATES = Path(__file__).parent / "templates"
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
    return environment


def _breakable(name: str) -> Markup:
    """A name that may break after its separators, escaped."""
    return Markup(re.sub(r"(?<=[_+,])(?=\w)|(?<=\w)(?=\()", "<wbr>", str(escape(name))))


def render(document: Document) -> str:
    """The page as text."""
    parts = {name: Markup((TEMPLATES / f"report.{name}").read_text("utf-8")) for name in ("css", "js")}
    template = environment().get_template("report.html.j2")
    return template.render(document=document, trusted=Markup, filter_from=FILTER_FROM, **parts)
