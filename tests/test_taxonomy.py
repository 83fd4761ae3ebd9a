"""Classes of attacks: every card of ours names some that the tables know, and no id says more than the attack does."""

import dataclasses
from pathlib import Path

import pytest

from robustsuite.config import taxonomy
from robustsuite.config.registry import AttackCard, carded, cards, identity, used
from robustsuite.errors import UsageError
from robustsuite.records.schema import Used, dumped

ATTACKS = [card for card in cards().values()
           if isinstance(card, AttackCard) and card.function.__module__.startswith("robustsuite.")
           and card.name != "benign" and card.place != "explanation"]  # fmt: skip
"""All but a stream that nobody attacks, and methods that explain."""


@pytest.mark.parametrize("card", ATTACKS, ids=lambda card: card.name)
def test_every_attack_of_ours_names_classes_and_techniques_that_the_tables_know(card: AttackCard) -> None:
    assert card.nist
    assert card.atlas
    assert set(card.nist) <= set(taxonomy.NIST)
    assert set(card.atlas) <= set(taxonomy.ATLAS)


@pytest.mark.parametrize("card", [c for c in ATTACKS if c.place == "evasion"], ids=lambda card: card.name)
def test_evasion_is_named_by_how_it_searches(card: AttackCard) -> None:
    gradients = bool({"gradient", "minimum norm"} & set(card.families()))
    assert ("NISTAML.022" in card.nist) == gradients
    assert ("AML.T0043.000" in card.atlas) == gradients
    assert ("AML.T0043.002" in card.atlas) == ("transfer" in card.families())
    assert "AML.T0015" in card.atlas


def test_a_certifier_is_no_attack_and_a_scanner_is_none() -> None:
    for card in ATTACKS:
        validates = card.place in ("certification", "scan")
        assert validates == ("AML.M0008" in card.atlas)
        assert not validates or not any(i.startswith("AML.T") for i in card.atlas)


def test_the_tables_are_of_ids_by_their_form_and_have_no_technique_that_nobody_names() -> None:
    assert taxonomy.formed(tuple(taxonomy.NIST), "nist")
    assert taxonomy.formed(tuple(taxonomy.ATLAS), "atlas")
    assert set(taxonomy.ATLAS) == {i for card in ATTACKS for i in card.atlas}
    assert {i for card in ATTACKS for i in card.nist} == taxonomy.OURS
    assert {known.threat for known in taxonomy.NIST.values()} == set(taxonomy.THREATS) - {taxonomy.FLAWS}


@pytest.mark.parametrize(
    "fact",
    [
        {"atlas": ("T1043",)}, {"atlas": ("AML.T0043.00",)}, {"atlas": "AML.T0043"}, {"atlas": (43,)},
        {"nist": ("NISTAML.2",)}, {"nist": ("AML.T0043",)}, {"nist": ("NISTAML.022 evasion",)}, {"nist": None},
        {"nist": ("NISTAML.022\n",)},
    ],
)  # fmt: skip
def test_a_malformed_id_is_refused_in_a_sentence(fact: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"expected a tuple of ids such as .* of the attack <lambda>, got .*; mend it"):
        carded("attack", "evasion", **fact)(lambda model, x, y, budget, *, rng: x)


def test_third_parties_may_name_none_or_ids_of_a_later_release() -> None:
    for fact in ({}, {"atlas": ("AML.T9999.012",), "nist": ("NISTAML.09",)}):
        carded("attack", "evasion", **fact)(lambda model, x, y, budget, *, rng: x)
    assert taxonomy.worded(("AML.T9999",), ()) == {taxonomy.NIST_EDITION: "", taxonomy.ATLAS_VERSION: "AML.T9999"}


def test_what_a_card_says_of_classes_is_kept_in_the_record_and_no_part_of_an_id() -> None:
    card = cards()["attack", "pgd"]
    assert isinstance(card, AttackCard)
    other = dataclasses.replace(card, atlas=(), nist=("NISTAML.025",))
    assert identity(card, {"steps": 9}) == identity(other, {"steps": 9})
    assert card == other
    assert (used(card, {}).nist, used(card, {}).atlas) == (card.nist, card.atlas)
    old = {k: v for k, v in dumped(used(card, {})).items() if k not in ("atlas", "nist")}
    assert (Used.model_validate(old, strict=False).nist, Used(name="x").atlas) == ((), ())


def test_the_documented_mapping_is_the_one_that_cards_name() -> None:
    text = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text()
    table = taxonomy.as_markdown(ATTACKS)
    assert table in text, "paste taxonomy.as_markdown(the cards of our attacks) into docs/evidence.md"
    assert taxonomy.ATLAS_VERSION in text
    assert taxonomy.NIST_EDITION in text
