"""What vet asks for: every adversary that a model's openness allows, at the level that was asked."""

import pytest

from robustsuite.app.vetting import LEVELS, vetting
from robustsuite.engine.plan import plan
from robustsuite.errors import BadValue, UnknownName


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


def test_pictures_and_radii_of_ones_own() -> None:
    sweep = vetting("python:tests.nets:linear", "digits", first=5, linf=("2/255", "8/255"))
    assert {"linf 2/255", "linf 8/255", "scores 2/255", "scores 8/255", "l2", "labels", "proof"} == set(sweep.threats)
    assert {cell.split.y.numel() for cell, _ in plan(sweep)} == {5}
    said = {str(cell.threat.budget) for cell, _ in plan(sweep) if cell.threat and cell.threat.scenario == "evasion"}
    assert said == {"linf(eps=2/255)", "linf(eps=8/255)", "l2(eps=0.5)"}


def test_a_bare_path_is_told_what_to_write() -> None:
    with pytest.raises(BadValue, match=r"write imagefolder:my/pictures or cifar10:my/pictures"):
        vetting("python:tests.nets:linear", "my/pictures")
    with pytest.raises(BadValue, match=r"write for example checkpoint:net\.safetensors"):
        vetting("net.safetensors", "digits")
