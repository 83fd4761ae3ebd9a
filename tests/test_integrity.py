"""Contradictions planted in a synthetic store are flagged, each by its own check; an honest store has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.integrity import checks
from robustsuite.integrity.checks import CHECKS, Flag, as_markdown, check_of, grade, level_of
from robustsuite.integrity.cross_cell import grades
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import one_sided
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord
from robustsuite.records.v1 import upgraded
from robustsuite.scenarios import evasion
from robustsuite.scenarios.record import Record
from robustsuite.serve.oracle import Oracle
from tests.test_judge import CARD, nearest_wrong
from tests.toys import labelled, linear, system

CELL_KINDS = {"bool": "bool", "float64": "float", "float32": "float"}
N = 200
ORDER = np.arange(N)
WHITE = "labels, scores, gradients, weights"
SEARCH = {"square": ("score",), "fmn": ("minimum norm",), "noise": ("noise",), "labels": ("decision",)}
"""Families of attacks by name, where it is not the gradient's."""
STRENGTH = {"weak_alone", "one_family"}
"""Flags that tests/test_strength.py is about."""


class Cells:
    """Rows and examples in memory, as a run folder holds them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.tables: dict[str, pd.DataFrame] = {}

    def add(self, name: str, table: pd.DataFrame | None, **facts: Any) -> None:
        base = {
            "run_id": name, "status": "done", "scenario": "evasion", "threat": "t", "access": WHITE, "model": "m",
            "goal": "untargeted", "budget": "linf(eps=8/255)", "dataset": "d", "seed": 0, "defense": "none",
            "attack": name, "needs": "gradients, scores", "data_sha256": "ab", "n": N, "flags": [], "same_as": "",
        }  # fmt: skip
        kinds = {c: CELL_KINDS.get(str(v), "int") for c, v in (table.dtypes.items() if table is not None else ())}
        self.rows.append(flat(stated(upgraded({**base, **facts}, kinds))))
        if table is not None:
            self.tables[name] = table

    def names(self, name: str) -> set[str]:
        return {flag.name for flag in grades(self.rows, self.tables.__getitem__)[name].flags} - STRENGTH

    def levels(self, name: str) -> set[str]:
        found = grades(self.rows, self.tables.__getitem__)[name].flags
        return {level_of(flag) for flag in found if flag.name not in STRENGTH}

    def grade(self, name: str) -> str:
        return grades(self.rows, self.tables.__getitem__)[name].grade


def stated(record: CellRecord) -> CellRecord:
    """A record of version 0.1.0 with the family that the card of its attack states today."""
    if record.attack is None:
        return record
    family = SEARCH.get(record.attack.name, ("gradient",))
    return record.model_copy(update={"attack": record.attack.model_copy(update={"family": family})})


def rows(standing: int, n: int = N, **columns: Any) -> pd.DataFrame:
    """n images, the first `standing` of 180 right ones robust, the others broken at distance 0.03."""
    index = np.arange(n)
    clean, robust = index < 0.9 * n, index < standing
    table = pd.DataFrame({"index": index, "label": index % 10, "clean_ok": clean, "robust": robust & clean})
    return table.assign(fooled=~table["robust"], distance=0.03, in_budget=True, queries=100, overturned=False).assign(
        **columns
    )


def proof(radius: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"index": np.arange(len(radius)), "label": 0, "radius": radius, "robust": radius > 0.03})


def test_an_honest_store_is_sound() -> None:
    cells = Cells()
    cells.add("fgsm", rows(100))
    cells.add("pgd(steps=50)", rows(80))
    cells.add("apgd", rows(75))
    cells.add("square", rows(110), needs="scores", access="scores")
    cells.add("pgd(steps=50)/wide", rows(40), attack="pgd(steps=50)", budget="linf(eps=16/255)")
    cells.add("gone", None, status="refused")
    cells.add("same", None, status="inert", same_as="fgsm")
    standing = grades(cells.rows, cells.tables.__getitem__)
    assert all(not cells.names(name) for name in standing)
    wide = {"pgd(steps=50)/wide": "PROVISIONAL"}  # alone at its radius
    assert {k: s.grade for k, s in standing.items()} == dict.fromkeys(standing, "SOUND") | {"gone": ""} | wide


@pytest.mark.parametrize(("rise", "level"), [(1, set()), (2, {"warn"}), (3, {"fail"})])
def test_more_budget_leaves_no_more_standing(rise: int, level: set[str]) -> None:
    cells = Cells()
    cells.add("a", rows(80), attack="pgd")
    cells.add("b", rows(80 + rise), attack="pgd", budget="linf(eps=16/255)")
    assert cells.levels("b") == level
    assert cells.names("a") == set()
    cells.add("c", rows(100), attack="pgd", budget="l2(eps=9)")
    assert cells.names("c") == set()


def test_a_black_box_that_breaks_more_doubts_every_white_box() -> None:
    cells = Cells()
    cells.add("pgd", rows(80))
    cells.add("apgd", rows(82))
    cells.add("square", rows(79), needs="scores", access="scores")
    assert cells.names("pgd") == cells.names("apgd") == {"black_box_wins"}
    assert cells.levels("pgd") == {"warn"}
    assert cells.names("square") == set()
    cells.add("labels", rows(70), needs="labels", access="labels")
    assert cells.levels("pgd") == {"warn", "fail"}
    assert (cells.grade("pgd"), cells.grade("square")) == ("INVALID", "SOUND")


def test_an_answer_that_is_gone_is_no_break_that_gradients_missed() -> None:
    """Ten images that Square's points leave without an answer: they count as broken, and doubt no PGD."""
    cells = Cells()
    cells.add("pgd", rows(80))
    cells.add("square", rows(70, unanswered=(ORDER >= 70) & (ORDER < 80)), needs="scores", access="scores")
    assert cells.names("pgd") == set()


def test_chance_in_a_random_system_is_no_contradiction() -> None:
    share = np.zeros(N)
    cells = Cells()
    cells.add("pgd", rows(80, wrong_share=share))
    cells.add("square", rows(78, wrong_share=share), needs="scores")
    assert cells.names("pgd") == set()
    cells.add("more", rows(60, wrong_share=share), needs="scores")
    assert cells.levels("pgd") == {"fail"}


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (1, 0), (5, 0), (7, 2), (3, 9)])
def test_the_one_sided_test_is_scipys(more: int, fewer: int) -> None:
    expected = binomtest(more, more + fewer, alternative="greater").pvalue if more + fewer else 1.0
    assert one_sided(more, fewer) == pytest.approx(expected)
    assert one_sided(5, 0) == pytest.approx(2**-5)


@pytest.mark.parametrize(
    ("simple", "strong", "level"),
    [("fgsm", "pgd(steps=5)", {"fail"}), ("pgd", "apgd", {"warn"}), ("fgsm", "apgd", set()), ("pgd", "fgsm", set())],
)
def test_an_attack_is_no_weaker_than_a_simpler_one(simple: str, strong: str, level: set[str]) -> None:
    cells = Cells()
    cells.add(simple, rows(80))
    cells.add(strong, rows(90))
    assert cells.levels(strong) == level
    assert cells.names(simple) == set()


def test_a_proof_and_a_break_contradict_each_other_on_both_sides() -> None:
    cells = Cells()
    radius = np.where(ORDER < 60, 0.04, 0.0)
    cells.add("pgd", rows(60))
    cells.add("ibp", proof(radius), scenario="certification", needs="weights", threat="p")
    assert cells.names("pgd") == cells.names("ibp") == set()
    cells.add("apgd", rows(58))
    assert cells.names("apgd") == {"proof_contradicted"}
    found = grades(cells.rows, cells.tables.__getitem__)["ibp"].flags
    assert "2 images" in found[0].detail
    assert "58, 59" in found[0].detail
    assert cells.grade("apgd") == cells.grade("ibp") == "INVALID"


def test_a_break_outside_the_radius_another_norm_or_another_system_is_no_contradiction() -> None:
    cells = Cells()
    cells.add("pgd", rows(50))
    cells.add("near", proof(np.where(ORDER < 90, 0.02, 0.0)), scenario="certification", needs="weights")
    cells.add("l2", proof(np.full(N, 9.0)), scenario="certification", needs="weights", budget="l2(eps=9)")
    cells.add("other", proof(np.full(N, 9.0)), scenario="certification", needs="weights", defense="x")
    assert cells.names("pgd") == set()


def test_a_number_that_a_proof_nearly_reaches_is_certified() -> None:
    cells = Cells()
    cells.add("pgd", rows(60))
    cells.add("ibp", proof(np.where(ORDER < 20, 0.04, 0.0)), scenario="certification", needs="weights")
    assert cells.grade("pgd") == "PROVISIONAL", "one attack alone"
    cells.add("crown", proof(np.where(ORDER < 55, 0.04, 0.0)), scenario="certification", needs="weights")
    assert cells.grade("pgd") == "CERTIFIED"


def test_votes_may_err_once() -> None:
    cells = Cells()
    cells.add("pgd", rows(59))
    cells.add("smoothing", proof(np.where(ORDER < 60, 0.04, 0.0)), scenario="certification", needs="labels")
    assert cells.names("smoothing") == cells.names("pgd") == set()
    cells.add("apgd", rows(50))
    assert cells.names("smoothing") == {"vote_contradicted"}
    assert cells.names("apgd") == set()


@pytest.mark.parametrize(("claims", "level"), [(0, set()), (1, {"warn"}), (2, {"warn"}), (3, {"fail"})])
def test_claims_that_the_judge_does_not_share(claims: int, level: set[str]) -> None:
    cells = Cells()
    cells.add("a", rows(80, overturned=claims > ORDER))
    assert cells.levels("a") == level
    cells.add("b", rows(80, overturned=ORDER < 9, robust_surrogate=True), attack="b")
    assert cells.names("b") == set()


def test_hygiene() -> None:
    cells = Cells()
    cells.add("a", rows(80), data_sha256="")
    cells.add("b", rows(80).assign(index=0), defense="b")
    cells.add("c", rows(80).assign(robust=True), defense="c")
    cells.add("d", rows(80), defense="d")
    cells.add("e", rows(80).assign(clean_ok=True), defense="d", attack="pgd")
    assert all(cells.names(name) == {"bad_denominator"} for name in "abce")
    assert cells.names("d") == set()


def test_few_targets_and_few_queries() -> None:
    cells = Cells()
    cells.add("x", rows(80), attack="apgd(n_targets=3)")
    cells.add("y", rows(80), attack="apgd(targets=9)")
    assert (cells.names("x"), cells.names("y")) == ({"few_targets"}, set())
    cells.add("p", rows(80), attack="square", needs="scores", defense="p")
    cells.add("q", rows(80, queries=90), attack="square", needs="scores", defense="q")
    assert (cells.names("p"), cells.names("q")) == (set(), {"fewer_queries"})
    assert cells.grade("q") == "PROVISIONAL"


def test_breaks_smaller_than_half_a_bit_are_counted() -> None:
    """An attack that stops a hair behind the boundary loses about half of its breaks to 8 bits, a bold one none."""

    def play(extra: float) -> Record:
        def hair(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
            far = nearest_wrong(x, y, 0.15).clamp(0, 1)
            low, high = torch.zeros(len(x)), torch.ones(len(x))
            for _ in range(18):
                middle = (low + high) / 2
                wrong = margin(model(x + middle.view(-1, 1, 1, 1) * (far - x)), y) > 1e-4
                low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
            return x + (high + extra).clamp(max=1).view(-1, 1, 1, 1) * (far - x)

        net = linear()
        split = labelled(net)
        threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(0.15))
        return evasion.judged(system(net), hair, split, threat, Rng.of(0, "t", split.ids), width=8, card=CARD)

    assert [flag.name for flag in play(0.0).flags] == ["below_a_bit"]
    assert play(0.2).flags == []


def test_a_verdict_is_its_worst_flag() -> None:
    warn, fail = Flag("logit_scale", ""), Flag("over_budget", "")
    assert grade([]) == "SOUND"
    assert grade([], certified=True) == "CERTIFIED"
    assert grade([warn], certified=True) == "PROVISIONAL"
    assert grade([warn, fail]) == grade([{"name": "of_an_older_version"}]) == "INVALID"
    assert grade([fail._replace(level="warn")]) == "PROVISIONAL"
    assert fail.facts() == {"name": "over_budget", "detail": "", "check": "E1", "level": "fail"}


def test_the_documentation_shows_the_table() -> None:
    text = (Path(__file__).parents[1] / "docs" / "integrity.md").read_text("utf-8")
    assert as_markdown() in text, "paste robustsuite.integrity.checks.as_markdown() into docs/integrity.md"
    ids = [check.id for check in CHECKS]
    wanted = [f"E{i}" for i in range(1, 38)] + [f"C{i}" for i in range(1, 6)] + [f"S{i}" for i in range(1, 6)]
    wanted += [f"T{i}" for i in range(1, 4)]
    assert [i for i in ids if i != "–"] == wanted
    assert all(f"`{word}`" in text for word in checks.GRADES)


def test_every_flag_in_the_code_stands_in_the_table() -> None:
    import re

    root = Path(__file__).parents[1]
    raised = set()
    for file in (root / "robustsuite").rglob("*.py"):
        raised |= set(re.findall(r'\bFlag\(\s*"(\w+)"', file.read_text()))
    assert {"over_budget", "stateful", "not_monotone"} <= raised
    assert {name for name in raised if not check_of(name)} == set()


def test_an_evaluation_ends_as_the_same_cell_of_a_sweep(tmp_path: Path) -> None:
    """The same flags and grade from Python and from a sweep."""
    import torch as t

    from robustsuite.app.api import evaluate
    from robustsuite.app.api import run as swept
    from robustsuite.benchmarks.datasets.digits import digits
    from robustsuite.reports.read.runs import read
    from tests.nets import linear as by_digits

    test = digits().split("test").first(40)
    found = evaluate(by_digits(), test.images(t.arange(40)), test.y, attack="fgsm", budget=Linf(0.1))
    threats = {"given": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": ["fgsm"]}}
    sweep = {"name": "s", "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 40}}]}
    cells = read([swept({**sweep, "threats": threats}, out=tmp_path / "run").folder]).cells
    row = cells[cells["scenario"] == "evasion"].iloc[0]
    assert (found.grade, [f.name for f in found.flags]) == (row["grade"], [f["name"] for f in row["flags"]])
