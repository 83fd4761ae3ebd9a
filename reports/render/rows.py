"""Tables with very many rows: how many of them stand in the page, and the file beside it that holds them all.

The file is a script that defines data and nothing else, loaded when a reader asks for it, so it works where a page is
opened from a folder. It holds each distinct entry once and the rows as numbers; the page makes text nodes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .document import Entry, Section, Table

MOST_ROWS, MOST_BYTES, FEW_ROWS = 500, 1 << 20, 5
"""Rows of one table that a page shows at once; what all its tables may take; rows of each once they take so much."""

TAGS = 120
"""Bytes of markup around an entry, roughly; its text stands there up to three times, as a key and with its breaks."""


def most_shown(sections: Iterable[Section]) -> dict[str, int]:
    """How many rows the page shows of each table whose rows stand in a script, by the table's name."""
    found, taken = {}, 0
    for table in (table for section in sections for table in section.tables):
        room = MOST_ROWS if taken < MOST_BYTES else FEW_ROWS
        if len(table.rows) > room or table.picks:
            found[table.name] = room
        taken += sum(TAGS + 3 * len(entry.text) + len(entry.note) for row in table.rows[:room] for entry in row)
    return found


def scripts(sections: Iterable[Section], most: Iterable[str]) -> dict[str, str]:
    """The files beside a page with these sections, by name: of each table named in `most`."""
    tables = (table for section in sections for table in section.tables if table.name in set(most))
    return {f"rows/{table.name}.js": script(table) for table in tables}


def script(table: Table) -> str:
    """All rows of a table as a script: window.robustsuiteRows["table-<name>"] = {entries, rows}."""
    places: dict[int, int] = {}
    entries: dict[Entry, int] = {}
    for row in table.rows:
        for entry in row:
            if id(entry) not in places:  # most are shared: cheaper to ask than whether they are equal
                places[id(entry)] = entries.setdefault(entry, len(entries))
    rows = [[places[id(entry)] for entry in row] for row in table.rows]
    data = _text({"entries": [_packed(entry) for entry in entries], "rows": rows})
    return f"(window.robustsuiteRows ??= {{}})[{_text(f'table-{table.name}')}] = {data};\n"


def _packed(entry: Entry) -> list[Any]:
    """Text and key, then what few entries have: kind, note, struck, bar, link."""
    key = entry.key if entry.key != "" else entry.text
    whole = [entry.text, key, entry.kind, entry.note, int(entry.struck), entry.bar, entry.href]
    while len(whole) > 2 and not whole[-1]:
        whole.pop()
    return whole


def _text(value: Any) -> str:
    """As JSON in ASCII that no page takes for markup, wherever it is put."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
