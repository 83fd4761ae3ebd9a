"""A run of one system alone: nothing is ranked against nothing, nothing is called by the defense that it lacks."""

import re
from pathlib import Path

import pytest
from report_store import Store, _base, evasion_rows

from robustsuite.reports.measure.scores import scores
from robustsuite.reports.publish.notebook import table_html
from robustsuite.reports.publish.overview import overview
from robustsuite.reports.publish.write import build, write_report
from robustsuite.reports.read.runs import read

SHIFT = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None, "shift": "scenes_c"}


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """One model without a defense: two attacks, a proof on fewer images, a corruption set at one severity."""
    store, flag = Store(tmp_path / "one"), {"name": "zero_gradients", "detail": "", "level": "warn"}
    store.add(evasion_rows("none", 1), attack="pgd")
    store.add(evasion_rows("none", 1), attack="apgd", threat="doubted", flags=[flag])
    store.add(None, attack="fgsm", status="failed", sentence="it raised")
    right = evasion_rows("none", 0)["clean_ok"]
    rows = _base(16).assign(clean_ok=right[:16], radius=1.0, abstained=False, prediction=_base(16)["label"])
    store.add(rows, threat="proof", scenario="certification", attack="lirpa", n=16)
    store.add(_base().assign(clean_ok=right, robust=right), **SHIFT, corruption="fog", severity=3)
    return store.root


def page_of(run: Path, out: Path) -> str:
    write_report([run], out)
    return (out / "report.html").read_text()


def test_no_rank_and_no_absent_defense_on_its_page(alone: Path, tmp_path: Path) -> None:
    run = read([alone])
    document = build(run, scores(run))
    bars = {answer.where.partition(" · ")[0]: answer.bars for answer in document.answers}
    assert [(rank, name) for rank, name, _ in bars["linf: linf(eps=8/255)"]] == [("", "stays right")]
    assert [name for _, name, _ in bars["proof: linf(eps=8/255)"]] == ["proven right, lirpa"]
    assert [name for _, name, _ in bars["scenes_c"]] == ["wrong"]
    page = page_of(alone, tmp_path / "report")
    assert "undefended" not in page
    assert "not ranked:" not in page.lower()
    assert "An upper bound, see its flags." in page
    assert 'class="rank"' not in page
    heads = set(re.findall(r"<th[^>]*><button[^>]*>([^<]*)<", page))
    assert "attack" in heads
    assert not heads & {"rank", "defense", "defenses"}


def test_the_terminal_heads_no_column_by_a_defense_it_has_not(alone: Path) -> None:
    grids, failed = overview([alone])
    assert [g.title for g in grids if "defense" in g.title] == []
    assert not any(name for grid in grids for name in grid.header)
    assert failed == ["fgsm: it raised"]
    assert "<th>" not in table_html(alone)


def test_rivals_are_ranked_and_named(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert 'class="rank"' in page
    assert "undefended" in page


def test_tiles_of_another_number_of_images_say_their_own(alone: Path) -> None:
    run = read([alone])
    answers = build(run, scores(run)).answers
    said = {re.split(": | · ", a.where)[0]: a.where.rpartition(" · ")[2] for a in answers}
    assert said == {"linf": "200 images", "doubted": "200 images", "proof": "16 images", "scenes_c": "200 images"}


def test_one_severity_is_named_and_several_are_a_mean(alone: Path, written: Path, tmp_path: Path) -> None:
    page, grids = page_of(alone, tmp_path / "report"), overview([alone])[0]
    assert "error, severity 3" in page
    assert "mean of 1 corruption at severity 3" in page
    assert "over severities" not in page
    assert any(grid.title.startswith("error, % (severity 3): scenes_c") for grid in grids)
    assert "error, mean over severities" in (written / "report.html").read_text()
