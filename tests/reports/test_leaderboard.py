"""The leaderboard: bounds by naive counting, ranks and ties by construction, links that lead on, hostile files."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import DEFENSES, EPS, Store

from robustsuite.errors import BadData
from robustsuite.reports.boards import leaderboard
from robustsuite.reports.boards.board_files import write_leaderboard
from robustsuite.reports.boards.leaderboard import Board, Standing, boards
from robustsuite.reports.boards.published import MARK, read_published
from robustsuite.reports.boards.unions import union_rows
from robustsuite.reports.read.runs import Results, read

PAPER = {"link": "https://arxiv.org/abs/1905.13736", "name": "Unlabeled <i>Data</i>", "authors": "A, B",
         "additional_data": True, "number_forward_passes": 1, "dataset": "scenes", "venue": "NeurIPS 2019",
         "architecture": "WideResNet-28-10", "eps": "8/255", "clean_acc": "89.69", "autoattack_acc": "59.53",
         "external": "58.10", "unreliable": False}  # fmt: skip


def published(root: Path, folder: str = "Linf", name: str = "Carmon2019Unlabeled", **changed: Any) -> Path:
    """One of RobustBench's files in its own layout."""
    file = root / "model_info" / "scenes" / folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**PAPER, **changed}))
    return file


@pytest.fixture(scope="module")
def site(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    published(root, link="javascript:alert(1)", name="<b>")
    published(root)
    write_leaderboard([store.root], root / "out", [root / "model_info"])
    return root / "out"


@pytest.fixture(scope="module")
def linf(run: Results) -> Board:
    return next(board for board in boards(run) if board.threat == "linf")


def standing(board: Board, defense: str) -> Standing:
    return next(s for s in board.standings if s.defense == defense)


def test_the_upper_bound_is_an_and_over_the_stored_rows(linf: Board, store: Store) -> None:
    for found in linf.standings:
        tables = [store.rows[i] for i, c in store.cells.items() if c["scenario"] == "evasion" and c["seed"] == 0
                  and c["defense"] == found.defense and c["status"] == "done"]  # fmt: skip
        stands = [all(t.sort_values("index")["robust"].iloc[i] for t in tables) for i in range(200)]
        assert found.upper is not None
        assert found.upper.k == sum(stands)


def test_the_lower_bound_is_the_certificate_at_the_same_radius(linf: Board, store: Store) -> None:
    found = standing(linf, DEFENSES[1])
    (rows,) = (store.rows[i] for i, c in store.cells.items() if c["attack"] == "lirpa" and c["defense"] == DEFENSES[1])
    assert found.lower is not None
    assert found.lower.k == int((rows["radius"] >= EPS).sum())
    assert found.proof == ("lirpa", rows["run_id"].iloc[0])
    assert standing(linf, "crossmax").lower is None, "refused: no proof is no zero"


def test_a_certifier_asked_for_less_has_said_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": range(20), "label": 0, "clean_ok": True, "robust": True})
    store.add(rows, attack="pgd", n=20)
    proof = rows.assign(radius=0.5 / 255, abstained=False, prediction=0)
    store.add(proof, attack="lirpa", n=20, scenario="certification", threat="proof", budget="linf(eps=0.5/255)")
    (evasion, certificate) = boards(read([store.root]))
    assert evasion.standings[0].lower is None
    assert certificate.standings[0].lower is not None
    assert certificate.standings[0].lower.value == 1


def test_systems_of_several_runs_share_a_board_and_ranks_are_ranges(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(1000)
    for folder, holds in {"a": {"m1": 500, "m2": 505}, "b": {"m3": 300}}.items():
        store = Store(tmp_path / folder)
        for model, k in holds.items():
            rows = pd.DataFrame({"index": range(1000), "label": 1, "clean_ok": True, "robust": order < k})
            store.add(rows, model=model, attack="pgd", n=1000)
    (board,) = boards(read([tmp_path / "a", tmp_path / "b"]))
    # 5 discordant images of one kind: p = 2/2^5 = 0.06, a tie; 200 are no tie.
    assert {s.model: s.ranks for s in board.standings} == {"m1": (1, 2), "m2": (1, 2), "m3": (3, 3)}
    assert len(board.pairs) == 3


def test_a_system_that_met_fewer_attacks_is_shown_but_not_ranked(linf: Board) -> None:
    found = standing(linf, "crossmax")
    assert found.ranks == (0, 0)
    assert "unmeasured apgd" in found.unranked
    assert linf.standings[-1] is found


def test_no_board_ranks_systems_by_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": range(40), "label": 0, "clean_ok": True, "robust": True})
    store.add(rows, attack="pgd", n=40)
    store.add(rows.assign(insertion=0.5, deletion=0.2), attack="gradient", n=40, scenario="explanation", threat="maps",
              budget=None)  # fmt: skip
    asked: list[str] = []
    monkeypatch.setattr(leaderboard, "contests", lambda run, part, names: asked.extend(part["threat"]) or [])
    assert [board.scenario for board in boards(read([store.root]))] == ["evasion"]
    assert asked == []


def test_two_data_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    for label, folder in enumerate("ab"):
        rows = pd.DataFrame({"index": range(9), "label": label, "clean_ok": True, "robust": True})
        Store(tmp_path / folder).add(rows, model=folder, attack="pgd", n=9)
    with pytest.raises(BadData, match="same images"):
        boards(read([tmp_path / "a", tmp_path / "b"]))


def test_the_union_page_shows_the_rows_behind_the_number(run: Results, linf: Board) -> None:
    found = linf.standings[0]
    rows = union_rows(run, found)
    assert found.upper is not None
    assert int(rows["all at once"].sum()) == found.upper.k
    assert list(rows["index"]) == sorted(rows["index"])


def test_published_rows_stand_beside_ours_marked_and_unranked(site: Path) -> None:
    (board,) = (b for b in json.loads((site / "leaderboard.json").read_text())["boards"] if b["threat"] == "linf")
    row = next(r for r in board["rows"] if r["model"] == "Carmon2019Unlabeled")
    assert row["source"] == MARK == "published, not measured here"
    assert row["rank"] is None
    assert row["attacked_at_most"]["value"] == pytest.approx(0.5810), "the lower of AutoAttack's and the outside number"
    page = (site / "linf.html").read_text()
    assert page.count(f">{MARK}<") == 2
    assert "javascript:" not in page
    assert 'href="https://arxiv.org/abs/1905.13736"' in page
    assert "<i>Data" not in page


@pytest.mark.parametrize(
    ("folder", "changed", "says"),
    [
        ("linfinity", {}, "keep the folders' names"),
        ("Linf", {"autoattack_acc": None, "external": None}, "autoattack_acc"),
        ("Linf", {"eps": "8/0"}, "8/0"),
        ("L2", {"clean_acc": "not a number"}, "clean_acc"),
    ],
)
def test_a_wrong_published_file_is_a_sentence(tmp_path: Path, folder: str, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadData, match=says):
        read_published([published(tmp_path, folder, **changed)])


def test_published_corruptions_and_other_radii_have_boards_of_their_own(tmp_path: Path, run: Results) -> None:
    published(tmp_path, "corruptions", eps=None, corruptions_acc="70.5", autoattack_acc=None)
    published(tmp_path, "L2", eps="0.5", external=None)
    found = boards(run, read_published([tmp_path]))
    alone = {b.budget: b.published[0].robust for b in found if b.scenario == "published"}
    assert alone == {"common corruptions": pytest.approx(0.705), "l2(eps=0.5)": pytest.approx(0.5953)}


def test_every_link_leads_to_a_file_or_an_element(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text("utf-8")
        ids = set(re.findall(r'\bid="([^"]+)"', text))
        for link in map(unescape, re.findall(r'href="([^"]+)"', text)):
            target, _, anchor = link.partition("#")
            if link.startswith(("https://", "data:")):
                continue
            there = (page.parent / target).resolve() if target else page
            assert there.is_file(), f"{page.name}: {link}"
            known = ids if not target else set(re.findall(r'\bid="([^"]+)"', there.read_text("utf-8")))
            chosen = target.endswith("cells.html") and anchor.startswith("threat=")
            assert not anchor or chosen or anchor in known, f"{page.name}: {link}"
        assert "<script>alert" not in text
        assert set(re.findall(r'\bsrc="([^"]*)"', text)) <= {"../site.js"}
        assert not re.search(r"@import|url\(", text)


def test_the_json_has_the_numbers_of_the_page_and_the_records_exist(site: Path, linf: Board) -> None:
    (board,) = (b for b in json.loads((site / "leaderboard.json").read_text())["boards"] if b["threat"] == "linf")
    for row, found in zip(board["rows"], linf.standings, strict=False):
        assert found.upper is not None
        assert row["attacked_at_most"]["k"] == found.upper.k
        assert (site / row["examples"]).is_file()
        for attack in row["attacks"]:
            record = json.loads((site / attack["record"]).read_text())
            assert record["attack"] == attack["attack"]
    assert {p["n"] for p in board["pairs"]} == {200}


def test_the_same_runs_give_the_same_bytes(store: Store, site: Path, tmp_path: Path) -> None:
    write_leaderboard([store.root], tmp_path)
    for page in ("proof.html", "cells", "unions"):
        files = [tmp_path / page] if "." in page else list((tmp_path / page).iterdir())
        assert files
        assert all(f.read_bytes() == (site / f.relative_to(tmp_path)).read_bytes() for f in files)


def both_sides(root: Path, met: range) -> Board:
    """A proof of images 0 to 9, right on all and proven on 6; an attack at its radius broke those above 7 it met."""
    store = Store(root)
    proof = pd.DataFrame({"index": range(10), "label": 0, "prediction": 0, "clean_ok": True, "robust": True})
    proof = proof.assign(radius=[EPS] * 6 + [0.0] * 4, abstained=False)
    store.add(proof, attack="lirpa", n=10, scenario="certification", threat="proof")
    rows = pd.DataFrame({"index": met, "label": 0, "clean_ok": True})
    rows = rows.assign(fooled=rows["index"] > 7, robust=rows["index"] <= 7, distance=EPS)
    store.add(rows, attack="pgd", n=len(met), threat="white")
    # Played at a larger radius: it broke nothing inside this one, which says nothing of this one.
    far = {"threat": "far", "budget": "linf(eps=16/255)", "attack": "square"}
    store.add(rows.assign(distance=2 * EPS), n=len(met), **far)
    return next(board for board in boards(read([root])) if board.threat == "proof")


@pytest.mark.parametrize(("met", "k", "n"), [(range(40), 8, 10), (range(4, 40), 4, 6), (range(10, 40), 0, 0)])
def test_a_proof_stands_beside_attacks_on_its_own_images(tmp_path: Path, met: range, k: int, n: int) -> None:
    (found,) = both_sides(tmp_path / "run", met).standings
    assert found.lower is not None
    assert (found.lower.k, found.lower.n) == (6, 10)
    assert (found.upper and (found.upper.k, found.upper.n)) == ((k, n) if n else None)
    assert found.strongest == ("pgd" if n else "")
    page = write_leaderboard([tmp_path / "run"], tmp_path / "out")[0].read_text("utf-8")
    assert ("), n = 6<" in page) == (n == 6), "a column's n is told where it is another than the row's"


@pytest.mark.parametrize("eps", [36 / 255, 26 / 255, 1 / 255 + 1e-9])
def test_a_break_and_a_proof_exactly_on_the_ball_count(eps: float, tmp_path: Path) -> None:
    from robustsuite.app.api import run as swept
    from robustsuite.records.cells import read_cell

    both = {
        name: {"scenario": scenario, "budget": {"l2": eps}, "attacks": attacks}
        for name, scenario, attacks in (("a", "evasion", ["fgsm"]), ("p", "certification", ["lirpa"]))
    }
    data = [{"digits": {"first": 20}}]
    sweep = {"name": "exact", "models": ["python:tests.nets:linear"], "data": data, "threats": both}
    folder = swept(sweep, out=tmp_path / "run").folder
    for cell in (folder / "cells").iterdir():  # put every break, and every proof, exactly on the sphere
        rows, record = pd.read_parquet(cell / "examples.parquet"), read_cell(cell)
        if record.scenario.name == "evasion":
            rows = rows.assign(fooled=rows["clean_ok"], robust=False, distance=float(eps))
        if record.scenario.name == "certification":
            rows = rows.assign(radius=np.where(rows["clean_ok"], float(eps), 0.0))
        rows.to_parquet(cell / "examples.parquet")
    found = {board.threat: board for board in boards(read([folder]))}
    (proof,), (attack,) = found["p"].standings, found["a"].standings
    assert proof.lower is not None
    assert proof.lower.value == proof.clean.value > 0, "a certificate exactly at eps counts"
    assert proof.upper is not None
    assert proof.upper.value == 0, "a break exactly on the ball counts"
    assert attack.upper is not None
    assert attack.upper.value == 0
    assert proof.lower == attack.lower, "the same proof stands beside the attack"
