"""What is parsed over several victims: counted by hand on planted guesses."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from robustsuite.records.schema import Budget
from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.render.adversary import who
from robustsuite.reports.sections.parsed import ATTRIBUTES, WHERE, _counted, pooled
from robustsuite.scenarios.parsing.played import scenario

FACTS = dict.fromkeys(WHERE, "one") | {"seed": 0, "flags": ""}


def examples(value: int, guesses: list[int], counts: list[bool]) -> pd.DataFrame:
    """Pictures of a victim whose attributes all have the same place, with one guess for all three."""
    right = [guess == value for guess in guesses]
    columns: dict[str, object] = {"adversarial": counts, "all_ok": right, "own_pictures": 40}
    for name in ATTRIBUTES:
        columns |= {name: value, f"{name}_guess": guesses, f"{name}_ok": right, f"own_{name}": 0.75,
                    f"others_{name}": 0.25}  # fmt: skip
    return pd.DataFrame(columns)


def whole(*victims: pd.DataFrame) -> pd.DataFrame:
    """The rows of attributes over these victims."""
    return pooled(pd.DataFrame([{**FACTS, **_counted(victim)} for victim in victims]))


def test_who_always_says_the_same_is_right_on_a_third_of_three_values() -> None:
    found = whole(*(examples(value, [1] * 5, [True] * 5) for value in (0, 1, 2) for _ in range(3)))
    assert found["attribute"].tolist() == [*ATTRIBUTES]
    assert found["right"].tolist() == [pytest.approx(1 / 3)] * 3
    assert (found["own"] == 0.75).all()
    assert (found["lo"] <= 1 / 3).all()


def test_values_weigh_alike_however_many_victims_have_them_and_so_do_victims() -> None:
    many = [examples(0, [0] * 100, [True] * 100), *(examples(1, [0], [True]) for _ in range(3))]
    found = whole(*many)
    assert (found["right"] == 0.5).all()
    assert (found["victims"] == 4).all()
    assert (found["pictures"] == 103).all()
    assert np.isnan(found["lo"]).all(), "one victim of a value has no interval over victims"


def test_pictures_that_do_not_count_do_not_and_a_victim_without_any_is_told() -> None:
    found = whole(
        examples(0, [0, 1], [True, False]), examples(1, [0, 1], [False, True]), examples(2, [2], [False])
    )  # fmt: skip
    assert (found["right"] == 1).all()
    assert (found["without"] == 1).all()
    assert (found["values"] == 2).all()


def test_of_one_value_nothing_is_told() -> None:
    found = whole(examples(1, [1, 1], [True, True]), examples(1, [1, 1], [True, True]))
    assert np.isnan(found["right"]).all()


def test_scores_are_of_pictures_that_count() -> None:
    rows = examples(2, [2, 2, 0, 2], [True, True, True, False])
    cell = {"record": SimpleNamespace(columns=scenario.columns)}
    scores = {score.metric: score for score in cell_scores(cell, rows)}
    assert (scores["all_ok_rate"].k, scores["all_ok_rate"].n) == (2, 3)
    assert next(iter(scores)) == "all_ok_rate"
    none = rows.assign(adversarial=False)
    assert "all_ok_rate" not in {score.metric for score in cell_scores(cell, none)}


def test_who_learns_from_another_attack_is_told_so() -> None:
    def told(**terms: str) -> str:
        threat = SimpleNamespace(budget=Budget(terms=terms))
        return who(SimpleNamespace(scenario=SimpleNamespace(name="parsing"), threat=threat))  # type: ignore[arg-type]

    assert told(evasion="fgsm") == "whoever finds pictures by fgsm that break it"
    learnt = told(evasion="fgsm", assumes="pgd(steps=10) in linf(eps=8/255)")
    assert learnt == "whoever learns from pgd(steps=10) in linf(eps=8/255) and finds pictures by fgsm that break it"
