"""Planted frauds x flags: each raises its own, an honest network raises none."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustsuite.app.api import evaluate
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.registry import DefenseCard
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.integrity.checks import level_of
from robustsuite.integrity.probes import probe, scores
from robustsuite.integrity.state import state_of
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.evasion import Found, attack
from robustsuite.serve.data import InputSpace, Split, load_data
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training, load_model, ready
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.stages import Applied
from tests.frauds import FRAUDS, Fraud, honest
from tests.toys import labelled, linear

DATA = digits()
TEST = DATA.split("test")
X, Y = TEST.images(torch.arange(32)), TEST.y[:32]
SHARED = {
    "cifar10_resnet4b_adv2": "resnet4b", "cifar10_resnet18_std": "resnet18_cifar", "cifar10_resnet2b_adv2": "resnet2b",
    "cifar10_resnet20": "cifar_resnet20", "cifar10_cnn_a_adv": "cnn_a", "cifar10_vit_pgd_2_3_16": "small_vit",
}  # fmt: skip


def raised(net: nn.Module) -> dict[str, str]:
    """Flag -> level."""
    return {flag.name: level_of(flag) for flag in probe(net, X, Y, DATA.space)}


@pytest.mark.parametrize("adversarial", [False, True])
def test_an_honest_network_raises_no_flag(adversarial: bool) -> None:
    assert raised(honest(adversarial)) == {}


@pytest.mark.parametrize("fraud", FRAUDS)
def test_a_fraud_raises_its_flags(fraud: str) -> None:
    make, expected = FRAUDS[fraud]
    net = make()
    if "training" not in fraud:
        net.eval()
    before = state_of(net)
    found = raised(net)
    assert expected <= set(found)
    assert state_of(net) == before


def test_what_an_attack_may_get_around_warns_and_the_rest_fails() -> None:
    warned = {
        "softmax temperature 1000", "probabilities at temperature 1000", "quantised input, straight through",
        "rounded logits, straight through",
    }  # fmt: skip
    for fraud, (make, _) in FRAUDS.items():
        net = make()
        levels = raised(net if "training" in fraud else net.eval()).values()
        assert ("fail" in levels) != (fraud in warned), (fraud, levels)


def test_a_threshold_cannot_be_set_on_test_pictures_before_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lifecycle hands a defense are two splits, neither of them the one that is judged on."""
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))  # a hardening that is kept would not be run
    handed: list[Training] = []

    def calibrating(net: nn.Module, training: Training) -> nn.Module:
        handed.append(training)
        return net

    defense = Applied(DefenseCard("defense", "calibrating", calibrating, "harden"))
    Lifecycle(Model("net", honest(), DATA.space, "sha"), DATA, (defense,)).served()
    splits = [value for field in fields(Training) if isinstance(value := getattr(handed[0], field.name), Split)]
    assert len(splits) == 2
    judged = set(TEST.ids.tolist())
    pictures = {row.numpy().tobytes() for row in TEST.images(torch.arange(len(TEST)))}
    for split in splits:
        assert split.sha256 != TEST.sha256
        assert not judged & set(split.ids.tolist())
        seen = split.images(torch.arange(len(split)))
        assert len(pictures & {row.numpy().tobytes() for row in seen}) < 0.01 * len(pictures)


@pytest.mark.parametrize("name", SHARED)
def test_published_networks_raise_no_flag(shared, name: str) -> None:
    _, split = load_data({"cifar10": {"root": str(shared / "data" / "cifar10"), "pack": "lossless", "first": 32}})
    space = InputSpace(3, 32, 32, 10)
    net = ready(load_model(f"checkpoint:{shared / 'models' / name}.safetensors?arch={SHARED[name]}", space).net)
    assert probe(net, split.images(torch.arange(32)), split.y, space) == []


@pytest.mark.parametrize("name", ["robust", "clean_ok", "queries", "in_budget", "rejected", "robust_direct", "label"])
def test_no_attack_writes_a_verdict(name: str) -> None:
    """Or what is counted: on untouched pictures it read 0 %."""

    @attack(needs=Access.SCORES, norms=("linf",))
    def claims(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng) -> Found:
        """Says what it likes."""
        return Found(x, {name: torch.zeros(len(x), dtype=torch.bool)})

    split = labelled(linear())
    with pytest.raises(BadValue, match=f"got '{name}', which the judge writes"):
        evaluate(linear(), split.images(torch.arange(24)), split.y, attack=claims)


@pytest.mark.parametrize(("depth", "told"), [(0.0, False), (8.0, True)])
def test_true_gradients_that_turn_within_a_level_are_told(depth: float, told: bool) -> None:
    rippled = Fraud(before=lambda x: x + depth / 804 * (804 * x).sin())
    flags = probe(rippled.eval(), 0.1 + 0.8 * X, Y, DATA.space)  # off the bounds, where half of the noise is cut
    assert ("rough_landscape" in {flag.name for flag in flags}) == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [(lambda z: z, []), (lambda z: 5 * one_hot(z.argmax(1), 10).float(), ["piecewise_constant"]),
     (lambda z: 5 * one_hot(z.argmax(1), 10).float() + 0.01 * z, ["scores_jump"])],
    ids=["honest", "labels", "labels and a little"],
)  # fmt: skip
def test_labels_in_the_shape_of_scores_are_told_of_a_system_that_hides_gradients(answer: Any, told: list[str]) -> None:
    assert [flag.name for flag in scores(Fraud(answer).eval(), X)] == told
