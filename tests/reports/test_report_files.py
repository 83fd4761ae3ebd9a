"""The written report: complete, escaped, self-contained, the same bytes twice, and made without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report_store import ATTACKS, NOTE, Store

from robustsuite.errors import BadData, BadOutput, BadValue
from robustsuite.reports import write_report

SCORE_FILES = ("scores.csv", "worst_case.csv", "paired.csv", "corruptions.csv", "report.md", "report.tex")


class _Page(HTMLParser):
    """Collects what a test asks about: tags, attributes, text by tag, and the stack's balance."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in (*self.VOID, "wbr"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.stack[-1] if self.stack else "", []).append(data)


@pytest.fixture(scope="module")
def page(written: Path) -> _Page:
    return _Page((written / "report.html").read_text("utf-8"))


def test_all_files_are_there(written: Path) -> None:
    names = {str(f.relative_to(written)) for f in written.rglob("*") if f.is_file()}
    assert {"report.html", "costs.md", "costs.csv", "flags.csv", "not_measured.csv", *SCORE_FILES} <= names
    assert sum(name.endswith(".png") for name in names) == 4
    assert not any("/." in f"/{name}" for name in names)


def test_the_page_loads_nothing_and_is_balanced(written: Path, page: _Page) -> None:
    text = (written / "report.html").read_text("utf-8")
    assert page.stack == []
    assert "http" not in text
    assert "@import" not in text
    assert not [a for a in page.attributes if a[1] in ("src", "srcset", "action", "data")]
    links = [value for _, name, value in page.attributes if name in ("href", "xlink:href")]
    assert links
    assert all(value.startswith("#") for value in links)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_every_anchor_points_at_an_element(page: _Page) -> None:
    ids = {value for _, name, value in page.attributes if name == "id"}
    own = [value for tag, name, value in page.attributes if name == "id" and tag in ("section", "table", "button")]
    assert len(own) == len(set(own)), "an id is one element's"
    targets = {value[1:] for tag, name, value in page.attributes if tag == "a" and name == "href"}
    assert targets
    assert targets <= ids


def test_names_are_text_never_markup(written: Path, page: _Page) -> None:
    text = (written / "report.html").read_text("utf-8")
    assert text.count("<script") == 1
    assert "<b>scenes" not in text
    assert "<i>saturate" not in text
    assert any("alert" in part for part in page.text["td"])
    assert not [a for a in page.attributes if a[1].startswith("on")]


def test_the_title_says_what_the_run_was_made_on(page: _Page) -> None:
    assert NOTE in "".join(page.text["title"])
    assert NOTE in "".join(page.text["span"])


def test_flagged_numbers_are_struck_and_words_stand_where_numbers_do_not(page: _Page) -> None:
    assert any("%" in part for part in page.text["s"])
    assert {"refused", "unmeasured", "failed", "inert"} <= set(page.text["span"])
    cells = " ".join(page.text["td"])
    assert "ships no surrogate" in cells
    assert "a shared update never passes it" in cells


def test_markdown_tables_keep_their_columns(written: Path) -> None:
    width = 0
    for line in (written / "report.md").read_text("utf-8").splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert bars in (0, width) or not width
        width = bars
    text = (written / "report.md").read_text("utf-8")
    assert "<script" not in text
    assert "~~" in text
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (written / name).is_file()


def test_latex_is_balanced_and_escaped(written: Path) -> None:
    text = (written / "report.tex").read_text("utf-8")
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert not re.findall(
        r"(?<!\\)\$(?!(-|\\leq|\\times|\\cdot)?\$)(?<!\\leq\$)(?<!-\$)(?<!times\$)(?<!cdot\$)", text
    )
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.findall(r"(?<!\\)#(?!1)", body)
    for rows in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, flags=re.S):
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows.strip().splitlines()}) == 1
    assert r"\struck{" in text
    assert r"\_50\%\&\$" in text


def test_two_reports_of_one_run_are_the_same_bytes(store: Store, written: Path, tmp_path: Path) -> None:
    for file in write_report([store.root], tmp_path):
        assert file.read_bytes() == (written / file.relative_to(tmp_path)).read_bytes(), file.name


def test_a_disturbed_run_gives_the_same_score_files(store: Store, written: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "nightly"
    shutil.copytree(store.root, copy)
    (copy / "cells" / ".killed-7").mkdir()
    for i, file in enumerate(sorted(copy.glob("cells/*/run.json"))):
        if file.parent.name != "cutrunjson":
            record = json.loads(file.read_text())
            record["cost"] |= {"seconds": 3.5 + i, "peak_bytes": i}
            record["made"] |= {"started": f"2027-01-0{1 + i % 9}", "device": "cuda:0"}
            file.write_text(json.dumps(record))
    write_report([copy], tmp_path / "out")
    for name in SCORE_FILES:
        assert (tmp_path / "out" / name).read_bytes() == (written / name).read_bytes(), name
    assert (tmp_path / "out" / "costs.csv").read_bytes() != (written / "costs.csv").read_bytes()


def test_score_files_name_no_time_and_no_folder(written: Path, store: Store) -> None:
    for name in SCORE_FILES:
        text = (written / name).read_text("utf-8")
        assert "2026-" not in text
        assert str(store.root) not in text
        assert "seconds" not in text


def test_csv_holds_every_attack_by_name(written: Path) -> None:
    table = pd.read_csv(written / "scores.csv")
    assert set(ATTACKS) <= set(table["attack"].dropna())


def test_bad_requests_say_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="docx"):
        write_report([store.root], tmp_path, formats=["docx"])
    with pytest.raises(BadData):
        write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput):
        write_report([store.root], tmp_path / "file", formats=["csv"])


def test_reports_import_no_torch() -> None:
    code = "import sys, robustsuite.reports; sys.exit(any(m.split('.')[0] == 'torch' for m in sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode
        == 0
    )
