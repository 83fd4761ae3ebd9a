"""The sweeps that come with the suite are sweeps, and one of them leaves no scenario out."""

from importlib.resources import files

import pytest

from robustsuite.config.registry import card_of, names
from robustsuite.engine.sweep import parse_sweep

SWEEPS = sorted(file.name for file in (files("robustsuite.benchmarks") / "sweeps").iterdir() if file.suffix == ".yaml")


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_that_comes_with_the_suite_reads(name: str) -> None:
    assert parse_sweep((files("robustsuite.benchmarks.sweeps") / name).read_text("utf-8"), name).threats


def test_one_sweep_has_every_scenario_and_a_defense_at_every_stage() -> None:
    sweep = parse_sweep((files("robustsuite.benchmarks.sweeps") / "scenarios.yaml").read_text("utf-8"), "it")
    assert {*(threat.scenario for threat in sweep.threats.values()), "shift"} == set(names("scenario"))
    named = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in sweep.defenses if entry != "none"]
    assert len(named) == 8
    assert {card_of("defense", name).place for name in named} == {"data", "train", "harden", "serve", "share"}
