"""Of a large cell a few pictures are attacked again, harder: a weak attack is told, an honest one left in peace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustsuite.app.api import Evaluation, evaluate
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.threats import Linf
from robustsuite.engine import parts
from robustsuite.engine.parts import Bounds
from robustsuite.scenarios import second_looks
from tests.frauds import Fraud, honest

N = 64


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture in two, of any cell."""
    for name, number in (("LONGER", 2), ("WHOLE", 2), ("FROM", N)):
        monkeypatch.setattr(second_looks, name, number)


def found(net: Any, attack: str = "pgd", n: int = N, eps: float = 0.1, **given: Any) -> Evaluation:
    some = digits().split("test").first(n)
    return evaluate(net, some.images(torch.arange(n)), some.y, attack=attack, budget=Linf(eps), **given)


def levels(one: Evaluation) -> dict[str, str]:
    return {flag.name: flag.level for flag in one.flags}


def test_an_honest_attack_is_left_in_peace_and_asks_no_more_than_it_is_billed_for() -> None:
    one = found(honest(adversarial=True), steps=20)
    assert not {"not_converged", "unbounded_fails"} & set(levels(one))
    columns = {name: torch.as_tensor(column) for name, column in one.columns.items()}
    assert columns["unbounded"].sum() > N / 4
    assert (columns["robust"] | ~columns["longer"]).all(), "of what fell, nothing more is to be learnt"
    assert not columns["unbounded_stood"].any()
    assert columns["queries"].max() <= 2 * 21


def test_an_attack_that_has_not_converged_is_told_without_an_audit() -> None:
    assert levels(found(honest(), eps=0.3, steps=1, rel_step=0.2))["not_converged"] == "fail"


def test_one_that_fails_where_any_picture_is_allowed_is_told_without_an_audit() -> None:
    starved = found(Fraud(lambda z: 1000 * z), steps=10, loss="ce")
    assert levels(starved)["unbounded_fails"] == "fail"


OTHERS = [{"n": N - 1}, {"attack": "square", "steps": 20}, {"attack": "fmn"}, {"attack": "noise"}]


@pytest.mark.parametrize("given", OTHERS, ids=str)
def test_of_few_pictures_and_of_other_attacks_nothing_is_asked(given: dict[str, Any]) -> None:
    assert "longer" not in found(honest(), **given).columns


def test_who_is_asked_again_hangs_on_the_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(honest(adversarial=True), steps=3).columns
    monkeypatch.setattr(parts, "CPU", Bounds(1 << 40, 1, 16))
    divided = found(honest(adversarial=True), steps=3).columns
    for name in second_looks.COLUMNS:
        assert torch.equal(torch.as_tensor(whole[name]), torch.as_tensor(divided[name])), name
