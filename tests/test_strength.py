"""A number rests on a strong attack and on a second family, or its grade says what is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from robustsuite.app.api import evaluate
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.registry import FAMILIES, AttackCard, carded, cards, identity, used
from robustsuite.config.threats import Linf
from robustsuite.errors import UsageError
from robustsuite.integrity.cross_cell import Graded, grades
from robustsuite.integrity.strength import screening
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord
from tests.nets import linear
from tests.test_integrity import WHITE, Cells, proof, rows

ATTACKS = [card for card in cards().values() if isinstance(card, AttackCard) and card.place == "evasion"]


class Played(Cells):
    """Cells whose attacks are as their cards say, by the words 'pgd(steps=10)'."""

    def play(self, words: str, standing: int = 60, n: int = 200, **facts: Any) -> str:
        name, _, inside = words.removesuffix(")").partition("(")
        given = {k: int(v) for k, v in (pair.split("=") for pair in inside.split(", ") if inside)}
        threat = facts.pop("threat", "t")
        run_id = f"{threat}/{words}/{facts.get('defense', '')}{facts.get('data_sha256', '')}"
        table = None if facts.get("status", "done") != "done" else rows(standing, n)
        self.add(run_id, table, attack=words, threat=threat, n=n, **facts)
        record: CellRecord = self.rows[-1]["record"]
        if ("attack", name) in cards():
            about = used(cards()["attack", name], given)
            record = record.model_copy(update={"attack": about})
        self.rows[-1] = flat(record)
        return run_id

    def ends(self) -> dict[str, Graded]:
        return grades(self.rows, self.tables.__getitem__)

    def said(self, run_id: str) -> list[tuple[str, str]]:
        return [(flag.name, flag.detail) for flag in self.ends()[run_id].flags]


@pytest.mark.parametrize("card", ATTACKS, ids=lambda card: card.name)
def test_every_evasion_attack_states_its_family(card: AttackCard) -> None:
    families = card.families()
    assert families
    assert set(families) <= set(FAMILIES)
    exempt = {"noise", "worst_of", "autoattack", "torchattacks:GN", "torchattacks:VANILA"}
    assert card.least or card.name in exempt, "state from which steps or queries on a number may rest on it"


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"family": ("gradients",)}, "a tuple of gradient, minimum norm"),
        ({"least": {"steps": 1.5}}, "a dict of whole numbers"),
    ],
)
def test_a_card_says_it_in_the_fields_terms(fact: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        carded("attack", "evasion", **fact)(lambda model, x, y, budget, *, rng: x)


def test_what_a_card_says_of_strength_is_no_part_of_an_id() -> None:
    card = cards()["attack", "pgd"]
    assert isinstance(card, AttackCard)
    other = dataclasses.replace(card, family=("score",), least={"steps": 7})
    assert identity(card, {"steps": 9}) == identity(other, {"steps": 9})
    assert used(other, {}).family == ("score",)
    assert used(cards()["attack", "autoattack"], {"version": "rand"}).family == ("gradient",)


@pytest.mark.parametrize(
    ("attacks", "flag", "words"),
    [
        (["fgsm"], "weak_alone", "fgsm alone: no gradient attack at its least (below the least: fgsm: steps none of "
         "20); add apgd (gradient) or fmn (minimum norm)"),
        (["noise"], "weak_alone", "noise alone: no gradient attack at its least; add apgd (gradient) or fmn (minimum "
         "norm)"),
        (["pgd(steps=19)"], "weak_alone", "pgd(steps=19) alone: no gradient attack at its least (below the least: "
         "pgd(steps=19): steps 19 of 20); play pgd(steps=19) at the least, or add apgd (gradient) or fmn "
         "(minimum norm)"),
        (["pgd"], "one_family", "pgd alone: one family at its least, gradient; add fmn (minimum norm) or square "
         "(score)"),
        (["pgd", "apgd", "fgsm", "noise"], "one_family", "pgd, apgd, fgsm and 1 more alone: one family at its least, "
         "gradient (below the least: fgsm: steps none of 20); add fmn (minimum norm) or square (score)"),
        (["pgd", "square(steps=60)"], "one_family", "pgd, square(steps=60) alone: one family at its least, gradient "
         "(below the least: square(steps=60): steps 60 of 4999); play square(steps=60) at the least, or add fmn "
         "(minimum norm)"),
        (["square"], "weak_alone", "square alone: no gradient attack at its least; add apgd (gradient) or fmn (minimum "
         "norm)"),
        (["pgd", "square"], "", ""),
        (["pgd", "fmn"], "", ""),
        (["autoattack"], "", ""),
        (["ensemble"], "", ""),
        (["mine", "pgd"], "one_family", "mine, pgd alone: one family at its least, gradient (mine: no family is stated "
         "on the card); add fmn (minimum norm) or square (score)"),
    ],
)  # fmt: skip
def test_two_families_of_strength_where_all_is_granted(attacks: list[str], flag: str, words: str) -> None:
    cells = Played()
    names = [cells.play(attack) for attack in attacks]
    for row in cells.rows:
        if row["attack"] == "mine":
            record = row["record"]
            silent = record.attack.model_copy(update={"family": ()})
            row["record"] = record.model_copy(update={"attack": silent})
    for name in names:
        assert cells.said(name) == ([(flag, words)] if flag else [])
        assert cells.ends()[name].grade == ("PROVISIONAL" if flag else "SOUND")


def test_what_another_threat_of_the_same_adversary_found_is_a_second_family() -> None:
    """Square of a threat that sees scores alone backs PGD of one that sees all; PGD backs Square in nothing."""
    cells = Played()
    white, black = cells.play("pgd"), cells.play("square", threat="s", access="labels, scores")
    assert cells.said(white) == []
    assert [name for name, _ in cells.said(black)] == ["one_family"]
    assert "; add one of another family, such as a transfer" in cells.said(black)[0][1]
    other = cells.play("pgd", threat="wide", budget="linf(eps=16/255)")
    assert [name for name, _ in cells.said(other)] == ["one_family"]


def test_the_strong_attack_is_of_the_cells_own_threat() -> None:
    """Noise alone in a threat is no strong union because another threat of the same radius had PGD and Square."""
    cells = Played()
    cells.play("pgd", threat="all")
    cells.play("square", threat="all")
    assert [name for name, _ in cells.said(cells.play("noise", 160, threat="few"))] == ["weak_alone"]


def test_queries_are_those_that_the_threat_leaves() -> None:
    scores = {"threat": "s", "access": "labels, scores"}
    cells = Played()
    short = cells.play("square", budget="linf(eps=8/255) queries(500)", **scores)
    assert "square: steps 500 of 4999" in cells.said(short)[0][1]
    assert cells.ends()[short].screening == "200 images; steps 500 of 4999"
    full = cells.play("square", budget="linf(eps=8/255) queries(5000)", defense="b", **scores)
    assert [name for name, _ in cells.said(full)] == ["one_family"]


def test_a_model_that_shows_no_gradients_asks_for_none() -> None:
    cells = Played()
    names = [cells.play(a, budget="l2(eps=0.5)") for a in ("square", "cgba")]
    for row in cells.rows:
        shown = row["record"].model.model_copy(update={"shows": ("labels", "scores")})
        row["record"] = row["record"].model_copy(update={"model": shown})
    assert [cells.said(name) for name in names] == [[], []]


def test_a_transfer_is_its_own_family_and_no_gradient_attack() -> None:
    cells = Played()
    of = {"access": "labels, scores, aux_data"}
    carried, asked = cells.play("pgd", **of), cells.play("square", **of)
    assert cells.said(carried) == cells.said(asked) == []
    alone = Played()
    assert [name for name, _ in alone.said(alone.play("pgd", **of))] == ["weak_alone"]


def test_nothing_rests_on_what_failed_or_was_not_played_or_saw_fewer_pictures() -> None:
    cells = Played()
    bad = [{"name": "over_budget"}]
    names = [cells.play("pgd", flags=bad), cells.play("square"), cells.play("apgd", status="failed")]
    assert [name for name, _ in cells.said(names[1])] == ["weak_alone"]
    few = Played()
    whole = few.play("pgd", 40)
    part = few.play("square", 40, n=50, data_sha256="part")
    assert [name for name, _ in few.said(whole)] == ["one_family"]
    assert few.said(part) == [], "PGD met all of its 50 pictures"


def test_a_proof_or_nothing_left_needs_no_further_attack() -> None:
    cells = Played()
    fallen = cells.play("fgsm", 0)
    assert cells.ends()[fallen].grade == "SOUND", "a bound of 0 is the truth"
    other = cells.play("pgd", 60, defense="b")
    assert cells.ends()[other].grade == "PROVISIONAL"
    cells.add("crown", proof(np.where(np.arange(200) < 55, 0.04, 0.0)), scenario="certification", needs="weights",
              defense="b")  # fmt: skip
    assert cells.ends()[other].grade == "CERTIFIED"


def test_records_that_say_no_family_are_told_so() -> None:
    """As version 0.1.0 wrote them, and as third parties' cards leave it."""
    cells = Played()
    name = cells.play("pgd")
    record = cells.rows[0]["record"]
    cells.rows[0]["record"] = record.model_copy(
        update={"attack": record.attack.model_copy(update={"family": (), "least": {}})}
    )
    assert cells.said(name) == [
        ("weak_alone", "pgd alone: no gradient attack at its least (pgd: no family is stated on the card); add apgd "
         "(gradient) or fmn (minimum norm)")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "steps", "words"), [(999, 20, "999 images"), (1000, 20, ""), (1000, 19, "steps 19 of 20")]
)
def test_a_screening_says_why(n: int, steps: int, words: str) -> None:
    cells = Played()
    name = cells.play(f"pgd(steps={steps})", n=n, access=WHITE)
    assert cells.ends()[name].screening == words


@pytest.mark.parametrize(("scenario", "words"), [("poisoning", "24 images"), ("inversion", "24 images"), ("shift", "")])
def test_every_attack_on_few_images_is_a_screening(scenario: str, words: str) -> None:
    cells = Played()
    cells.play("pgd(steps=20)", n=24, access=WHITE)
    assert screening({**cells.rows[0], "scenario": scenario}) == words


def test_an_evaluation_by_one_attack_is_provisional_and_says_what_to_add() -> None:
    test = digits().split("test").first(40)
    asked = (linear(), test.images(torch.arange(40)), test.y)
    alone = evaluate(*asked, attack="pgd", budget=Linf(0.1))
    assert (alone.grade, alone.screening) == ("PROVISIONAL", "40 images")
    assert "pgd alone: one family at its least, gradient; add fmn (minimum norm) or square (score)" in [
        flag.detail for flag in alone.flags
    ]
    several = evaluate(*asked, attack="ensemble", budget=Linf(0.1))
    assert (several.grade, several.screening, several.flags) == ("SOUND", "40 images", [])
