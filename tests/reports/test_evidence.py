"""The page for auditors: what a run tested, what not, and that no number counts for more than it is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_store import Store

from robustsuite.config.taxonomy import BLACK_BOX, NIST, TRANSFER, WHITE_BOX
from robustsuite.reports import write_report
from robustsuite.reports.measure import coverage
from robustsuite.reports.measure.coverage import DOUBTED, SCREENED, TESTED, UNFOUNDED, UNTESTED
from robustsuite.reports.publish import evidence
from robustsuite.reports.publish.duties import duties, unclassed
from robustsuite.reports.read.runs import read

WHITE, BLACK = "NISTAML.022", "NISTAML.025"
EVASION = "adversarial-examples-or-model-evasion"
SEES = "labels, scores, gradients, weights"


def played(store: Store, attack: str = "pgd", n: int = 1200, **facts: Any) -> str:
    """An attack that leaves half of n right images standing; a whole white-box ensemble unless the facts say not."""
    rows = pd.DataFrame({"index": range(n), "label": 0, "clean_ok": True, "robust": [i % 2 == 0 for i in range(n)]})
    return store.add(rows, attack=attack, n=n, **{"access": SEES, **WHITE_BOX, **facts})


def standings(store: Store, name: str = WHITE) -> dict[str, str]:
    """How far a class was tested, by the defense."""
    return {row.system.defense: row.standing for row in coverage.classes(read([store.root])) if row.name == name}


def gaps(page: str, section: str) -> str:
    """The text of a section's table of gaps, '' where it has none."""
    found = re.search(rf'<table id="table-{section}-gaps">.*?</table>', page, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0].replace("<wbr>", "")).split()) if found else ""


def test_a_class_is_a_gap_until_it_is_tested_and_again_when_the_cell_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    white, _ = played(store), played(store, "square", family=("score",), access="labels, scores", **BLACK_BOX)
    page = evidence.render(read([store.root]))
    assert standings(store) == {"none": TESTED}
    assert gaps(page, EVASION) == ""
    assert "every system" not in gaps(page, "data-poisoning")  # of one system there is no every
    assert "not tested NISTAML.023 backdoor poisoning cnn, undefended" in gaps(page, "data-poisoning")
    shutil.rmtree(store.root / "cells" / white)
    page = evidence.render(read([store.root]))
    assert standings(store) == {"none": UNTESTED}
    assert "not tested NISTAML.022 evasion cnn, undefended no cell of this run names this class" in gaps(page, EVASION)
    assert 'class="text gap"' in page


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, TESTED),
        ({"n": 999}, SCREENED),
        ({"least": {"steps": 100}}, DOUBTED),  # no attack at its least: E33
        ({"family": ("gradient",)}, DOUBTED),  # one family alone: E34
        ({"flags": [{"name": "zero_gradients", "detail": "all"}]}, UNFOUNDED),
        ({"flags": [{"name": "rough_landscape", "detail": "some"}]}, DOUBTED),
        ({"flags": [{"name": "nobody_knows", "detail": "this"}]}, UNFOUNDED),
        ({"family": ("noise",)}, UNTESTED),
    ],
)
def test_no_number_counts_for_more_than_its_grade(tmp_path: Path, facts: dict[str, Any], found: str) -> None:
    store = Store(tmp_path / "run")
    played(store, **facts)
    run = read([store.root])
    assert standings(store) == {"none": found}
    assert next(duty for duty in duties(run) if duty.name == EVASION).article == "(5)"
    assert coverage.under_attack(run)[0].standing == found or found == UNTESTED
    assert (f"1 of 1 {found}" in evidence.render(run)) is True


@pytest.mark.parametrize("status", ["refused", "unmeasured", "failed"])
def test_what_was_planned_and_has_no_number_is_told_with_its_sentence(tmp_path: Path, status: str) -> None:
    store = Store(tmp_path / "run")
    played(store, defense="crossmax")
    why = f"it was {status}, since <i>nobody</i> knows"
    store.add(None, attack="pgd", access=SEES, status=status, sentence=why, **WHITE_BOX)
    assert standings(store) == {"crossmax": TESTED, "none": UNTESTED}
    page = evidence.render(read([store.root]))
    assert f"{status}: it was {status}, since &lt;i&gt;nobody&lt;/i&gt; knows" in page
    assert f"not tested: {status}" in page


def test_an_attack_on_one_system_leaves_a_gap_for_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    played(store)
    played(store, "square", defense="crossmax", family=("score",), **BLACK_BOX)
    assert standings(store) == {"none": TESTED, "crossmax": UNTESTED}
    said = gaps(evidence.render(read([store.root])), EVASION)
    assert "cnn behind crossmax no cell of this system names this class, one of another does" in said
    assert "not tested NISTAML.025 black-box evasion cnn, undefended" in said


def test_gradients_that_nobody_grants_make_a_transfer(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    run_id = played(store)
    cell = read([store.root]).known[run_id]
    attack = cell["record"].attack.model_copy(update={"needs": ("gradients",)})
    assert coverage.ids_of(cell | {"record": cell["record"].model_copy(update={"attack": attack})})[0] == (WHITE,)
    blind = cell["record"].threat.model_copy(update={"access": ("aux_data",)})
    moved = cell["record"].model_copy(update={"attack": attack, "threat": blind})
    assert coverage.ids_of(cell | {"record": moved}) == (TRANSFER["nist"], TRANSFER["atlas"])
    silent = moved.model_copy(update={"attack": attack.model_copy(update={"nist": (), "atlas": ()})})
    assert coverage.ids_of(cell | {"record": silent}) == ((), ())


def test_records_that_name_no_class_count_for_none_and_are_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    played(store, nist=(), atlas=())
    played(store, "other", nist=("NISTAML.099",), atlas=("AML.T9999",), threat="another")
    run = read([store.root])
    assert {row.standing for row in coverage.classes(run)} == {UNTESTED}
    assert [line.what for line in unclassed(run)] == ["linf", "another"]
    assert "name no class that the table has" in evidence.render(run)


def test_a_shift_set_without_its_whole_is_a_gap_and_so_is_no_set_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    played(store)
    assert "not tested any shift set" in gaps(evidence.render(read([store.root])), "faults")
    rows = pd.DataFrame(
        {"index": range(1200), "label": 0, "clean_ok": True, "robust": [i % 4 > 0 for i in range(1200)]}
    )
    about: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None,
                             "attack": None, "shift": "scenes_c", "n": 1200}  # fmt: skip
    for severity in (1, 3):
        store.add(rows, corruption="fog", severity=severity, **about)
    store.add(rows, corruption="fog", severity=1, defense="crossmax", **about)
    store.add(None, corruption="fog", severity=3, defense="crossmax", status="failed", sentence="boom", **about)
    run = read([store.root])
    lines = list(coverage.shifted(run))
    assert [(line.system.defense, line.score.value, line.standing) for line in lines] == [("none", 0.25, TESTED)]
    said = gaps(evidence.render(run), "faults")
    assert "not tested shift set scenes_c cnn behind crossmax" in said
    assert "any shift set" not in said


def test_accuracy_on_clean_pictures_is_doubted_by_what_bears_on_it_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    played(store, family=("gradient",))  # the attack is in doubt, not what is right without one
    played(store, defense="crossmax", flags=[{"name": "batch_dependent", "detail": "all", "level": "fail"}])
    found = {line.system.defense: (line.standing, line.score.n) for line in coverage.unattacked(read([store.root]))}
    assert found == {"none": (TESTED, 1200), "crossmax": (UNFOUNDED, 1200)}


def test_the_page_of_every_status_and_nasty_name_is_escaped_and_alone(store: Store) -> None:
    page = evidence.render(read([store.root]))
    text = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    assert "<script>alert" not in text
    assert "<b>scenes</b>" not in text
    assert "nightly &lt;b&gt;scenes&lt;/b&gt; &amp; friends" in text
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", text)
    for name in NIST:
        assert name in text
    assert "unreadable" in text
    assert re.findall(r"[^.<>]*conform[^.<>]*\.", text) == ["A report proves measurement, not conformity."]
    assert not re.search(r"complian|compliant|satisf|certified by", text)


def test_same_run_same_bytes_and_only_when_asked_for(store: Store, written: Path, tmp_path: Path) -> None:
    assert not (written / "evidence.html").exists()
    files = [write_report([store.root], tmp_path / name, ["evidence"]) for name in ("a", "b")]
    assert [[file.name for file in once] for once in files] == [["evidence.html"], ["evidence.html"]]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
    assert "2026-11-21" not in files[0][0].read_text()  # when its cells started


def test_a_proof_alone_tests_no_class(tmp_path: Path) -> None:
    store, n = Store(tmp_path / "run"), 1200
    rows = pd.DataFrame({"index": range(n), "label": 0, "clean_ok": True, "robust": True, "radius": 0.1,
                         "abstained": False, "prediction": 0})  # fmt: skip
    proven = {"scenario": "certification", "threat": "bounds", "budget": "linf(eps=0.1)", "grade": "CERTIFIED"}
    store.add(rows, attack="lirpa", n=n, **{**WHITE_BOX, **proven, "access": SEES})
    assert standings(store) == {"none": UNTESTED}
    page = evidence.render(read([store.root]))
    assert "no attack was played; proofs alone were asked for" in gaps(page, EVASION)
    assert "100.0 %" in page, "the proof stands among the results"
    played(store)
    assert standings(store) == {"none": TESTED}
