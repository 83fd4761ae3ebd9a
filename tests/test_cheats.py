"""Attacks that cheat, each stopped or named: by what an oracle is, by what is put back, or by the replay apart."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Linf, Threat, parse_access
from robustsuite.errors import AccessRefused, BadValue, QueriesSpent
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.record import Record
from robustsuite.serve.oracle import Desk, Oracle
from tests.toys import labelled, linear, pictures, system

X, Y = pictures(10), torch.zeros(10, dtype=torch.int64)
EPS = Linf(0.01)


def desk(access: str = "labels", **limits: Any) -> Desk:
    return Desk(linear(), parse_access([access]), Rng.of(0, "cheats", torch.arange(10)), **limits)


def judged(attack: Callable[..., Any], net: nn.Module | None = None, access: Access = Access.SCORES) -> Record:
    """The record of a plugin on the toy net, whose pictures the judge sees as in any cell."""
    net = linear() if net is None else net
    split = labelled(net)
    card = AttackCard("attack", "cheat", attack, "evasion", needs=access)
    threat = Threat("t", "evasion", access, EPS, queries=100)
    rng = Rng.of(0, "cheats", split.ids)
    return evasion.judged(system(net), attack, split, threat, rng, width=8, card=card)


def idle(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
    return x


@pytest.mark.parametrize("name", ["net", "access", "queries", "queries_total", "rng", "recentred", "shown"])
def test_an_oracle_holds_nothing_of_the_suites(name: str) -> None:
    model = desk().oracle()
    assert not hasattr(model, name)
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        setattr(model, name, Access.WHITE_BOX)
    with pytest.raises(FrozenInstanceError):
        model.width = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        object.__setattr__(model, name, Access.WHITE_BOX)


def test_no_attribute_of_an_oracle_leads_to_the_network() -> None:
    model = desk().oracle()
    reached = [getattr(model, name) for name in dir(model)]
    reached += [getattr(asking, name) for asking in model.asking for name in ("__dict__", "__self__", "__wrapped__")
                if hasattr(asking, name)]  # fmt: skip
    assert not [one for one in reached if isinstance(one, nn.Module | Desk)]


def test_counts_are_a_copy_and_a_bill_only_grows() -> None:
    behind = desk(queries=3)
    model = behind.oracle()
    model.labels(X)
    model.counts.forwards.zero_()
    assert behind.counts.forwards.tolist() == [1] * 10
    with pytest.raises(BadValue, match="forwards and backwards >= 0"):
        model.bill(-10)
    model.bill(20)
    with pytest.raises(QueriesSpent):
        model.bill(1)


def test_every_copy_of_a_row_is_billed_and_a_batch_beyond_the_budget_is_not_sent() -> None:
    behind = desk(queries=100)
    model = behind.oracle()
    with pytest.raises(QueriesSpent, match="100 queries an image"):
        model[torch.zeros(1000, dtype=torch.int64)].labels(X[:1].expand(1000, -1, -1, -1))
    assert behind.counts.totals() == (0, 0)
    model[torch.zeros(100, dtype=torch.int64)].labels(X[:1].expand(100, -1, -1, -1))
    with pytest.raises(QueriesSpent):
        model[torch.tensor([0])].labels(X[:1])
    with pytest.raises(QueriesSpent):
        desk(queries_total=9).oracle().labels(X)
    with pytest.raises(ValueError, match="one for each row"):
        model[torch.tensor([1])].labels(X[:2])
    model.rows.fill_(0)  # its own copy, which says on whose behalf it asks, and who pays
    with pytest.raises(QueriesSpent):
        model.labels(X)


def test_the_loss_of_a_gradient_sees_no_graph_of_the_network() -> None:
    seen: list[Tensor] = []

    def looks(logits: Tensor) -> Tensor:
        seen.append(logits)
        return margin(logits, Y)

    desk("gradients").oracle().gradient(X, looks)
    assert seen[0].is_leaf


class Spy(TorchFunctionMode):
    """Sees what every operation is handed, and so the weights of whatever computes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += [a for a in args if isinstance(a, nn.Parameter)]
        return func(*args, **(kwargs or {}))


class Watching(Tensor):
    """A tensor whose operations run through code of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def test_nobody_watches_the_network_compute() -> None:
    model = desk("gradients").oracle()
    asked: list[Callable[[], object]] = [lambda: model.gradient(X, lambda z: margin(z, Y))]
    for ask in asked:
        with pytest.raises(AccessRefused, match="they would see the network's weights"), Spy() as spy:
            ask()
        assert not spy.seen
        with (
            pytest.raises(AccessRefused, match="saved-tensor hooks"),
            torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        ):
            ask()
        hook = nn.modules.module.register_module_forward_hook(lambda *a: None)
        with pytest.raises(AccessRefused, match="module hooks"):
            ask()
        hook.remove()
    for x, rows in ((X.as_subclass(Watching), torch.arange(10)), (X, torch.arange(10).as_subclass(Watching))):
        with pytest.raises(AccessRefused, match="plain tensors"):
            model[rows].gradient(x, lambda z: margin(z, Y))

    def enters(logits: Tensor) -> Tensor:
        spy.__enter__()
        return margin(logits, Y)

    spy = Spy()
    with pytest.raises(AccessRefused):
        model.gradient(X, enters)
    spy.__exit__(None, None, None)
    assert not spy.seen


@pytest.mark.parametrize("cheat", [
    lambda m, x: x.fill_(2.0), lambda m, x: x[:0], lambda m, x: x.flip(0), lambda m, x: x * float("nan"),
    lambda m, x: x.half(),
])  # fmt: skip
def test_pictures_that_are_none_or_another_images_break_nothing(cheat: Callable[[Oracle, Tensor], Tensor]) -> None:
    split, clean = labelled(linear()), judged(idle)
    before = split.images(split.ids).clone()

    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        y.fill_(0)
        return cheat(model, x)

    try:
        record = judged(attack)
    except ValueError as error:
        assert "expected pictures of shape" in str(error)
    else:
        assert torch.equal(record.columns["robust"], clean.columns["robust"])
    assert torch.equal(split.images(split.ids), before)


def test_the_budget_that_is_judged_by_is_not_the_one_handed_out() -> None:
    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        object.__setattr__(budget, "eps", 1.0)
        return x.flip(1, 2, 3)

    assert torch.equal(judged(attack).columns["robust"], judged(idle).columns["robust"])
    assert EPS.eps == 0.01


def networks() -> list[nn.Module]:
    """What no suite in the attack's own process can keep from it: every module that Python has."""
    return [one for one in gc.get_objects() if isinstance(one, nn.Module)]
