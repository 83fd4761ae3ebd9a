"""Gaussian augmentation: the published schedule, the right noise, and a network that holds up under it."""

import pytest
import torch
from torch import nn

from robustsuite.defenses.train.gaussian_augmentation import gaussian_augmentation, noisy
from robustsuite.errors import BadValue
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is, weights_sha256
from robustsuite.serve.training import Recipe, fitted, one_cycle, thirds


def split_of(n: int, seed: int) -> Split:
    """A sharp pixel that noise drowns, and a faint picture-wide difference that it does not."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    sign = (2.0 * y - 1).view(-1, 1, 1, 1)
    x = 0.5 + 0.06 * sign + 0.05 * torch.randn(n, 1, 8, 8, generator=g)
    x[:, :, 0, :1] = 0.5 + 0.4 * sign[:, :, 0]
    return Split.of(x.clamp(0, 1), y)


def noisy_accuracy(net: nn.Module, split: Split, sigma: float) -> float:
    x = split.images(torch.arange(len(split)))
    x = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    return float((net(x).argmax(1) == split.y).float().mean())


def test_it_holds_up_under_noise() -> None:
    training = Training(split_of(512, 1), split_of(64, 2), seed=0)
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.normal_(net[1].weight, std=0.01, generator=g)
    with torch.no_grad():
        net[1].weight[:, 0] = torch.tensor([-30.0, 30.0])  # leans on the sharp pixel
    before = weights_sha256(net)
    fit = gaussian_augmentation(as_it_is, sigma=0.5, epochs=6, lr=0.3, augment=False)
    tuned, test = fit(net, training), split_of(400, 3)
    assert noisy_accuracy(tuned, test, 0.5) > noisy_accuracy(net, test, 0.5) + 0.05
    assert weights_sha256(net) == before


def test_the_recipe_is_fitted_first() -> None:
    training = Training(split_of(64, 1), split_of(64, 2), seed=0)

    def fit(net: nn.Module, training: Training) -> nn.Module:
        return fitted(net, training, Recipe(1, one_cycle(0.1, 1), batch=16))

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    alone, after = (gaussian_augmentation(f, epochs=1, augment=False)(net, training) for f in (as_it_is, fit))
    assert weights_sha256(alone) != weights_sha256(after)


def test_noise_has_the_standard_deviation_asked_for_and_is_not_clipped() -> None:
    x = torch.zeros(64, 3, 16, 16)
    z = noisy(0.25)(nn.Identity(), x, torch.zeros(64), torch.Generator().manual_seed(0), 0.0)
    assert float(z.std()) == pytest.approx(0.25, rel=0.02)
    assert float(z.min()) < -0.5


def test_thirds_are_the_published_schedule() -> None:
    rate = thirds(0.1, 90)
    assert [rate(e) for e in (0, 29.9, 30, 59, 60, 89)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_errors() -> None:
    with pytest.raises(BadValue, match="sigma"):
        gaussian_augmentation(as_it_is, sigma=0)
    with pytest.raises(BadValue, match="epochs"):
        gaussian_augmentation(as_it_is, epochs=0)
