"""Some frauds of each kind are struck, by their flag; the honest network raises none. The table: docs/frauds.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.app.api import Evaluation, evaluate
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.benchmarks.frauds.honest import EPS, Kit, kit
from robustsuite.benchmarks.frauds.measure import asked, listed, truth
from robustsuite.benchmarks.frauds.table import markdown, told_apart, trusted, verdict
from robustsuite.benchmarks.frauds.tricks import FRAUDS
from robustsuite.config.threats import Linf
from tests.frauds import honest

listed()
STRUCK = {
    "ties_off_grid": "no_answer", "rejects_off_grid": "undefined_answers", "colour_confidence": "scores_jump",
    "robust_face": "inner_wins", "flipped_off_grid": "gradient_mismatch", "huge_logits": "loss_vanishes",
    "float32_masked": "scores_jump", "MatchedFilter": "remembers", "call_counter": "gradient_mismatch",
    "stack_names": "two_faced", "crowd": "gradient_mismatch", "CopyTurns": "loss_vanishes",
    "undeclared_noise": "gradient_mismatch",
}  # fmt: skip
DIGITS = {
    "colour_confidence": "scores_jump", "wall": "scores_jump", "inverted_confidence": "scores_jump",
    "double_gradient_honest": "gradient_mismatch", "huge_logits": "loss_vanishes", "crowd": "gradient_mismatch",
    "call_counter": "gradient_mismatch",
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Kit]:
    disk = tmp_path_factory.mktemp("frauds") / "disk"
    return lambda: kit(shared, disk, 32)


def read(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Evaluation:
    return evaluate(net, x, y, attack="pgd", budget=Linf(eps), steps=10)


def doubts(found: Evaluation) -> list[str]:
    return told_apart({"flags": [flag.name for flag in found.flags]})


def test_the_honest_network_is_broken_without_a_flag(parts: Callable[[], Kit]) -> None:
    k = parts()
    found = read(k.net, k.x, k.y, EPS)
    assert found.robust < 0.1
    assert doubts(found) == []


@pytest.mark.parametrize("name", STRUCK)
def test_a_fraud_is_struck_by_its_flag(parts: Callable[[], Kit], name: str) -> None:
    k = parts()
    found = read(FRAUDS[name].make(k), k.x, k.y, EPS)
    assert found.grade == "INVALID"
    assert STRUCK[name] in doubts(found)


@pytest.mark.parametrize("name", ["raises_when_losing", "patched_projection"])
def test_a_fraud_has_no_number(parts: Callable[[], Kit], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linf, "project", Linf.project)  # what a fraud does to it ends here
    k = parts()
    with pytest.raises(Exception, match=r"CUDA out of memory|to leave alone what it is"):
        read(FRAUDS[name].make(k), k.x, k.y, EPS)


def test_digits_without_a_fraud() -> None:
    x, y = _digits()
    assert doubts(read(honest(), x, y, 0.1)) == []


@pytest.mark.parametrize("name", DIGITS)
def test_a_fraud_over_digits_is_struck(name: str, tmp_path: Path) -> None:
    x, y = _digits()
    found = read(FRAUDS[name].make(Kit(honest(), honest(True), x, y, tmp_path / "disk")), x, y, 0.1)
    assert found.grade == "INVALID"
    assert DIGITS[name] in doubts(found)


def _digits() -> tuple[Tensor, Tensor]:
    test = digits().split("test")
    return test.images(torch.arange(48)), test.y[:48]


def test_the_truth_of_a_fraud_is_that_everything_falls(shared: Path, tmp_path: Path) -> None:
    asked(shared, tmp_path, 16)
    (row,) = truth("colour_confidence", shared, tmp_path)
    assert row["clean"] > 0.75
    assert row["attacked"] < 0.1


def test_what_is_missed() -> None:
    row: dict[str, Any] = {"attack": "pgd", "value": 0.5, "grade": "PROVISIONAL", "flags": ["one_family"]}
    entry = {"what": "fraud", "kind": "scores", "trick": "a | b", "truth": None, "rows": [row], "ended": ""}
    assert verdict(entry, {"pgd": 0.02}) == "MISSED (pgd)"
    assert verdict(entry, {"pgd": 0.45}) == "harmless"
    assert not trusted(row | {"grade": "INVALID"})
    assert not trusted(row | {"flags": ["one_family", "below_a_bit"]})
    assert verdict(entry | {"rows": [row | {"flags": ["below_a_bit"]}]}, {"pgd": 0.02}) == "caught"
    cheat = entry | {"what": "cheat", "rows": [row | {"before": 0.7, "after": 0.7}]}
    assert verdict(cheat, {}) == "MISSED (a low reading)"
    assert "| a / b | – / – | 50 PROVISIONAL |" in markdown({"one": entry})
