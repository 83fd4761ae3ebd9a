"""What a number depends on is in its id: radii in full, every parameter, sources of factories and of plugins."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from robustsuite.config import identity, registry
from robustsuite.config.threats import parse_ball
from robustsuite.engine.execute import execute
from robustsuite.engine.plan import plan
from robustsuite.engine.store import Store
from robustsuite.engine.sweep import sweep_of
from robustsuite.records.cells import read_cell
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import load_model
from tests.test_plan import BASE, toy

FACTORY = """
from torch import nn


class Mended(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.constant_(self.head.bias, 0.0)

    def forward(self, x):
        return self.head((x.flatten(1) - MEAN))


def net():
    return Mended()
"""
SPACE = InputSpace(1, 8, 8, 10)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mended_factory", None)
    yield tmp_path / "mended_factory.py"
    sys.modules.pop("mended_factory", None)


def test_a_factory_whose_forward_changed_is_another_model(module: Path) -> None:
    found = []
    for mean in ("0.5", "0.25"):
        shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)
        module.write_text(FACTORY.replace("MEAN", mean))
        sys.modules.pop("mended_factory", None)
        importlib.invalidate_caches()
        model = load_model("python:mended_factory:net", SPACE)
        cell = toy()
        found.append((model.sha256, toy(lifecycle=replace(cell.lifecycle, model=model)).run_id))
    (sha, first), (same, second) = found
    assert sha == same, "the weights did not change"
    assert first != second, "the number does"


def test_a_library_is_known_by_its_version() -> None:
    import torchvision.models as zoo

    assert identity.behaviour_of(zoo.resnet18(num_classes=2))["torchvision"].startswith("torchvision ")


def test_a_plugin_edited_in_place_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before, plugin = toy().run_id, registry.card_of("attack", "pgd").function.__module__
    known = identity.source_of
    monkeypatch.setattr(registry, "source_of", lambda m: "0" * 16 if m == plugin else known(m))
    assert toy().run_id != before


def test_a_changed_default_is_another_cell() -> None:
    def attack(model: object, x: object, *, steps: int = 2) -> None:
        """Nothing."""

    def again(model: object, x: object, *, steps: int = 3) -> None:
        """Nothing."""

    cards = [registry.AttackCard("attack", "same", function, "evasion") for function in (attack, again)]
    assert registry.canonical(cards[0], {}) == registry.canonical(cards[1], {})
    assert registry.identity(cards[0], {}) != registry.identity(cards[1], {})
    assert registry.identity(cards[0], {"steps": 3}) == registry.identity(cards[1], {})


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_are_stored_in_full_and_tell_cells_apart(norm: str, tmp_path: Path) -> None:
    radii = [36 / 255, 26 / 255, 1 / 255, 1 / 255 + 1e-9]
    cells: list[Cell] = []
    for eps in radii:
        asked = {"t": {"scenario": "evasion", "budget": {norm: eps}, "attacks": ["fgsm"]}}
        cells += [c for c, _ in plan(sweep_of({**BASE, "threats": asked}, "t"), first=5) if c.threat]
    assert len({cell.run_id for cell in cells}) == len(radii)
    assert len({cell.facts()["budget"] for cell in cells}) == len(radii)
    from robustsuite.config.decision import Decision

    execute([(cell, Decision()) for cell in cells], Store(tmp_path))
    kept = [read_cell(tmp_path / "cells" / cell.run_id).threat for cell in cells]
    assert [threat.budget.eps for threat in kept if threat] == radii


@pytest.mark.parametrize("words", ["36/255", "26/255", "8/255", 0.5, "inf"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_reads_as_itself(norm: str, words: object) -> None:
    from robustsuite.config.threats import parse_number
    from robustsuite.records.schema import radius_words

    eps = parse_ball(norm, words).eps
    assert parse_number(radius_words(eps, norm)) == eps
