"""AutoAttack through us gives what pyautoattack gives when called directly, and leaves the process as it was."""

import random
import sys
from itertools import pairwise

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack import checks
from torch import Tensor, nn

from robustsuite.attacks.evasion.autoattack import STAGES, autoattack
from robustsuite.config.threats import L1, L2, Access, Ball, Linf
from robustsuite.errors import AccessRefused, BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle


def small_net(classes: int = 10, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, classes)
    return ready(nn.Sequential(*layers))


def examples(net: nn.Module, n: int = 12) -> tuple[Tensor, Tensor]:
    """Random pictures with the net's own answers as labels, but a wrong one for every fifth."""
    x = Rng.of(0, "pictures", torch.arange(n)).uniform(3, 8, 8)
    y = net(x).argmax(1)
    y[::5] = (y[::5] + 1) % 10
    return x, y


def oracle(net: nn.Module, n: int, access: Access = Access.WHITE_BOX) -> Oracle:
    return Oracle.over(net, access, Rng.of(0, "oracle", torch.arange(n)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's attacks with few steps, on both sides of a comparison."""
    build = pyautoattack.AutoAttack.__init__

    def fewer(self: object, *args: object, **kwargs: object) -> None:
        build(self, *args, **kwargs)
        for part, steps in (("apgd", 8), ("apgd_targeted", 4), ("fab", 3)):
            getattr(self, part).n_iter = steps
        self.square.n_queries = 30

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", fewer)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("budget", "name"), [(Linf(0.02), "Linf"), (L2(0.06), "L2"), (L1(0.4), "L1")], ids=["linf", "l2", "l1"]
)
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_same_pictures_as_the_package_called_directly(budget: Ball, name: str, version: str) -> None:
    net = small_net()
    x, y = examples(net)
    direct = pyautoattack.AutoAttack(net, norm=name, eps=budget.eps, seed=3, version=version)
    expected, labels = direct.run_standard_evaluation(x, y, batch_size=5)
    found = autoattack(oracle(net, 12), x, y, budget, rng=Rng.of(0, "a", torch.arange(12)), version=version, seed=3,
                       batch_size=5)  # fmt: skip
    assert torch.equal(found.x_adv, expected)
    assert torch.equal(found.columns["claimed"], labels != y)
    assert 0 < int(found.columns["claimed"].sum()) < 12
    assert budget.allows(x, found.x_adv).all()


@pytest.mark.usefixtures("quick")
def test_stages_shrink_from_clean_to_the_claim() -> None:
    net = small_net()
    x, y = examples(net)
    columns = autoattack(oracle(net, 12), x, y, Linf(0.02), rng=Rng.of(0, "a", torch.arange(12))).columns
    assert list(columns) == ["clean", "after_apgd_ce", "after_apgd_t", "after_fab_t", "after_square", "claimed"]
    assert torch.equal(columns["clean"], net(x).argmax(1) == y)
    for before, after in pairwise(list(columns.values())[:-1]):
        assert not (after & ~before).any()
    assert torch.equal(columns["claimed"], ~columns["after_square"])


def test_stages_after_the_last_break_hold_nobody() -> None:
    net = small_net()
    x, y = examples(net)
    columns = autoattack(oracle(net, 12), x, y, Linf(1.0), rng=Rng.of(0, "a", torch.arange(12))).columns
    assert columns["claimed"].all()
    assert not columns["after_square"].any()


@pytest.mark.usefixtures("quick")
def test_counts_every_image_asked() -> None:
    net = small_net()
    asked = []
    net.register_forward_hook(lambda _module, inputs, _output: asked.append(len(inputs[0])))
    x, y = examples(net)
    asked.clear()
    model = oracle(net, 12)
    autoattack(model, x, y, Linf(0.02), rng=Rng.of(0, "a", torch.arange(12)))
    assert model.counts.extra_forwards == sum(asked) > 0
    assert 0 < model.counts.extra_backwards < model.counts.extra_forwards


@pytest.mark.usefixtures("quick")
def test_the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_net()
    x, y = examples(net)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    monkeypatch.setitem(checks.funcs, "grad", 7)
    trace = sys.gettrace()

    def tracer(*_: object) -> None:
        return None

    sys.settrace(tracer)
    try:
        autoattack(oracle(net, 12), x, y, Linf(0.02), rng=Rng.of(0, "a", torch.arange(12)))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(trace)
    assert checks.funcs["grad"] == 7
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.usefixtures("quick")
def test_no_other_state_of_the_package_is_read_than_the_seed() -> None:
    net = small_net()
    x, y = examples(net)
    rng = Rng.of(0, "a", torch.arange(12))
    first = autoattack(oracle(net, 12), x, y, Linf(0.02), rng=rng, seed=1).x_adv
    torch.manual_seed(99)
    assert torch.equal(autoattack(oracle(net, 12), x, y, Linf(0.02), rng=rng, seed=1).x_adv, first)
    assert not torch.equal(autoattack(oracle(net, 12), x, y, Linf(0.02), rng=rng, seed=2).x_adv, first)


@pytest.mark.usefixtures("quick")
def test_pictures_that_are_not_contiguous() -> None:
    net = small_net()
    x, y = examples(net)
    rng = Rng.of(0, "a", torch.arange(12))
    turned = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    same = autoattack(oracle(net, 12), turned, y, Linf(0.02), rng=rng)
    assert torch.equal(same.x_adv, autoattack(oracle(net, 12), x, y, Linf(0.02), rng=rng).x_adv)


@pytest.mark.usefixtures("quick")
def test_five_classes() -> None:
    net = small_net(classes=5)
    x = Rng.of(0, "pictures", torch.arange(6)).uniform(3, 8, 8)
    found = autoattack(oracle(net, 6), x, net(x).argmax(1), Linf(0.02), rng=Rng.of(0, "a", torch.arange(6)))
    assert found.x_adv.shape == x.shape


def test_refusals() -> None:
    net = small_net(classes=3)
    x = Rng.of(0, "pictures", torch.arange(2)).uniform(3, 8, 8)
    y, rng = net(x).argmax(1), Rng.of(0, "a", torch.arange(2))
    with pytest.raises(Unsupported, match="at least 4 classes"):
        autoattack(oracle(net, 2), x, y, Linf(0.1), rng=rng)
    with pytest.raises(BadValue, match="AutoAttack version"):
        autoattack(oracle(net, 2), x, y, Linf(0.1), rng=rng, version="custom")
    with pytest.raises(AccessRefused):
        autoattack(oracle(net, 2, Access.SCORES | Access.LABELS), x, y, Linf(0.1), rng=rng)


def test_no_examples() -> None:
    found = autoattack(oracle(small_net(), 0), torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), Linf(0.1),
                       rng=Rng.of(0, "a", torch.arange(0)))  # fmt: skip
    assert found.x_adv.shape == (0, 3, 8, 8)
    assert all(len(column) == 0 for column in found.columns.values())
    assert set(STAGES) == {"standard", "plus", "rand"}


class Noisy(nn.Module):
    """Adds noise from the streams it is handed before each call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rng = net, Rng.of(0, "none", torch.arange(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.05 * self.rng.normal(*x.shape[1:]))


@pytest.mark.usefixtures("quick")
def test_a_random_network_is_handed_fresh_streams_for_every_batch() -> None:
    net = Noisy(small_net())
    x, y = examples(net.net)
    rng = Rng.of(0, "a", torch.arange(12))
    found = autoattack(oracle(net, 12), x, y, Linf(0.05), rng=rng, version="rand", batch_size=5)
    again = autoattack(oracle(net, 12), x, y, Linf(0.05), rng=rng, version="rand", batch_size=5)
    assert torch.equal(found.x_adv, again.x_adv)
    metered = oracle(net, 12).metered()
    assert not torch.equal(metered(x), metered(x))
    for mode in (True, False):
        net.train(mode)
        metered.train(not mode)
        assert net.training is mode
