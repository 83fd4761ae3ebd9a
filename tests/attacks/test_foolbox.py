"""Foolbox's HopSkipJump through the bridge: what it asks, what it may not ask, and that it works."""

import math

import pytest
import torch
from torch import Tensor

from robustsuite.attacks.evasion import foolbox_bridge as bridge
from robustsuite.config.threats import L2, Access
from robustsuite.errors import BadValue, MissingPackage, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import Decisions
from robustsuite.scenarios.evasion import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import centre, distance, linear, streams

N, ANY = 3, L2(math.inf)


def labels_only(net: torch.nn.Module, **limits: object) -> Oracle:
    return Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", torch.arange(N)), width=64, **limits)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "library", None)
    with pytest.raises(MissingPackage, match=r"pip install foolbox==3\.3\.4"):
        bridge.hopskipjump(labels_only(linear()), *centre(N), ANY, rng=streams(N))


def test_comes_close_to_the_distance_of_a_linear_model() -> None:
    pytest.importorskip("foolbox")
    net, (x, y) = linear(0, 2.0), centre(N)
    model = labels_only(net)
    found = bridge.hopskipjump(model, x, y, ANY, rng=streams(N), queries=2500)
    assert (net(found.x_adv).argmax(1) != y).all()
    assert (ANY.distance(x, found.x_adv) <= 1.25 * distance(net, "l2")).all()
    assert (model.counts.forwards <= 2500).all()
    assert (found.columns["logical"] == model.counts.forwards).all()
    assert (found.columns["l2_at_2500"] <= found.columns["l2_at_500"]).all()


def test_goes_to_the_class_it_is_told() -> None:
    pytest.importorskip("foolbox")
    net, (x, y) = linear(0, 2.0), centre(N)
    owned = Aux(Split.of(0.5 - 0.3 * net.w.sign()[None], torch.ones(1, dtype=torch.int64)), lambda spec: net)
    targets = torch.ones(N, 1, dtype=torch.int64)
    found = bridge.hopskipjump_targeted(
        labels_only(net), x, y, ANY, rng=streams(N), targets=targets, aux=owned, queries=800
    )
    assert (net(found.x_adv).argmax(1) == 1).all()
    assert (ANY.distance(x, found.x_adv) < 0.7 * ANY.distance(x, 0.5 - 0.3 * net.w.sign()[None])).all()


@pytest.mark.parametrize("queries", [1, 30, 250])
def test_never_asks_more_than_the_threat_leaves(queries: int) -> None:
    pytest.importorskip("foolbox")
    model = labels_only(linear(), queries=queries)
    bridge.hopskipjump(model, *centre(N), ANY, rng=streams(N))
    assert (model.counts.forwards <= queries).all()


def test_a_repeated_question_is_answered_from_memory() -> None:
    eagerpy = pytest.importorskip("eagerpy")
    net, (x, y) = linear(), centre(N)
    ask = Decisions(labels_only(net), x, y, targeted=False, queries=9)
    far = x - 0.3 * net.w.sign()
    answers = bridge._Answers(ask, torch.arange(N), far)

    def yes(points: Tensor) -> list[bool]:
        return answers(eagerpy.astensor(points)).raw.argmax(1).bool().tolist()

    assert yes(far) == [True] * N
    assert ask.spent.tolist() == [0] * N  # the start is known to be adversarial
    assert yes(x) == yes(x) == [False] * N
    assert ask.spent.tolist() == [1] * N
    mixed = torch.cat([x[:1], far[1:2], x[2:] - 0.001])
    assert yes(mixed)[:2] == [False, True]
    assert ask.spent.tolist() == [1, 1, 2]


def test_random_systems_and_bad_values_are_refused() -> None:
    pytest.importorskip("foolbox")
    with pytest.raises(Unsupported, match="use cgba"):
        bridge.hopskipjump(labels_only(linear(), confidence_margin=torch.inf), *centre(N), ANY, rng=streams(N))
    with pytest.raises(BadValue, match="probes >= 1"):
        bridge.hopskipjump(labels_only(linear()), *centre(N), ANY, rng=streams(N), probes=0)
