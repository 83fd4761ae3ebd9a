"""torchattacks' classes through the bridge: what they take, what they return, what they leave behind."""

import inspect
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion import torchattacks_bridge as bridge
from robustsuite.config.registry import checked_parameters
from robustsuite.config.threats import Access, Linf, parse_ball
from robustsuite.errors import BadValue, MissingPackage, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle

torchattacks = pytest.importorskip("torchattacks")

EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 3.0, "l0": 12}
CASES = [(name, norm) for name in bridge.NAMES for norm in getattr(bridge, name).card.norms]
N = 4


def small_net(channels: int = 3, classes: int = 10, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, classes)
    return ready(nn.Sequential(*layers))


def setting(net: nn.Module, channels: int = 3) -> tuple[Oracle, Tensor, Tensor, Rng]:
    x = Rng.of(0, "pictures", torch.arange(N)).uniform(channels, 8, 8)
    oracle = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", torch.arange(N)))
    return oracle, x, net(x).argmax(1), Rng.of(0, "attack", torch.arange(N))


def test_every_class_that_takes_a_model_is_here() -> None:
    theirs = set(torchattacks.__all__) - set(torchattacks.__wrapper__)
    assert set(bridge.NAMES) == theirs


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_runs_inside_the_budget_and_is_counted(name: str, norm: str) -> None:
    net = small_net()
    asked = []
    net.register_forward_hook(lambda _module, inputs, _output: asked.append(len(inputs[0])))
    model, x, y, rng = setting(net)
    asked.clear()
    ball = parse_ball(norm, EPS[norm])
    x_adv = getattr(bridge, name)(model, x, y, ball, rng=rng)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert ball.allows(x, x_adv).all()
    assert model.counts.totals()[0] == sum(asked)


@pytest.mark.parametrize("name", ["PGD", "APGD", "FAB", "Square", "DeepFool", "AutoAttack"])
def test_breaks_what_is_easy(name: str) -> None:
    net = small_net()
    model, x, y, rng = setting(net)
    plugin = getattr(bridge, name)
    ball = parse_ball(plugin.card.norms[0], {"linf": 0.1, "l2": 2.0}[plugin.card.norms[0]])
    assert (net(plugin(model, x, y, ball, rng=rng)).argmax(1) != y).all()


def test_pgd_is_the_package_s_own() -> None:
    net = small_net()
    model, x, y, rng = setting(net)
    expected = torchattacks.PGD(net, eps=4 / 255, alpha=0.01, steps=7, random_start=False)(x, y)
    got = bridge.PGD(model, x, y, Linf(4 / 255), rng=rng, alpha=0.01, steps=7, random_start=False)
    assert torch.equal(got, expected)
    assert model.counts.totals() == (7 * N + 1, 7 * N)  # one picture is asked for the number of classes


@pytest.mark.parametrize("name", ["PGD", "PGDRS", "SPSA", "Pixle", "Square"])
def test_random_numbers_come_from_the_streams_and_leave_no_trace(name: str) -> None:
    plugin, net = getattr(bridge, name), small_net()
    ball = parse_ball(plugin.card.norms[0], EPS[plugin.card.norms[0]])
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    model, x, y, rng = setting(net)
    first = plugin(model, x, y, ball, rng=rng)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(77)
    assert torch.equal(plugin(model, x, y, ball, rng=rng), first)
    assert not torch.equal(plugin(model, x, y, ball, rng=rng.fold("other")), first)


def test_a_card_shows_the_class_s_parameters_but_not_ours() -> None:
    card = bridge.PGD.card
    assert card.parameters == {"alpha": 2 / 255, "steps": 10, "random_start": True}
    assert card.paper == "arXiv:1706.06083"
    assert bridge.APGD.card.norms == ("linf", "l2")
    with pytest.raises(BadValue, match="did you mean 'steps'"):
        checked_parameters(card, {"step": 3})
    for name in bridge.NAMES:
        card = getattr(bridge, name).card
        assert not set(card.parameters) & set(bridge.OURS)
        assert card.name == f"torchattacks:{name}"
        assert "rng" in inspect.signature(card.function).parameters
        assert card.priced(10).forwards >= 0


def test_cost_is_an_upper_estimate_for_plain_attacks() -> None:
    for name in ("FGSM", "PGD", "EOTPGD", "TPGD", "VNIFGSM", "SINIFGSM", "PGDRS", "APGD", "SPSA"):
        model, x, y, rng = setting(small_net())
        card = getattr(bridge, name).card
        card.function(model, x, y, parse_ball(card.norms[0], 0.001), rng=rng)
        forwards, backwards = (total / N for total in model.counts.totals())
        cost = card.priced(10)
        assert forwards <= cost.forwards + 1 <= 6 * forwards + 6
        assert backwards <= cost.backwards


class Strided(torch.autograd.Function):
    """The identity, with a gradient laid out channels last."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)


class ChannelsLast(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Strided.apply(x))


@pytest.mark.parametrize("name", ["PGDL2", "SparseFool"])
def test_gradients_that_are_not_contiguous(name: str) -> None:
    net = ready(ChannelsLast(small_net()))
    model, x, y, rng = setting(net)
    plugin = getattr(bridge, name)
    ball = parse_ball(plugin.card.norms[0], EPS[plugin.card.norms[0]])
    with pytest.raises(RuntimeError, match="view size"):
        getattr(torchattacks, name)(net)(x, y)
    assert ball.allows(x, plugin(model, x, y, ball, rng=rng)).all()


def test_networks_the_package_cannot_take_are_refused_with_a_sentence() -> None:
    net = small_net(channels=1)
    model, x, y, rng = setting(net, channels=1)
    with pytest.raises(Unsupported, match=r"expected torchattacks\.TIFGSM to run, got RuntimeError"):
        bridge.TIFGSM(model, x, y, Linf(0.1), rng=rng)
    with pytest.raises(Unsupported, match="all pairs"):
        bridge.JSMA(model, torch.zeros(N, 3, 64, 64), y, parse_ball("l0", 10), rng=rng)
    with pytest.raises(BadValue, match="Pixle"):
        bridge.Pixle(model, x, y, parse_ball("l0", 10), rng=rng, pixel_mapping="sideways")


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "library", None)
    model, x, y, rng = setting(small_net())
    with pytest.raises(MissingPackage, match="pip install --no-deps torchattacks"):
        bridge.PGD(model, x, y, Linf(0.1), rng=rng)
    assert bridge._bridge("PGD").card.requires == "torchattacks"


def test_a_net_in_training_mode_stays_so_and_no_examples_are_fine() -> None:
    net = small_net()
    net.add_module("drop", nn.Dropout(0.5))
    net.drop.train()
    model, x, y, rng = setting(net)
    bridge.PGD(model, x, y, Linf(0.1), rng=rng)
    assert net.drop.training
    assert bridge.PGD(model, x[:0], y[:0], Linf(0.1), rng=rng[:0]).shape == (0, 3, 8, 8)
    assert bridge.JSMA(model, x[:0], y[:0], parse_ball("l0", 4), rng=rng[:0]).shape == (0, 3, 8, 8)
