"""Attacks that cheat, each stopped or named: by what an oracle is, by what is put back, or by the replay apart."""

from __future__ import annotations

import builtins
import gc
import re
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Linf, Threat, parse_access
from robustsuite.errors import AccessRefused, BadValue, QueriesSpent, Unsupported
from robustsuite.integrity.tampering import Tampered
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.record import Record
from robustsuite.serve import judge
from robustsuite.serve.judge import Judge
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
    lambda x: x.fill_(2.0), lambda x: x.flip(0), lambda x: x * float("nan"), lambda x: x.double(),
])  # fmt: skip
def test_pictures_that_are_none_or_another_images_break_nothing(cheat: Callable[[Tensor], Tensor]) -> None:
    split = labelled(linear())
    before = split.images(split.ids).clone()

    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        y.fill_(0)
        return cheat(x)

    assert torch.equal(judged(attack).columns["robust"], judged(idle).columns["robust"])
    assert torch.equal(split.images(split.ids), before)


def test_fewer_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pictures of shape"):
        judged(lambda model, x, y, budget, rng: x[:1])


def test_the_budget_that_is_judged_by_is_not_the_one_handed_out() -> None:
    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        object.__setattr__(budget, "eps", 1.0)
        return x.flip(1, 2, 3)

    assert torch.equal(judged(attack).columns["robust"], judged(idle).columns["robust"])
    assert EPS.eps == 0.01


def networks() -> list[nn.Module]:
    """What no suite in the attack's own process can keep from it: every module that Python has."""
    return [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]


def served() -> nn.Module:
    """The network under attack, as anybody in its process finds it."""
    return next(one for one in networks() if getattr(one, "prey", False))


def prey() -> nn.Module:
    for earlier in networks():
        vars(earlier).pop("prey", None)
    net = linear()
    net.prey = True
    net.register_buffer("seen", torch.zeros(1))
    return net


def confused(*args: Any, **kwargs: Any) -> Tensor:
    """What a cheat would have everybody answer."""
    return torch.zeros(16, 3)


def patched(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def reweigh() -> None:
    with torch.no_grad():
        served()[1].weight.mul_(-1)


def around_the_counter() -> None:
    served()[1].weight.data.mul_(-1)  # which autograd's version counters do not see


def with_inputs() -> None:
    found = [one for one in gc.get_objects() if type(one).__name__ == "AttackContext"]
    for context in found:
        context.x.fill_(0.5)


CHEATS: dict[str, Callable[[], object]] = {
    "the network.forward": lambda: setattr(served(), "forward", confused),
    "1.forward": lambda: setattr(served()[1], "forward", confused),
    "Linear.forward": patched(nn.Linear, "forward", confused),
    "Sequential.__call__": patched(nn.Sequential, "__call__", confused),
    "1.weight": lambda: setattr(served()[1], "weight", nn.Parameter(torch.zeros(3, 16))),
    "the network.1": lambda: setattr(served(), "1", nn.Linear(16, 3)),
    "the class of the network": lambda: setattr(served(), "__class__", nn.Identity),
    "1.weight ": reweigh,
    "1.weight  ": around_the_counter,
    "the pictures in place": with_inputs,
    "Judge.__call__": patched(Judge, "__call__", confused),
    "Judge.__getattribute__": patched(Judge, "__getattribute__", object.__getattribute__),
    "Judge.read": lambda: setattr(Judge.read, "__code__", confused.__code__),
    "Linf.allows": patched(Linf, "allows", confused),
    "robustsuite.serve.judge.NEAR": patched(judge, "NEAR", 1e9),
    "robustsuite.serve.judge.len": patched(judge, "len", confused),
    "robustsuite.scenarios.evasion.JUDGED": patched(evasion, "JUDGED", frozenset()),
    "torch.where": patched(torch, "where", confused),
    "Tensor.__gt__": patched(Tensor, "__gt__", confused),
    "torch.nn.functional.linear": patched(nn.functional, "linear", confused),
    "builtins.sum": patched(builtins, "sum", confused),
    "numpy.array": patched(np, "array", confused),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the active torch function modes": lambda: Spy().__enter__(),
    "whether gradients are recorded": lambda: torch._C._set_grad_enabled(False),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "torch.nn.modules.module._global_forward_hooks": lambda: nn.modules.module.register_module_forward_hook(confused),
    "Python's profile function": lambda: sys.setprofile(lambda *a: None),
}


@pytest.mark.parametrize("name", CHEATS)
def test_what_an_attack_changed_is_named_and_put_back(name: str) -> None:
    net, clean = prey(), judged(idle).columns

    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        CHEATS[name]()
        return x

    words = f"the attack cheat to leave alone what it is judged by, got changes of {name}".strip()
    with pytest.raises(Tampered, match=re.escape(words)):
        judged(attack, net)
    again = judged(idle, net).columns
    assert all(torch.equal(again[column], clean[column]) for column in clean)


def test_what_peers_do_to_a_network_is_put_back_in_silence() -> None:
    net = prey()

    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        net = model.network()
        net.train().requires_grad_(True)
        net.register_forward_hook(lambda *a: None)
        net[1].weight.grad = torch.zeros(3, 16)
        net.seen.add_(1)  # as batch norm would
        return x

    judged(attack, net, Access.WHITE_BOX)
    assert not net.training
    assert not net[1].weight.requires_grad
    assert not net._forward_hooks
    assert float(net.seen) == 0


class Learning(nn.Module):
    """It changes with what it is asked, which is no attack's doing."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.asked = linear(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        with torch.no_grad():
            self.net[1].weight.add_(1e-6)
        return self.net(x)


def test_what_a_network_changes_by_itself_is_no_attacks_doing() -> None:
    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        model(x)
        return x

    judged(attack, Learning())

    def sets(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        served().threshold = 9
        return model(x) * 0 if len(x) < 0 else x

    net = prey()
    net.threshold = 1
    with pytest.raises(Tampered, match="threshold"):
        judged(sets, net)
    assert net.threshold == 1


def test_an_attack_that_raises_says_so_itself_and_everything_is_put_back() -> None:
    where = torch.where

    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        torch.where = confused  # type: ignore[assignment]
        raise Unsupported("not on this network")

    with pytest.raises(Unsupported, match="not on this network"):
        judged(attack)
    assert torch.where is where


def test_what_is_imported_meanwhile_is_no_change() -> None:
    def attack(model: Oracle, x: Tensor, y: Tensor, budget: Any, *, rng: Rng) -> Tensor:
        import torch._dynamo

        torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()
        return x

    judged(attack)
