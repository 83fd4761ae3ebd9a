"""LGV and cSGLD: which weights are kept, by hand-made steps, when noise is added, and that a training is done once."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustsuite.app.api import run
from robustsuite.defenses.train import csgld as sampling
from robustsuite.defenses.train.csgld import csgld, langevin
from robustsuite.defenses.train.lgv import lgv
from robustsuite.errors import BadValue
from robustsuite.methods.snapshots import Snapshots
from robustsuite.reports.read.runs import read
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Training, as_it_is, load_model
from robustsuite.serve.stages import applied

N = 1024
X = torch.rand(N, 1, 3, 3, generator=torch.Generator().manual_seed(0))
TRAIN = Split.of(X, (X.flatten(1).mean(1) > 0.5).long())
DATA = load_data("digits")[0]


def small() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return net


def trained(fit: Any, seed: int = 0) -> Snapshots:
    found = fit(small(), Training(TRAIN, TRAIN.first(8), seed))
    assert isinstance(found, Snapshots)
    return found


def state(net: Snapshots, i: int) -> dict[str, torch.Tensor]:
    return {name: getattr(net, f"at_{name.replace('.', '/')}")[i] for name in net.names}


def test_lgv_is_sgd_at_a_constant_rate_and_keeps_four_weights_an_epoch() -> None:
    found = trained(lgv(as_it_is, epochs=2, augment=False))
    assert len(found) == 8
    net = small().train()
    steps = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    order = torch.Generator().manual_seed(0)
    for epoch in range(2):
        pictures = TRAIN.images(torch.arange(N))
        for i, rows in enumerate(torch.randperm(N, generator=order).split(256)):  # four batches, one a snapshot
            steps.zero_grad()
            functional.cross_entropy(net(pictures[rows]), TRAIN.y[rows]).backward()
            steps.step()
            for name, tensor in state(found, 4 * epoch + i).items():
                torch.testing.assert_close(tensor, net.state_dict()[name], msg=f"{epoch} {i} {name}")


def test_lgv_may_keep_one_weight_an_epoch_and_fewer_batches_than_snapshots_are_no_error() -> None:
    assert len(trained(lgv(as_it_is, epochs=3, snapshots=1))) == 3
    some = trained(lgv(as_it_is, epochs=2, snapshots=16))
    assert len(some) == 32


def test_csgld_keeps_the_last_epochs_of_each_cycle_with_noise_in_these_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas: list[float] = []
    monkeypatch.setattr(sampling, "langevin", lambda net, sigma, noise: sigmas.append(sigma))
    found = trained(csgld(as_it_is, cycles=2, epochs=4, samples=2, lr=0.1))
    assert len(found) == 4
    batches = N // 64
    rates = [0.05 * (1 + math.cos(math.pi * (2 + i / batches) / 4)) for i in range(2 * batches)]
    assert sigmas == pytest.approx([math.sqrt(2 * rate) / batches for rate in rates] * 2)
    weights = [state(found, i)["1.weight"] for i in range(4)]
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
    tracked = [int(state(found, i)["2.num_batches_tracked"]) for i in range(4)]
    assert tracked == [batches * epoch for epoch in (3, 4, 7, 8)]


def test_csgld_starts_from_fresh_weights_whatever_the_recipe_makes() -> None:
    def raises(net: nn.Module, training: Training) -> nn.Module:
        raise AssertionError("the recipe was asked")

    one, same = (trained(csgld(raises, cycles=1, epochs=2, samples=1, lr=0.1)) for _ in range(2))
    other = trained(csgld(raises, cycles=1, epochs=2, samples=1, lr=0.1), seed=1)
    assert all(torch.equal(state(one, 0)[name], state(same, 0)[name]) for name in one.names)
    assert not torch.equal(state(one, 0)["1.weight"], state(other, 0)["1.weight"])


def test_langevin_noise_has_the_deviation_it_is_given() -> None:
    net = nn.Linear(200, 100)
    before = net.weight.detach().clone()
    langevin(net, 0.3, torch.Generator().manual_seed(0))
    moved = (net.weight.detach() - before).flatten()
    assert float(moved.std()) == pytest.approx(0.3, rel=0.02)
    assert float(moved.mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("given", [{"epochs": 0}, {"snapshots": 0}, {"lr": 0.0}])
def test_lgv_refuses_what_is_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match="for lgv"):
        lgv(as_it_is, **given)


@pytest.mark.parametrize("given", [{"cycles": 0}, {"samples": 0}, {"epochs": 2}, {"lr": -1.0}])
def test_csgld_refuses_what_is_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match="for csgld"):
        csgld(as_it_is, **given)


@pytest.mark.parametrize("entry", [{"lgv": {"epochs": 1}}, {"csgld": {"cycles": 1, "epochs": 3, "lr": 0.05}}])
def test_a_training_is_done_once_and_read_back_bit_by_bit(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    name, given = next(iter(entry.items()))

    def made(told: list[str]) -> nn.Module:
        model = load_model("python:tests.nets:another", DATA.space)
        return Lifecycle(model, DATA, (applied(name, given),), tell=told.append).trained()

    first, second = list[str](), list[str]()
    one, two = made(first), made(second)
    assert first
    assert second == []
    assert one.state_dict().keys() == two.state_dict().keys()
    assert all(torch.equal(tensor, two.state_dict()[key]) for key, tensor in one.state_dict().items())
    x = DATA.split("test").images(torch.arange(4))
    assert torch.equal(one(x), two(x))


def test_an_adversary_owns_them_in_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    given = {"surrogates": "python:tests.nets:another", "transforms": ["mi", "di"], "steps": 10}
    sampled = given | {"training": {"lgv": {"epochs": 1, "augment": False}}}
    sweep = {
        "name": "owned", "models": ["python:tests.nets:linear"], "data": ["digits"],
        "threats": {"blind": {"scenario": "evasion", "access": ["aux_data"], "budget": {"linf": 0.3},
                              "attacks": [{"transfer": given}, {"transfer": sampled}]}},
    }  # fmt: skip
    done = run(sweep, out=tmp_path / "run", first=32)
    cells = [cell for cell in read([done.folder]).known.values() if cell["scenario"] == "evasion"]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    for cell in cells:
        columns = read([done.folder]).columns(cell["run_id"])
        assert not columns["queries"].any(), "the system is not asked"
        assert columns["robust"].mean() < 0.5 < columns["clean_ok"].mean()
        assert cell["record"].attack.family == ("transfer",)
    assert run(sweep, out=tmp_path / "run", first=32).computed == 0
