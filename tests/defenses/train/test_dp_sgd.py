"""DP-SGD: each gradient is clipped by itself, noise is what it says, and what it spends is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustsuite.defenses.train.dp_sgd import clipped, dp_sgd
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.privacy import spent
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is


def net(seed: int = 0) -> nn.Module:
    """Two classes over 1 x 4 x 4 pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def train(n: int = 80) -> Split:
    """Bright pictures and dark ones."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    return Split.of((0.3 * torch.rand(n, 1, 4, 4, generator=g) + 0.6 * y.view(-1, 1, 1, 1)).clamp(0, 1), y)


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_each_example_s_gradient_is_cut_by_itself(clip: float) -> None:
    model, split = net(), train(6)
    x = split.images(torch.arange(6))
    found = clipped(model, x, split.y, clip)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(6):
        loss = functional.cross_entropy(model(x[i : i + 1]), split.y[i : i + 1])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        length = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        for (name, _), g in zip(model.named_parameters(), grads, strict=True):
            expected[name] += g * min(1.0, clip / float(length))
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    assert sum(float(g.square().sum()) for g in found.values()) ** 0.5 <= 6 * clip * (1 + 1e-5)


def test_it_learns_under_little_noise_nothing_under_much_and_says_what_it_spent() -> None:
    split, kept = train(), dict[str, object]()
    training = Training(split, split, 0, keep=lambda name, finding: kept.update({name: finding}))
    given = {"clip": 1.0, "epochs": 15, "lr": 0.1, "batch": 20, "augment": False}
    x = split.images(torch.arange(80))
    little, again = (dp_sgd(as_it_is, noise=0.1, **given)(net(), training) for _ in range(2))
    assert (little(x).argmax(1) == split.y).float().mean() > 0.95
    assert torch.equal(little(x), again(x))
    much = dp_sgd(as_it_is, noise=1000.0, **given)(net(), training)
    assert float(max(p.abs().max() for p in much.parameters())) > 10
    ((epsilon, delta, noise, clip, rate, steps),) = kept["dp_sgd"]["table"]["rows"]  # type: ignore[index]
    assert (delta, noise, clip, rate, steps) == (1e-5, 1000.0, 1.0, 0.25, 60)
    assert epsilon == spent(0.25, 1000.0, 60, 1e-5)


def test_what_mixes_examples_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(Unsupported, match="expected a network without batch norm"):
        dp_sgd(as_it_is)(model, Training(train(), train(), 0))
    with pytest.raises(BadValue, match="numbers above 0"):
        dp_sgd(as_it_is, noise=0.0)
