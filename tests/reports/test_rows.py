"""Tables with very many rows: the page shows the first, a script beside it holds all, and neither holds markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from robustsuite.reports.render import html
from robustsuite.reports.render.document import Answer, Document, Entry, Section, Table, accuracy, counted, words
from robustsuite.reports.render.rows import FEW_ROWS, MOST_BYTES, MOST_ROWS, most_shown, script

NASTY = "</script><script>alert(1)</script>&\u2028'\"<img src=x onerror=alert(2)>"


def table(name: str, rows: int, text: str = NASTY, csv: str = "scores.csv") -> Table:
    entries = tuple(
        (words(text), Entry(f"row {i}", float(i), text, struck=i == 1), accuracy(0.5, 0.25, 0.75), counted(i % 3, "–"),
         Entry("failed", kind="failed"))
        for i in range(rows)
    )  # fmt: skip
    return Table(name, text, "", ("name", "row", "rate", "left", "status"), entries, csv)


def document(*tables: Table, answers: int = 0) -> Document:
    answer = Answer(NASTY, "", (), (("1", NASTY, accuracy(0.5, 0.4, 0.6)),), ())
    return Document(NASTY, "", (), (), (answer,) * answers, (Section("all", "All", (), tables),))


def data(text: str) -> Any:
    """What the script defines, as a browser reads it: one statement that assigns JSON."""
    found = re.fullmatch(r'\(window\.robustsuiteRows \?\?= \{\}\)\["([a-z0-9-]+)"\] = (\{.*\});\n', text)
    assert found
    return json.loads(found[2])


def test_a_short_table_stands_in_the_page_and_needs_no_file() -> None:
    files = html.render(document(table("short", MOST_ROWS)))
    assert set(files) == {"report.html"}
    assert "robustsuiteRows" not in files["report.html"]


def test_a_long_table_shows_its_first_rows_and_a_link_without_a_script() -> None:
    files = html.render(document(table("long", 3 * MOST_ROWS, csv="costs.csv"), table("short", 3)))
    page = files["report.html"]
    assert set(files) == {"report.html", "rows/long.js"}
    shown = page[page.index('id="table-long"') : page.index('id="table-short"')]
    assert shown.count("<tr>") == MOST_ROWS + 1
    assert f"The first {MOST_ROWS} of {3 * MOST_ROWS} rows." in shown
    assert '<a href="costs.csv">' in shown
    assert 'data-rows="rows/long.js"' in page
    assert 'href="costs.csv"' not in html.render(document(table("long", 3 * MOST_ROWS)), csv=False)["report.html"]


def test_the_file_holds_every_row_and_each_entry_once() -> None:
    long = table("long", 3 * MOST_ROWS)
    found = data(script(long))
    assert len(found["rows"]) == 3 * MOST_ROWS
    assert len(found["entries"]) == len({entry for row in long.rows for entry in row})
    for row, kept in zip(long.rows, found["rows"], strict=True):
        for entry, place in zip(row, kept, strict=True):
            text, key, *more = found["entries"][place]
            kind, note, struck, bar, href = [*more, *["", "", 0, None, ""][len(more) :]]
            assert (text, kind, note, bool(struck)) == (entry.text, entry.kind, entry.note, entry.struck)
            assert href == entry.href
            assert key == (entry.key if entry.key != "" else entry.text)
            assert (bar and tuple(bar)) == entry.bar


def test_names_are_text_in_the_page_and_in_the_file() -> None:
    files = html.render(document(table("long", 3 * MOST_ROWS), answers=99))
    assert files["report.html"].count("<script") == 1
    assert "<img" not in files["report.html"]
    text = files["rows/long.js"]
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert data(text)["entries"][0][0] == NASTY
    code = (html.TEMPLATES / "rows.js").read_text("utf-8")
    for way_in in ("innerHTML", "outerHTML", "insertAdjacent", ".write(", "eval", "Function(", "fetch", "import"):
        assert way_in not in code, way_in


def test_a_page_is_bounded_however_many_tables_there_are() -> None:
    many = document(*(table(f"t{i}", 200, "x" * 300) for i in range(300)), answers=2000)
    assert set(most_shown(many.sections).values()) == {FEW_ROWS}
    page = html.render(many)["report.html"]
    assert len(page) < 20 * MOST_BYTES
    assert page.count("<article>") == html.MOST_ANSWERS
    assert "of 2000 short answers" in page


@pytest.mark.skipif(not shutil.which("node"), reason="no node here")
def test_the_scripts_are_scripts(tmp_path: Path) -> None:
    (tmp_path / "long.js").write_text(script(table("long", 20)), "utf-8")
    files = [html.TEMPLATES / "rows.js", html.TEMPLATES / "report.js", tmp_path / "long.js"]
    for file in files:
        subprocess.run(["node", "--check", str(file)], check=True)
    code = "globalThis.window = globalThis; require(process.argv[1]); console.log(JSON.stringify(robustsuiteRows))"
    said = subprocess.run(["node", "-e", code, str(files[2])], check=True, capture_output=True, text=True).stdout
    assert json.loads(said)["table-long"]["entries"][0][0] == NASTY
