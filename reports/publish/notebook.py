"""A run as a notebook shows it: the tables of the terminal as html that fits light and dark pages."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from ..read.runs import read
from ..render.document import Entry
from .overview import Grid, overview

# Colours are the page's own or half-transparent: a notebook may be light or dark, and does not say which.
_STYLE = """<style>
.robustsuite { font-variant-numeric: tabular-nums; max-width: 100%; overflow-x: auto; }
.robustsuite table { border-collapse: collapse; margin: 4px 0 14px; }
.robustsuite caption { text-align: left; font-weight: 600; padding: 4px 0; white-space: nowrap; }
.robustsuite th, .robustsuite td { border-top: 1px solid #8884; padding: 3px 12px; text-align: left; background: none; }
.robustsuite td.rate { text-align: right; background: linear-gradient(#3a86c833 0 0) no-repeat 0 / var(--v) 100%; }
.robustsuite p { margin: 2px 0; }
</style>"""


def table_html(folder: Path) -> str:
    """The run's tables, one a threat or shift set, a legend above, every name escaped. Raises BadData like `read`."""
    run = read([folder])
    grids, failed = overview([folder])
    note = Markup("<p>{}</p>").format(run.note) if run.note else Markup("")
    sentences = Markup("").join(Markup("<p>failed: {}</p>").format(sentence) for sentence in failed)
    title = Markup("<p><b>{}</b>, {} cells</p>").format(run.title, len(run.cells))
    tables = Markup("").join(_table(grid) if grid.rows else Markup("<p>{}</p>").format(grid.title) for grid in grids)
    return str(
        Markup(_STYLE) + Markup('<div class="robustsuite">{}{}{}{}</div>').format(title, note, tables, sentences)
    )


def _table(grid: Grid) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in grid.header)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row)))
        for row in grid.rows
    )
    above = Markup("<thead><tr>{}</tr></thead>").format(head) if any(grid.header) else ""
    return Markup("<table><caption>{}</caption>{}<tbody>{}</tbody></table>").format(grid.title, above, rows)


def _cell(entry: Entry) -> Markup:
    if entry.bar is None:
        return Markup("<td>{}</td>").format(entry.text)
    return Markup('<td class="rate" style="--v:{}%">{}</td>').format(f"{100 * entry.bar[0]:.1f}", entry.text)
