"""Ordered top-K attacks: the linear closed form, the judge's order, the head found by tracing, what cannot be done."""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.attacks.evasion import adversarial_distillation as distillation
from robustsuite.attacks.evasion.cw_k import cw_k, ordered_margins
from robustsuite.attacks.evasion.quadattack import quadattack
from robustsuite.config.goals import OrderedTopK
from robustsuite.config.registry import card_of, checked_parameters
from robustsuite.config.threats import L2, Access, Threat
from robustsuite.engine.sweep import read_sweep
from robustsuite.errors import BadData, BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import quadratic
from robustsuite.methods.head import linear_head
from robustsuite.scenarios import evasion
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Normalised, ready
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.system import System

ATTACKS: dict[str, Any] = {
    "quadattack": quadattack, "cw_k": cw_k,
    "adversarial_distillation_zero": distillation.adversarial_distillation_zero,
}  # fmt: skip
ANY = L2(float("inf"))


def seeded(net: nn.Module, scale: float = 0.4) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return ready(net)


def pooled(classes: int = 12) -> nn.Module:
    """Convolution, mean over places, one linear layer, behind a normalisation."""
    layers = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes)
    )
    return seeded(Normalised(layers, (0.5,) * 3, (0.25,) * 3))


def pictures(n: int, side: int = 8) -> Tensor:
    return 0.2 + 0.6 * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def tried(attack: Any, net: nn.Module, x: Tensor, targets: Tensor, **given: Any) -> tuple[Tensor, Oracle]:
    rng = Rng.of(0, "ordered", torch.arange(len(x)))
    model = Oracle.over(net, Access.WHITE_BOX, rng.fold("oracle"), width=64)
    y = net(x).argmax(1)
    return attack(model, x, y, ANY, targets=targets, rng=rng, **given), model


@pytest.mark.parametrize(("name", "scale", "within"), [("quadattack", 0.05, 1.1), ("cw_k", 0.4, 1.01)])
def test_one_target_on_a_linear_net_is_the_distance_to_its_region(name: str, scale: float, within: float) -> None:
    # QuadAttacK aims a margin past the boundary and eases its weight on the way back, so it ends a little further out.
    net = seeded(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), scale)
    x = pictures(8)
    y = net(x).argmax(1)
    targets = OrderedTopK(1).targets(y, 5, Rng.of(0, "t", torch.arange(8)))
    x_adv, _ = tried(ATTACKS[name], net, x, targets, searches=9, iterations=100, lr=2e-3)
    head = net[1]  # type: ignore[index]
    to, gram = quadratic.order(targets, 5), quadratic.gram(head.weight)
    zero = torch.zeros(8, 5, dtype=torch.float64)
    s = quadratic.combined(quadratic.multipliers(net(x), to, gram, zero, margin=0.0), to)
    nearest = (s @ head.weight.double()).norm(dim=1)
    length = (x_adv - x).flatten(1).double().norm(dim=1)
    assert bool((OrderedTopK(1).margin(net(x_adv), targets) > 0).all())
    assert bool((length >= nearest * (1 - 1e-5)).all())
    assert float((length / nearest).mean()) < within


def test_quadattack_s_excess_on_a_linear_net_is_mostly_sideways() -> None:
    """What its card says: AdamW's steps go by signs; what it finds stands off the normal more than beyond the edge."""
    net, x = seeded(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), 0.036), pictures(16, 16)
    targets = OrderedTopK(1).targets(net(x).argmax(1), 10, Rng.of(0, "t", torch.arange(16)))
    x_adv, _ = tried(quadattack, net, x, targets, searches=9)
    weight, to = net[1].weight.double(), quadratic.order(targets, 10)  # type: ignore[index]
    l = quadratic.multipliers(net(x), to, quadratic.gram(weight), torch.zeros(16, 10).double(), margin=0.0)
    normal = quadratic.combined(l, to) @ weight
    least, delta = normal.norm(dim=1), (x_adv - x).flatten(1).double()
    along = (delta * normal).sum(1) / least
    assert 1.0 <= float((delta.norm(dim=1) / least).mean()) < 1.06
    assert 1.0 <= float((along / least).mean()) < 1.025


@pytest.mark.parametrize("name", ATTACKS)
def test_the_judge_decides_the_exact_order(name: str) -> None:
    net, x = pooled(), pictures(8)
    with torch.no_grad():
        split = Split.of(x, net(x).argmax(1))
    goal = OrderedTopK(3)
    threat = Threat("t", "evasion", Access.WHITE_BOX, ANY, goal=goal)
    rng = Rng.of(0, "judge", split.ids)
    attack = partial(ATTACKS[name], iterations=60, lr=0.01)
    kept: list[tuple[Tensor, Tensor]] = []

    def spied(model: Oracle, x: Tensor, y: Tensor, budget: Any, **handed: Any) -> Tensor:
        kept.append((attack(model, x, y, budget, **handed), handed["targets"]))
        return kept[-1][0]

    system = System(net, InputSpace(3, 8, 8, 12))
    columns = evasion.judged(system, spied, split, threat, rng, width=64, card=card_of("attack", name)).columns
    (x_adv, targets) = kept[0]
    listed = net(x_adv).topk(3, 1).indices
    exact = (listed == targets).all(1)
    assert torch.equal(columns["fooled"], exact)
    assert int(exact.sum()) > 0
    lengths = (x_adv - x).flatten(1).norm(dim=1)
    assert torch.allclose(columns["l2"].float(), lengths, atol=1e-5)


def test_the_loss_is_the_squared_distance_and_its_gradient_that_of_the_features() -> None:
    net, x = pooled(), pictures(4)
    body, head = net.net[:4], net.net[4]  # type: ignore[index]
    targets = torch.tensor([[3, 1], [0, 5], [7, 2], [4, 9]])
    leaf = x.clone().requires_grad_()
    features = body((leaf - 0.5) / 0.25)
    to, gram = quadratic.order(targets, 12), quadratic.gram(head.weight)
    zero = torch.zeros(4, 12, dtype=torch.float64)
    multipliers = quadratic.multipliers(head(features), to, gram, zero)
    nearest = (features.double() + quadratic.combined(multipliers, to) @ head.weight.double()).detach()
    (expected,) = torch.autograd.grad((features - nearest).square().sum(), leaf)
    s = quadratic.combined(multipliers, to)
    (grad,) = torch.autograd.grad(-2 * (s * net(leaf := x.clone().requires_grad_())).sum(), leaf)
    assert torch.allclose(grad.double(), expected.double(), rtol=1e-4, atol=1e-6)


def test_ordered_margins_is_its_formula() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(i))[:4] for i in range(6)])
    value, _ = ordered_margins(logits, targets, logits[:, :0])
    for row, listed, got in zip(logits, targets.tolist(), value, strict=True):
        total = 0.0
        for i in range(1, 5):
            highest_after = max(float(row[j]) for j in range(9) if j not in listed[:i])
            total += max(0.0, highest_after - min(float(row[t]) for t in listed[:i]))
        assert float(got) == pytest.approx(total / 4, abs=1e-6)


def test_more_targets_than_features_allow_keeps_finite_pictures_in_the_box() -> None:
    net = seeded(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 30)))
    x = pictures(6)
    targets = OrderedTopK(12).targets(net(x).argmax(1), 30, Rng.of(0, "t", torch.arange(6)))
    x_adv, _ = tried(quadattack, net, x, targets, iterations=12)
    assert not bool((OrderedTopK(12).margin(net(x_adv), targets) > 0).any())
    assert bool(torch.isfinite(x_adv).all())
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    before, after = (OrderedTopK(12).margin(net(at), targets) for at in (x, x_adv))
    assert bool((after >= before - 0.05).all())


def test_counts_what_it_asks() -> None:
    net, x = pooled(), pictures(8)
    _, model = tried(quadattack, net, x, torch.tensor([[0, 1]]).expand(8, 2), searches=2, iterations=7)
    assert model.counts.totals() == (8 * 14 + 1, 8 * 14)


class Head(nn.Module):
    """A body with a head given as a function of (features (N, 6, 4, 4), weight (5, 6))."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 5), head
        self.weight, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x), self.weight, self.bias)  # type: ignore[no-any-return]


TAKEN = {
    "mean, then fc": lambda f, w, b: functional.linear(f.mean((2, 3)), w, b),
    "without a bias": lambda f, w, b: f.mean((2, 3)) @ w.T,
    "matrix product plus bias": lambda f, w, b: f.mean((2, 3)) @ w.T + b,
    "1x1 convolution, then mean": lambda f, w, b: functional.conv2d(f, w[:, :, None, None], b).mean((2, 3)),
    "pooled, 1x1 convolution": lambda f, w, b: functional.conv2d(
        functional.adaptive_avg_pool2d(f, 1), w[:, :, None, None], b
    ).flatten(1),
}  # fmt: skip
REFUSED = {
    "softmax": (lambda f, w, b: functional.linear(f.mean((2, 3)), w, b).softmax(1), "Softmax"),
    "activation, then mean": (lambda f, w, b: functional.conv2d(f, w[:, :, None, None], b).relu().mean((2, 3)), "Relu"),
    "ensemble": (lambda f, w, b: f.mean((2, 3)) @ w.T + f.amax((2, 3)) @ w.T, "Add"),
    "cosine": (
        lambda f, w, b: functional.linear(functional.normalize(f.mean((2, 3))), functional.normalize(w)), "cosine",
    ),
    "votes": (lambda f, w, b: functional.one_hot(f.mean((2, 3))[:, :5].argmax(1), 5).float(), "no gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_linear_head_is_found(name: str) -> None:
    net = ready(Head(TAKEN[name]))
    weight = linear_head(net, pictures(1), Rng.of(0, "t", torch.arange(1)))
    assert torch.equal(weight, net.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_end_linearly_is_refused_with_the_reason(name: str) -> None:
    head, reason = REFUSED[name]
    with pytest.raises(Unsupported, match=reason):
        linear_head(ready(Head(head)), pictures(1), Rng.of(0, "t", torch.arange(1)))


def test_a_multi_layer_head_counts_by_its_last_layer_and_softmax_after_it_is_refused() -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5))
    net = ready(layers)
    rng = Rng.of(0, "t", torch.arange(1))
    assert torch.equal(linear_head(net, pictures(1), rng), layers[3].weight)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="Softmax"):
        tried(quadattack, ready(nn.Sequential(layers, nn.Softmax(1))), pictures(2), torch.tensor([[0], [1]]))


def test_distillation_reads_a_similarity_and_ranks_the_list_first(tmp_path: Path) -> None:
    alike = np.random.default_rng(0).uniform(-1, 1, (12, 12))
    np.save(tmp_path / "s.npy", alike)
    np.savetxt(tmp_path / "s.csv", alike, delimiter=",")
    targets = torch.tensor([[4, 2, 9], [1, 0, 3]])
    for file in ("s.npy", "s.csv"):
        values = distillation.wanted(targets, 12, distillation.read_similarity(tmp_path / file))
        assert torch.equal(values.topk(3, 1).indices, targets)
        assert float(values[0, 7]) == pytest.approx(alike[[4, 2, 9], 7].mean(), abs=1e-5)
        assert values[1, [1, 0, 3]].tolist() == pytest.approx([10.0, 9.7, 9.4])
    net, x = pooled(), pictures(8)
    lists = targets[:1].expand(8, 3)
    attack, twin = distillation.adversarial_distillation, distillation.adversarial_distillation_zero
    np.save(tmp_path / "zero.npy", np.zeros((12, 12)))
    with_zeros, _ = tried(attack, net, x, lists, similarity=str(tmp_path / "zero.npy"), iterations=20)
    assert torch.equal(with_zeros, tried(twin, net, x, lists, iterations=20)[0])
    with_file, _ = tried(attack, net, x, lists, similarity=str(tmp_path / "s.npy"), iterations=20)
    assert not torch.equal(with_file, with_zeros)


def test_distillation_without_a_fitting_similarity_says_so(tmp_path: Path) -> None:
    net, x, lists = pooled(), pictures(2), torch.tensor([[0, 1], [2, 3]])
    attack = distillation.adversarial_distillation
    with pytest.raises(BadValue, match="adversarial_distillation_zero"):
        tried(attack, net, x, lists)
    np.save(tmp_path / "small.npy", np.eye(5))
    with pytest.raises(BadData, match="12, 12"):
        tried(attack, net, x, lists, similarity=str(tmp_path / "small.npy"))
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    with pytest.raises(BadData, match="expected numbers"):
        tried(attack, net, x, lists, similarity=str(tmp_path / "words.csv"))


@pytest.mark.parametrize("given", [{"searches": 0}, {"iterations": 0}, {"lr": 0.0}, {"upper": -1.0}])
def test_parameters_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match="searches"):
        tried(cw_k, pooled(), pictures(2), torch.tensor([[0], [1]]), **given)


def test_the_full_size_sweep_asks_for_every_k_at_every_budget() -> None:
    sweep = read_sweep(Path(str(files("robustsuite.benchmarks.sweeps") / "ordered_topk.yaml")))
    asked = {
        (str(spec.threat(name).goal), *spec.attacks[0]["quadattack"].values()) for name, spec in sweep.threats.items()
    }
    budgets = [(searches, iterations) for searches in (1, 9) for iterations in (30, 60)]
    assert asked == {(f"ordered_topk(k={k})", *budget) for k in (1, 5, 10, 15, 20) for budget in budgets}
    assert len(sweep.seeds) == 5
    for spec in sweep.threats.values():
        for entry in spec.attacks:
            ((name, given),) = entry.items()
            checked_parameters(card_of("attack", name), given)
