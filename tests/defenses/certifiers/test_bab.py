"""Branch and bound: against exact answers of tiny networks, auto-LiRPA's bounds, attacks, and itself."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from robustsuite.config.threats import L2, Access, Linf, Threat
from robustsuite.defenses.certifiers.bab import bab, outcomes
from robustsuite.defenses.certifiers.lirpa import margin_bounds
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.verification.branching import Limits
from robustsuite.methods.verification.narrowing import narrowed
from robustsuite.methods.verification.pieces import ReluNet
from robustsuite.methods.verification.pieces import cut as cut_at
from robustsuite.methods.verification.region import ball_region, other_class
from robustsuite.methods.verification.relaxed import Domains, bounded, relu_layers, tuned, undivided
from robustsuite.scenarios import certification
from robustsuite.serve.data import Split
from robustsuite.serve.models import Normalised
from tests.defenses.certifiers.bounded import CASES, MEAN, STD, pictures
from tests.toys import ready, system

LIMITS = Limits(nodes=1000, steps=10)


def tiny(hidden: int = 8) -> nn.Module:
    """Pictures (1, 2, 2), two ReLU layers of eight, three classes; float64."""
    torch.manual_seed(4)
    layers = [nn.Flatten(), nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)]
    net = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
        net[-1].bias -= net(torch.rand(64, 1, 2, 2, generator=torch.Generator().manual_seed(7)).double()).mean(0)
    return net


def exact_margin(net: nn.Module, x: Tensor, y: int, eps: float) -> float:
    """The lowest z_y - z_j in the ball, by mixed-integer programming: a binary variable says whether a ReLU is on."""
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in net if isinstance(m, nn.Linear)]
    low, high = (x.flatten().numpy() - eps).clip(0), (x.flatten().numpy() + eps).clip(max=1)
    n = len(low) + 2 * sum(len(bias) for _, bias in layers[:-1])
    lows, highs, whole = np.zeros(n), np.ones(n), np.zeros(n)
    lows[: len(low)], highs[: len(low)] = low, high
    rows, most, before, at = [], [], np.arange(len(low)), len(low)
    for weight, bias in layers[:-1]:
        middle, reach = weight @ (low + high) / 2 + bias, np.abs(weight) @ (high - low) / 2
        under, over = middle - reach - 1, middle + reach + 1
        k = len(bias)
        out, on = np.arange(at, at + k), np.arange(at + k, at + 2 * k)
        for i in range(k):  # v >= h;  v <= h - under (1 - on);  v <= over on;  v >= 0
            row = np.zeros((3, n))
            row[0, before], row[0, out[i]] = weight[i], -1
            row[1, before], row[1, out[i]], row[1, on[i]] = -weight[i], 1, -under[i]
            row[2, out[i]], row[2, on[i]] = 1, -over[i]
            rows.append(row)
            most.append([-bias[i], bias[i] - under[i], 0])
        highs[out], whole[on] = np.maximum(over, 0), 1
        low, high, before, at = np.zeros(k), np.maximum(over, 0), out, at + 2 * k
    lowest = np.inf
    weight, bias = layers[-1]
    for j in set(range(len(bias))) - {y}:
        c = np.zeros(n)
        c[before] = weight[y] - weight[j]
        limits = LinearConstraint(np.concatenate(rows), ub=np.concatenate(most))
        found = milp(c, constraints=limits, bounds=Bounds(lows, highs), integrality=whole)
        lowest = min(lowest, float(found.fun + bias[y] - bias[j]))
    return lowest


def test_every_picture_of_a_tiny_network_ends_as_exact_enumeration_says() -> None:
    net = tiny()
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(5)).double()
    y = net(x).argmax(1)
    exact = [exact_margin(net, x[i], int(y[i]), 0.2) for i in range(len(x))]
    assert min(map(abs, exact)) > 1e-4  # else the test itself would be in doubt
    found = [o.status for o in outcomes(net, x, y, Linf(0.2), LIMITS)]
    assert found == ["verified" if margin > 0 else "falsified" for margin in exact]
    assert set(found) == {"verified", "falsified"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.05)], ids=str)
def test_undivided_and_untuned_it_is_crown(name: str, ball: Linf | L2) -> None:
    build, side = CASES[name]
    net = build()
    x, y = pictures(net, 2, side)
    theirs = margin_bounds(net, x, y, ball, method="crown")
    for i in range(2):
        region = ball_region(x[i : i + 1], ball.eps, ball.norm)
        rows = other_class(int(y[i]), 4, x).a[:, 0]
        cut = ReluNet(net, x[i : i + 1])
        layers = relu_layers(cut, region, 0, 64)
        own = bounded(cut, region, layers, undivided(layers, 3, rows), rows, len(layers)).bound
        torch.testing.assert_close(own, theirs[i], rtol=1e-3, atol=1e-3)


def test_halves_bound_their_own_points() -> None:
    net = CASES["mlp"][0]().double()
    x, y = (t[:1] for t in pictures(CASES["mlp"][0](), 1, 2))
    x = x.double()
    region, rows = ball_region(x, 0.3, "linf"), other_class(int(y), 4, x).a[:1, 0]
    cut = ReluNet(net, x)
    layers = relu_layers(cut, region, 5, 64)
    _, kept = tuned(cut, region, layers, undivided(layers, 1, rows), rows, 20)
    points = region.centre + region.reach * (torch.rand(4000, *x.shape[1:], dtype=x.dtype) * 2 - 1)
    reads = torch.cat([h[:, layer.unstable] for h, layer in zip(inputs(cut, points), layers, strict=True)], 1)
    outputs = (net(points) * rows).sum(1)
    neurons = kept.alpha.shape[1]
    assert neurons > 5
    for neuron in range(0, neurons, 3):
        for side in (1.0, -1.0):
            sign = torch.zeros_like(kept.sign)
            sign[0, neuron] = side
            found, after = tuned(cut, region, layers, Domains(kept.alpha, kept.beta, sign), rows, 5)
            inside = side * reads[:, neuron] >= 0
            assert found.bound[0] <= outputs[inside].min() if inside.any() else True
            assert (after.beta >= 0).all()
            assert ((after.alpha >= 0) & (after.alpha <= 1)).all()


@pytest.mark.parametrize("name", CASES)
def test_narrowed_bounds_hold_wherever_the_case_does(name: str) -> None:
    build, side = CASES[name]
    x, y = pictures(build(), 1, side)
    net, x = build().double(), x.double()
    region, rows = ball_region(x, 0.2, "linf"), other_class(int(y), 4, x).a[:, 0]
    cut = ReluNet(net, x)
    layers = relu_layers(cut, region, 5, 64)
    draws = torch.Generator().manual_seed(3)
    far = torch.rand(1000, *x.shape[1:], dtype=x.dtype, generator=draws) * 2 - 1
    points = region.centre + region.reach * torch.cat([far, far.sign()])
    with torch.no_grad():
        outputs = net(points) @ rows.T
    reads = inputs(cut, points)
    narrower = False
    for row, values in zip(rows, outputs.T, strict=True):
        number = values.quantile(0.02)[None]
        found = narrowed(cut, region, layers, row[None], number, 5, 64)
        assert found is not None  # points have such outputs
        for layer, before, read in zip(found, layers, reads, strict=True):
            there = read[values <= number]
            assert (there >= layer.low - 1e-9).all()
            assert (there <= layer.high + 1e-9).all()
            narrower = narrower or bool((layer.high - layer.low < 0.999 * (before.high - before.low)).any())
        lowest, _ = tuned(cut, region, layers, undivided(layers, 1, row[None]), row[None], 15)
        assert narrowed(cut, region, layers, row[None], lowest.bound - 0.01, 5, 64) is None
    assert narrower


def inputs(cut: ReluNet, x: Tensor) -> list[Tensor]:
    """What each ReLU reads at these points."""
    return [h.detach().flatten(1) for h in cut_at(cut.net, x, torch.relu).before[:-1]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_proven_shrinks_with_eps_and_what_breaks_grows(norm: str) -> None:
    net = CASES["mlp"][0]()
    x, y = pictures(net, 4, 2)
    before: list[str] = []
    every = []
    for eps in (0.02, 0.2, 1.0) if norm == "linf" else (0.1, 1.0, 3.0):
        found = outcomes(net, x, y, Linf(eps) if norm == "linf" else L2(eps), Limits(20, 3))
        now = [o.status for o in found]
        for was, status in zip(before, now, strict=False):
            assert not (was == "falsified" and status == "verified")
        for i, outcome in enumerate(found):
            if outcome.point is not None:
                ball = Linf(eps) if norm == "linf" else L2(eps)
                point = ball.project(x[i : i + 1], outcome.point)
                assert ball.allows(x[i : i + 1], point).all()
                assert net(point).argmax(1) != y[i]
        before = now
        every.append(now.count("verified") - now.count("falsified"))
    assert every[0] > every[1] > every[2]


def test_neither_a_few_nodes_nor_the_width_turn_a_verdict_around() -> None:
    net = tiny()
    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(6)).double()
    y = net(x).argmax(1)
    full = [o.status for o in outcomes(net, x, y, Linf(0.15), LIMITS)]
    for limits in (Limits(1, 0), Limits(1000, 10, width=3)):
        for status, few in zip(full, outcomes(net, x, y, Linf(0.15), limits), strict=True):
            assert few.status in (status, "unknown")
            assert few.nodes <= max(limits.nodes, 2)


def test_the_judge_sees_what_is_broken_and_what_stays_undecided() -> None:
    def lying(net: nn.Module, x: Tensor, y: Tensor, budget: Linf) -> certification.Certificates:
        found = bab(net, x, y, budget, nodes=20, steps=3)
        assert found.breaking is not None
        claimed = torch.where(found.breaking.isnan(), x, found.breaking)  # the picture itself breaks nothing
        return found._replace(breaking=claimed)

    net = CASES["mlp"][0]()
    x, y = pictures(net, 6, 2)
    split = Split.of(x, y)
    for certifier in (partial(bab, nodes=20, steps=3), lying):
        context: Any = SimpleNamespace(
            served=lambda: system(ready(net)), split=split, rng=Rng.of(0, "t", split.ids), width=8,
            threat=Threat("t", "certification", Access.WHITE_BOX, Linf(0.2)), attack=certifier,
            card=SimpleNamespace(name="bab"),
        )  # fmt: skip
        columns = certification.conclude(context, certification.play(context)).columns
        assert columns["robust"].any()
        assert columns["broken"].any()
        assert (columns["robust"].int() + columns["broken"].int() + columns["undecided"].int() == 1).all()


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2).flatten(1)


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x).flatten(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x if x.sum() > 1 else -x).flatten(1)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - x.mean(0, keepdim=True)).flatten(1)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = x - 0.5
        torch.relu_(h)
        return (h + 1).flatten(1)


BENT = [Pooled(), Squared(), Branching(), Mixing(), InPlace(), nn.Sequential(nn.Flatten(), nn.Tanh())]


@pytest.mark.parametrize("net", BENT)
def test_what_is_not_affine_between_relus_is_refused(net: nn.Module) -> None:
    x = torch.rand(2, 1, 2, 2)
    with pytest.raises(Unsupported, match="expected a network"):
        outcomes(net.eval(), x, net(x).argmax(1), Linf(0.001), Limits())


def test_refusals_are_sentences() -> None:
    net = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), MEAN, STD)
    x, y = pictures(net, 2, 2)
    with pytest.raises(BadValue, match="nodes >= 1"):
        bab(net, x, y, Linf(0.1), nodes=0)
    with pytest.raises(Unsupported, match="both float32"):
        bab(net, x.double(), y, Linf(0.1))
