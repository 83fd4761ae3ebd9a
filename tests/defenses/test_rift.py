"""RiFT: criticality against a closed form, a search that sees val alone, and nothing moved but one module."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.app import api
from robustsuite.config.registry import DefenseCard
from robustsuite.config.threats import Linf
from robustsuite.defenses.harden.rift import Partly, criticality, inside, interpolated, pgd, rift, weights
from robustsuite.errors import BadValue, UnknownName, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.reports.read.artefacts import read_artefacts
from robustsuite.reports.sections.every.training_findings import artefact_section
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training, ready, weights_sha256
from robustsuite.serve.stages import Applied, applied
from robustsuite.serve.training import Recipe, accuracy, fitted

SPACE = InputSpace(3, 8, 8, 3)
BALL = Linf(4 / 255)
QUICK: dict[str, Any] = {"epochs": 2, "ascent_epochs": 2, "pictures": 64, "augment": False, "eps": 4 / 255}


def split_of(n: int = 96, seed: int = 1) -> Split:
    """Three classes by the brightest colour."""
    y = torch.arange(n) % 3
    x = 0.4 + 0.15 * torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(n), y] += 0.05
    return Split.of(x, y)


@cache
def trained() -> nn.Module:
    """Two convolutions with batch norm and a linear head, taught the colours."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, 2),
                               nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))  # fmt: skip
    split = split_of()
    return fitted(layers, Training(split, split, seed=0), Recipe(4, lambda epoch: 0.02, batch=16))


def net() -> nn.Module:
    """A copy of the trained one."""
    return ready(copy.deepcopy(trained()))


def training(**facts: Any) -> Training:
    return Training(**{"train": split_of(), "val": split_of(60, 2), "seed": 0, **facts})


def linear(rows: list[list[float]]) -> nn.Module:
    """z = W x over 1 x 2 x 2 pictures."""
    head = nn.Linear(4, len(rows), bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(rows))
    return ready(nn.Sequential(nn.Flatten(), head))


@pytest.mark.parametrize("weight_eps", [0.02, 0.1, 0.3])
def test_criticality_of_a_linear_layer_is_the_closed_form(weight_eps: float) -> None:
    """Two classes, one picture: the loss log(1 + e^m) rises most along (-x, x) / sqrt 2, by m -> m + sqrt 2 r |x|."""
    rows = [[0.5, -0.2, 0.1, 0.3], [0.1, 0.4, -0.3, 0.6]]
    x = torch.tensor([0.2, 0.9, 0.4, 0.7]).view(1, 1, 2, 2).repeat(5, 1, 1, 1)
    w, flat = torch.tensor(rows), x[0].flatten()
    m, reach = float((w[1] - w[0]) @ flat), math.sqrt(2) * weight_eps * float(w.norm()) * float(flat.norm())
    expected = math.log1p(math.exp(m + reach)) - math.log1p(math.exp(m))
    found = criticality(
        linear(rows), "1", x, torch.zeros(5, dtype=torch.int64), weight_eps=weight_eps, epochs=20, step=0.25
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_criticality_never_beats_the_ball_and_grows_with_it() -> None:
    x, y = split_of().images(torch.arange(96)), split_of().y
    base, before = net(), weights_sha256(net())
    found = [criticality(base, "3", x, y, weight_eps=e, epochs=5, step=0.25) for e in (1e-6, 0.05, 0.2)]
    assert 0 <= found[0] < 1e-3
    assert found[0] < found[1] < found[2]
    assert weights_sha256(base) == before
    assert criticality(base, "3", x, y, weight_eps=0.05, epochs=5, step=1e4) < found[2], "large steps stay in the ball"


def test_the_toy_is_neither_ignorant_nor_perfect() -> None:
    assert 0.5 < accuracy(net(), split_of(60, 2)) < 1


def test_projection_is_the_nearest_point_of_the_ball() -> None:
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    far = start + 5 * torch.ones(4, 3)
    at = inside(start, far, torch.tensor(0.7))
    assert float((at - start).norm()) == pytest.approx(0.7, rel=1e-6)
    assert torch.allclose((at - start) / 0.7, (far - start) / (far - start).norm())
    near = start + 0.01
    assert torch.equal(inside(start, near, torch.tensor(0.7)), near)


def test_only_the_chosen_module_moves() -> None:
    base, kept = net(), {}
    done = rift(base, training(keep=kept.__setitem__), lr=0.5, tolerance=1.0, **QUICK)
    finding = kept["rift"]
    chosen = finding["bars"]["marked"]
    assert finding["bars"]["names"] == weights(base) == ["0", "3", "7"]
    assert chosen == min(zip(finding["bars"]["values"], finding["bars"]["names"], strict=True))[1]
    for name, value in base.state_dict().items():
        moved = not torch.equal(value, done.state_dict()[name])
        assert moved == (name in (f"{chosen}.weight", f"{chosen}.bias")), name
    json.dumps(finding, allow_nan=False)


def test_a_module_may_be_named_in_full() -> None:
    base, kept = net(), {}
    done = rift(base, training(keep=kept.__setitem__), lr=0.5, tolerance=1.0, module="3", **QUICK)
    moved = [k for k, v in base.state_dict().items() if not torch.equal(v, done.state_dict()[k])]
    assert kept["rift"]["bars"]["marked"] == "3"
    assert moved == ["3.weight", "3.bias"]
    with pytest.raises(UnknownName):
        rift(net(), training(), module="1", **QUICK)


def test_a_frozen_network_stays_in_eval_mode_and_out_of_the_parameters() -> None:
    base = net()
    partly = Partly(base, "3")
    partly.train()
    assert not any(module.training for module in base.modules())
    assert sorted(partly.free()) == ["3.bias", "3.weight"]
    assert len(list(partly.parameters())) == 2
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(partly(x), base(x))


def test_the_search_takes_the_cleanest_of_what_keeps_robustness() -> None:
    base, val = net(), split_of(60, 2)
    before = weights_sha256(base)
    keys = Rng.of(0, "t", torch.arange(60))
    ruined = {"7.weight": torch.zeros(3, 24), "7.bias": torch.tensor([-1.0, 0.0, 0.0])}
    search, best = interpolated(base, ruined, val, BALL, keys, 0.0)
    assert [c.alpha for c in search] == [a / 10 for a in range(11)]
    assert best.robust >= search[0].robust
    assert not [c for c in search if c.robust >= search[0].robust and c.clean > best.clean]
    x = val.images(torch.arange(60))
    assert best.clean == float((base(x).argmax(1) == val.y).double().mean()), "the network holds the point taken"
    if best.alpha == 0:
        assert weights_sha256(base) == before


def test_better_weights_are_taken_and_worse_ones_are_not() -> None:
    val = split_of(60, 2)
    good = torch.zeros(3, 192)
    for colour in range(3):
        good[colour, 64 * colour : 64 * (colour + 1)] = 1.0

    def head(weight: Tensor) -> nn.Module:
        layer = nn.Linear(192, 3, bias=False)
        layer.weight.data.copy_(weight)
        return ready(nn.Sequential(nn.Flatten(), layer))

    keys = Rng.of(0, "t", torch.arange(60))
    poor = good.roll(1, 0)
    _, best = interpolated(head(poor), {"1.weight": good}, val, BALL, keys, 0.0)
    assert best.clean == 1.0
    assert best.alpha > 0.5
    _, best = interpolated(head(good), {"1.weight": poor}, val, BALL, keys, 0.0)
    assert best == (best.alpha, 1.0, best.robust)
    assert best.alpha < 0.5


def lifecycle(test: Split, val: Split, *defenses: Applied) -> Lifecycle:
    data = Dataset("colours", SPACE, ("r", "g", "b"), {"train": split_of(), "val": val, "test": test})
    return Lifecycle(Model("toy", net(), SPACE, weights_sha256(net())), data, defenses)


def test_the_test_split_is_never_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, val = split_of(48, 3), split_of(60, 2)
    scrambled = Split.of(honest.images(torch.arange(48)).flip(0), (honest.y + 1) % 3)
    other_val = replace(val, y=(val.y + 1) % 3, sha256="other")
    found = {}
    for name, (test, chosen_on) in {"a": (honest, val), "b": (scrambled, val), "c": (honest, other_val)}.items():
        monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / name))
        cycle = lifecycle(test, chosen_on, applied("rift", {**QUICK, "lr": 0.05}))
        found[name] = weights_sha256(cycle.trained()), cycle.findings["rift"]["table"]
    assert found["a"] == found["b"]
    assert found["a"][1] != found["c"][1]


def test_hardened_weights_and_findings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    calls = []

    def doubled(net: nn.Module, training: Training) -> nn.Module:
        calls.append(1)
        training.keep("chart", {"title": "twice", "n": len(training.val)})
        with torch.no_grad():
            net[7].weight.mul_(2)
        return net

    hard = Applied(DefenseCard("defense", "doubled", doubled, "harden"))
    cycles = [lifecycle(split_of(48, 3), split_of(60, 2), hard) for _ in range(2)]
    first, second = (weights_sha256(cycle.trained()) for cycle in cycles)
    assert len(calls) == 1
    assert first == second != weights_sha256(net())
    assert cycles[0].findings == cycles[1].findings == {"chart": {"title": "twice", "n": 60}}


def test_the_chart_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    sweep = {
        "name": "t", "models": ["python:tests.nets:linear"], "data": [{"digits": {"first": 16}}],
        "defenses": ["none", {"rift": {**QUICK, "epochs": 1}}],
        "threats": {"linf": {"scenario": "evasion", "budget": {"linf": "4/255"}, "attacks": [{"pgd": {"steps": 3}}]}},
    }  # fmt: skip
    run = api.run(sweep, out=tmp_path / "run")
    (kept,) = (tmp_path / "run" / "artefacts").glob("rift-*.json")
    assert json.loads(kept.read_text())["finding"]["bars"]["names"] == ["1"]
    text = (run.report(tmp_path / "report") / "report.md").read_text()
    assert "RiFT: robust criticality" in text
    assert list((tmp_path / "report" / "figures").glob("bars-rift-*.png"))


def test_pgd_stays_in_the_ball_and_raises_the_loss() -> None:
    base, split = net(), split_of()
    x, y = split.images(torch.arange(96)), split.y
    x_adv = pgd(base, x, y, BALL, Rng.of(0, "p", torch.arange(96)))
    assert bool(BALL.allows(x, x_adv).all())
    loss: Callable[[Tensor], float] = lambda at: float(nn.functional.cross_entropy(base(at), y))  # noqa: E731
    assert loss(x_adv) > loss(x)


@pytest.mark.parametrize("given", [{"epochs": 0}, {"weight_eps": 0.0}, {"tolerance": -0.1}, {"pictures": 0}])
def test_values_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        rift(net(), training(), **given)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(Unsupported, match="convolution"):
        weights(nn.Sequential(nn.Flatten(), nn.ReLU()))


def test_an_artefact_that_cannot_be_read_is_said_and_one_of_other_weights_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts" / "a.json").write_text("{")
    whole = {"name": "rift", "weights_sha256": "w", "finding": {"title": "chart", "bars": None}}
    (tmp_path / "artefacts" / "b.json").write_text(json.dumps(whole))
    found, _, skipped = read_artefacts([tmp_path])
    assert [(a.name, a.weights_sha256, a.finding.title) for a in found] == [("rift", "w", "chart")]
    (line,) = skipped
    assert line.startswith("artefacts/a.json: it: invalid json")
    assert artefact_section(found, {"w": ""}).lead
    assert "poisoned by badnets, seed" in artefact_section(found, {"w": "badnets"}).lead[0]
    assert not artefact_section(found, {"v": ""}).lead
