"""Adversarial fine-tuning: the published schedule, examples inside the ball, and robustness that is gained."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import parse_ball
from robustsuite.defenses.train.adversarial_finetuning import (
    adversarial_finetuning,
    half_cosine,
    slow_start_fast_decay,
)
from robustsuite.errors import BadValue, UnknownName
from robustsuite.methods.crafting import pgd_examples
from robustsuite.serve.data import Split
from robustsuite.serve.models import Normalised, Training, as_it_is, weights_sha256
from robustsuite.serve.training import Recipe, accuracy, fitted, one_cycle


def fragile_split(n: int, seed: int) -> Split:
    """One robust pixel (0.3 apart, noisy: 94 % right by itself) beside 35 that differ by 0.04 and are without noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    sign = (2.0 * y - 1).view(-1, 1, 1, 1)
    x = 0.5 + 0.02 * sign * torch.ones(n, 1, 6, 6) + 0.01 * torch.randn(n, 1, 6, 6, generator=g)
    x[:, :, 0, :1] = 0.5 + sign[:, :, 0] * 0.25 + 0.16 * torch.randn(n, 1, 1, generator=g)
    return Split.of(x.clamp(0, 1), y)


def pgd_accuracy(net: nn.Module, split: Split, eps: float) -> float:
    x, y = split.images(torch.arange(len(split))), split.y
    attack = pgd_examples("linf", eps, 20, 0.1, 0.0)
    x_adv = attack(net, x, y, torch.Generator().manual_seed(9), 0.0)
    net.eval()
    return float((net(x_adv).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def training() -> Training:
    return Training(fragile_split(512, 1), fragile_split(64, 2), seed=0)


@pytest.fixture(scope="module")
def natural(training: Training) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    net = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 2)), [0.5], [0.1])
    for p in net.parameters():
        nn.init.normal_(p, std=0.2, generator=g)
    return fitted(net, training, Recipe(15, one_cycle(0.2, 15), batch=32))


@pytest.mark.parametrize("schedule", ["ssfd", "epsilon"])
def test_fine_tuning_gains_robustness(natural: nn.Module, training: Training, schedule: str) -> None:
    before = weights_sha256(natural)
    fit = adversarial_finetuning(as_it_is, eps="0.06", epochs=10, lr=0.04, schedule=schedule, augment=False)
    tuned = fit(natural, training)
    test = fragile_split(400, 3)
    assert accuracy(natural, test) > 0.97
    assert pgd_accuracy(natural, test, 0.06) < 0.5
    assert pgd_accuracy(tuned, test, 0.06) > 0.75
    assert weights_sha256(natural) == before


def test_slow_start_fast_decay_is_the_published_schedule() -> None:
    rate = slow_start_fast_decay(0.01, 10)
    published = [1, 2, 3, 4, 5, 2.5, 1.25, 0.625, 0.3125, 0.15625]
    assert [rate(e) for e in range(10)] == pytest.approx([0.01 * p for p in published])
    assert [rate(e + 0.99) for e in range(10)] == pytest.approx([0.01 * p for p in published])
    assert [slow_start_fast_decay(0.01, 5)(e) for e in (0, 0.5, 2, 2.5, 4.5)] == pytest.approx(
        [0.01, 0.02, 0.05, 0.025, 0.0015625]
    )
    assert [slow_start_fast_decay(1.0, 20)(e) for e in range(0, 20, 2)] == pytest.approx(published)


def test_half_cosine() -> None:
    assert [half_cosine(2.0, 4)(e) for e in (0, 2, 4)] == pytest.approx([2, 1, 0])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.06), ("l2", 0.4)])
def test_examples_stay_in_the_ball_and_raise_the_loss(natural: nn.Module, norm: str, eps: float) -> None:
    split = fragile_split(64, 5)
    x, y = split.images(torch.arange(64)), split.y
    x_adv = pgd_examples(norm, eps, 7, 0.25, 0.0)(natural, x, y, torch.Generator().manual_seed(0), 0.0)
    natural.eval()
    assert parse_ball(norm, eps).allows(x, x_adv).all()
    before, after = (nn.functional.cross_entropy(natural(z), y) for z in (x, x_adv))
    assert after > before


def test_the_budget_ramps_to_its_full_size(natural: nn.Module) -> None:
    split = fragile_split(64, 5)
    x, y = split.images(torch.arange(64)), split.y

    def reach(epoch: float) -> float:
        x_adv: Tensor = pgd_examples("linf", 0.06, 7, 0.25, 4.0)(natural, x, y, torch.Generator().manual_seed(0), epoch)
        return float((x_adv - x).abs().max())

    assert reach(0) == 0
    assert [reach(1), reach(2), reach(4), reach(8)] == pytest.approx([0.015, 0.03, 0.06, 0.06], rel=1e-3)
    natural.eval()


def test_crafting_leaves_batch_norm_alone() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 2)).train()
    before = weights_sha256(net)
    split = fragile_split(8, 0)
    pgd_examples("linf", 0.1, 3, 0.25, 0.0)(net, split.images(torch.arange(8)), split.y, torch.Generator(), 0.0)
    assert weights_sha256(net) == before
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_errors() -> None:
    with pytest.raises(UnknownName, match="linf"):
        adversarial_finetuning(as_it_is, norm="linff")
    with pytest.raises(UnknownName, match="ssfd"):
        adversarial_finetuning(as_it_is, schedule="ssdf")
    with pytest.raises(BadValue, match="8/255"):
        adversarial_finetuning(as_it_is, eps="much")
    with pytest.raises(BadValue, match="steps"):
        adversarial_finetuning(as_it_is, steps=0)
