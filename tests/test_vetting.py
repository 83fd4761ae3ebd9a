"""What vet asks for: every adversary that a model's openness allows, at the level that was asked."""

import pytest

from robustsuite.app.vetting import LEVELS, vetting
from robustsuite.engine.plan import plan
from robustsuite.errors import UnknownName


@pytest.mark.parametrize(
    ("net", "threats"), [("linear", {"linf", "l2", "scores", "labels", "proof"}), ("Voting", {"labels"})]
)
def test_what_a_model_shows_decides_who_attacks(net: str, threats: set[str]) -> None:
    for level in LEVELS:
        sweep = vetting(f"python:tests.nets:{net}", "digits", level)
        assert set(sweep.threats) == threats
        assert {d.status for _, d in plan(sweep)} == {"run"}
    with pytest.raises(UnknownName, match="did you mean 'screening'"):
        vetting(f"python:tests.nets:{net}", "digits", "screning")
