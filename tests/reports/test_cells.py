"""The list of every cell and each cell's page: nothing left out, filters that hold what cells are, words for hashes."""

from __future__ import annotations

import json
import re
from collections import Counter
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_store import DEFENSES, Store

from robustsuite.records.schema import Budget, GoalFacts, ThreatFacts
from robustsuite.reports.boards import cell_pages, meanings, site
from robustsuite.reports.boards.board_files import write_leaderboard
from robustsuite.reports.boards.cell_pages import browse_page, cell_page
from robustsuite.reports.boards.leaderboard import boards
from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.render.adversary import described

LINF = {"norm": "linf", "eps": 8 / 255}


@pytest.fixture(scope="module")
def out(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_leaderboard([store.root], folder)
    return folder


@pytest.fixture(scope="module")
def listed(out: Path) -> dict[str, Any]:
    """What the list's script defines."""
    text = (out / "rows" / "cells.js").read_text("ascii")
    assert not set("<>&") & set(text)
    return dict(json.loads(text[text.index("= {", 40) + 2 : -2]))


def column(listed: dict[str, Any], page: site.Page, name: str) -> list[list[Any]]:
    place = page.sections[0].tables[0].columns.index(name)
    return [listed["entries"][row[place]] for row in listed["rows"]]


def test_every_cell_is_listed_once_and_has_a_page(run: Results, out: Path, listed: dict[str, Any]) -> None:
    links = [entry[6] for entry in column(listed, browse_page(run), "result")]
    assert Counter(links) == Counter(f"cells/{run_id}.html" for run_id in run.known)
    assert {f"cells/{file.name}" for file in (out / "cells").glob("*.html")} == set(links)


def test_filters_offer_what_cells_are_and_rows_hold_it(run: Results, out: Path, listed: dict[str, Any]) -> None:
    page, text = browse_page(run), (out / "cells.html").read_text("utf-8")
    (table,) = page.sections[0].tables
    assert set(table.picks) == {"threat", "defense", "attack", "shift", "grade", "status"}, "models and data are one"
    assert "model cnn" in table.caption
    for name in table.picks:
        shown = [entry[0].partition(", screening: ")[0] for entry in column(listed, page, name)]
        known = [{"none": "undefended", "": "–"}.get(value, value) for value in run.cells[name]]
        assert shown == known
        select = re.search(rf'<select name="{name}" data-column="(\d+)">(.*?)</select>', text, re.DOTALL)
        assert select
        assert table.columns[int(select[1])] == name
        offered = [unescape(each) for each in re.findall("<option>(.*?)</option>", select[2])]
        assert offered == list(dict.fromkeys(shown))


def test_the_list_tells_a_screening_and_n_beside_the_result(run: Results, listed: dict[str, Any]) -> None:
    page = browse_page(run)
    columns = page.sections[0].tables[0].columns
    assert columns[columns.index("result") + 1] == "n"
    grades, counts = column(listed, page, "grade"), column(listed, page, "n")
    for cell, grade, n in zip(run.known.values(), grades, counts, strict=True):
        why = f", screening: {cell['screening']}" if cell["screening"] else ""
        assert grade[0] == f"{cell['grade'] or '–'}{why}"
        assert n[1] == cell["n"]
    assert any(", screening: 200 images" in grade[0] for grade in grades)


def test_what_was_not_measured_shows_its_reason_where_the_number_would_stand(
    run: Results, out: Path, listed: dict[str, Any]
) -> None:
    results = dict(zip(run.known, column(listed, browse_page(run), "result"), strict=True))
    for run_id, cell in run.known.items():
        if cell["status"] in ("refused", "unmeasured", "failed"):
            assert results[run_id][0] == cell["sentence"]
            page = (out / "cells" / f"{run_id}.html").read_text("utf-8")
            assert f"{cell['status']}: {cell['sentence']}" in unescape(page)
        else:
            assert re.match(r"(≤ )?[\d.]+", results[run_id][0]), "an inert cell repeats the undefended one's"


def test_no_page_says_a_heading_twice_or_lacks_one(out: Path) -> None:
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        heads = [re.sub("<.*?>", "", head) for head in re.findall(r"<h[123]>(.*?)</h[123]>", text)]
        assert all(heads), page
        assert len(set(heads)) == len(heads), (page, heads)
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(set(ids)) == len(ids), page


def test_the_index_opens_with_boards_and_the_strongest_adversary(store: Store, tmp_path: Path) -> None:
    small = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": range(20), "label": 0, "clean_ok": True, "robust": True})
    for threat, access in (("blind", "labels"), ("white", "labels, scores, gradients, weights")):
        for model in ("a", "b", "c"):
            small.add(rows, attack="pgd", n=20, threat=threat, access=access, model=model)
    found = boards(read([small.root]))
    assert [board.threat for board in found] == ["white", "blind"]
    links = {(i, s.name): "" for i, board in enumerate(found) for s in board.standings}
    page = site.index_page("t", "", found, {"white": "w.html", "blind": "b.html"}, (), links)
    assert [section.title.partition(":")[0] for section in page.sections] == ["white", "blind", "All boards"]
    assert "knows the model" in page.sections[0].lead[0]
    assert "do not tell the 3 ranked systems apart" in page.sections[0].lead[1]
    assert "20 images" in page.sections[0].lead[1]


def test_the_index_is_bounded_and_says_so(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "WHOLE", 1)
    monkeypatch.setattr(site, "LEADING", 2)
    found = boards(run)
    links = {(i, s.name): "" for i, board in enumerate(found) for s in board.standings}
    page = site.index_page("t", "", found, {board.threat: "x.html" for board in found}, (), links)
    first, every = page.sections
    assert len(first.tables[0].rows) == 2
    assert "the first 2 of 4 rows" in first.tables[0].caption
    assert f"the first 1 of {len(found)}" in every.lead[0]
    assert len(every.tables[0].rows) == len(found)
    assert every.tables[0].picks == ("scenario",)


@pytest.mark.parametrize(
    ("images", "said"),
    [({"a": 30, "b": 80}, "rests on 30 to 80 images"), ({"a": 30}, "rests on 30 images"), ({"a": 30, "b": 1000}, "")],
)
def test_a_banner_holds_for_the_whole_or_is_not_there(images: dict[str, int], said: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for threat, n in images.items():
        rows = pd.DataFrame({"index": range(n), "label": 0, "clean_ok": True, "robust": True})
        store.add(rows, attack="pgd", n=n, threat=threat)
    text = write_leaderboard([store.root], tmp_path / "out")[0].read_text("utf-8")
    assert (said in text) if said else ("rests on" not in text)


@pytest.mark.parametrize(
    ("threat", "scenario", "said"),
    [
        ({"access": ("labels", "scores", "gradients", "weights"), "budget": Budget(**LINF)}, "evasion",
         "The adversary knows the model; it may move each pixel value by at most 8/255 (8 of 255 levels); any "
         "wrong answer will do."),
        ({"access": ("labels",), "budget": Budget(norm="l2", eps=0.5, queries=500)}, "evasion",
         "The adversary sees only the model's answers; it may change the picture by a Euclidean length of at most "
         "0.5 (pixel values are 0 to 1) and ask 500 times a picture; any wrong answer will do."),
        ({"access": ("labels", "scores"), "budget": Budget(norm="l0", eps=24),
          "goal": GoalFacts(name="targeted", terms={"target": 3}, words="to_class(3)")}, "evasion",
         "The adversary sees the model's scores; it may set at most 24 pixel "
         "values anew; the answer must become class 3."),
        ({"access": ("train_set",), "budget": Budget(poison_rate=0.01)}, "poisoning",
         "The adversary holds the training set; it may change 1.0 % of the training pictures."),
        ({"access": ("weights", "update")}, "inversion",
         "The adversary knows the model and watches what a client of a federated training shares."),
        ({"budget": Budget(**LINF)}, "certification",
         "Nobody attacks: a certifier proves answers for every picture that differs by at most 8/255 (8 of 255 levels) "
         "in each pixel value."),
    ],
)  # fmt: skip
def test_an_adversary_in_a_sentence(threat: dict[str, Any], scenario: str, said: str) -> None:
    assert described(ThreatFacts(name="t", **threat), scenario) == said


def test_a_cells_page_says_why_its_grade_and_what_each_hash_is_of(run: Results, store: Store) -> None:
    (run_id,) = (i for i, c in store.cells.items() if c["defense"] == DEFENSES[2] and c["attack"] == "fgsm")
    page = cell_page(run, run_id)
    (grade,) = (section for section in page.sections if section.name == "grade")
    row = next(row for row in grade.tables[0].rows if row[3].text == "zero_gradients")
    assert row[1].text == "31 % of the pixels have gradient 0 & <i>saturate</i>"
    assert row[0].text != "zero_gradients", "what was checked, in words"
    (record,) = (section for section in page.sections if section.name == "record")
    facts = [row[0].text for table in record.tables for row in table.rows]
    assert len(set(facts)) == len(facts)
    hashes = {row[1].text: row[0].text for row in record.tables[2].rows}
    assert hashes["ab" * 32].startswith("network that was served and attacked")
    assert hashes["cd" * 32].startswith("pictures and labels judged on")
    assert "kept words alone" in page.code[0][1], "an old run gives no command"


def test_examples_begin_with_which_picture_and_what_was_answered(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"index": [4, 5], "label": [1, 2], "robust": [True, False], "answer": [1, -1],
                         "prediction": [1, 2], "file": ["a.png", "<b>.png"]})  # fmt: skip
    run_id = next(i for i, cell in run.known.items() if cell["attack"] == "pgd" and cell["status"] == "done")
    other = Results(run.title, "", run.cells, shares=run.shares, load=lambda _: rows)
    other.__dict__["known"] = run.known
    table = next(s for s in cell_page(other, run_id).sections if s.name == "images").tables[0]
    assert table.columns[:6] == ("index", "file", "true class", "answer, no attack", "answer, attacked", "robust")
    assert [entry.text for entry in table.rows[1]] == ["5", "<b>.png", "class 2", "class 2", "no answer", "no"]
    monkeypatch.setattr(cell_pages, "MANY", 1)
    monkeypatch.setattr(cell_pages, "FEW", 1)
    table = next(s for s in cell_page(other, run_id).sections if s.name == "images").tables[0]
    assert table.caption == "the first 1 of 2; the run's folder has them all"
    assert "all rows (csv)" not in dict(cell_page(other, run_id).links), "of very many cells the rows stand there alone"


@pytest.mark.parametrize(
    "scenario", ["evasion", "certification", "poisoning", "unlearnable", "inversion", "shift", "explanation.played"]
)
def test_every_measure_and_column_of_ours_has_its_sentence(scenario: str) -> None:
    columns = import_module(f"robustsuite.scenarios.{scenario}").scenario.columns
    assert [c.name for c in columns if not meanings.of_column(scenario.split(".")[0], c.name)] == []
    assert [s.name for c in columns for s in c.scores if s.name not in meanings.MEASURES] == []


def test_the_columns_of_the_images_are_told_below_them(run: Results) -> None:
    run_id = next(i for i, cell in run.known.items() if cell["attack"] == "pgd" and cell["status"] == "done")
    images, legend = next(s for s in cell_page(run, run_id).sections if s.name == "images").tables
    told = {row[0].text: row[1].text for row in legend.rows}
    assert set(told) <= set(images.columns)
    assert told["overturned"] == "the attack claims a break that the judge, who asks again, does not find"
    proof = next(i for i, cell in run.known.items() if cell["attack"] == "lirpa" and cell["status"] == "done")
    legend = next(s for s in cell_page(run, proof).sections if s.name == "images").tables[1]
    assert "radius" in [row[0].text for row in legend.rows]


def test_the_list_is_the_same_bytes_again(store: Store, out: Path, tmp_path: Path) -> None:
    write_leaderboard([store.root], tmp_path)
    for name in ("index.html", "cells.html", "rows/cells.js", "site.css", "site.js"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
