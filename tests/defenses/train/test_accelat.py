"""AccelAT: the published rule by hand, and a training that is steered by it."""

from typing import Any

import pytest
import torch
from torch import nn

from robustsuite.defenses.train.accelat import accelat, rate_after, robust_accuracy
from robustsuite.errors import BadData, BadValue
from robustsuite.methods.crafting import pgd_examples
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is

RULE = {"factor": 0.5, "floor": 0.01, "window": 2, "quiet": 3, "least": 0.005}


def training_of(keep: Any = lambda name, finding: None) -> Training:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    x = 0.5 + 0.1 * (2.0 * y - 1).view(-1, 1, 1, 1) + 0.05 * torch.randn(64, 1, 4, 4, generator=g)
    split = Split.of(x.clamp(0, 1), y)
    return Training(split, split, seed=0, keep=keep)


@pytest.mark.parametrize(
    ("seen", "rate"),
    [
        ([], 1.0),
        ([0.1, 0.1, 0.1], 1.0),  # two means before the third: the rule wants more than the window
        ([0.1, 0.1, 0.1, 0.1], 0.5),
        ([0.1, 0.2, 0.3, 0.4], 1.0),
        ([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], 0.5),  # the mean of two still rises after the first stop
        ([0.1] * 6, 0.5),  # quiet for three epochs
        ([0.1] * 7, 0.25),
        ([0.1] * 100, 0.01),
    ],
)
def test_the_rate_falls_where_the_mean_stops_rising(seen: list[float], rate: float) -> None:
    assert rate_after(seen, 1.0, **RULE) == pytest.approx(rate)


def test_with_the_published_window_nothing_happens_for_six_epochs() -> None:
    published = {"factor": 0.8, "floor": 1e-6, "window": 5, "quiet": 5, "least": 0.005}
    assert rate_after([0.2] * 6, 1e-3, **published) == 1e-3
    assert rate_after([0.2] * 7, 1e-3, **published) == pytest.approx(0.8e-3)


def test_a_training_keeps_what_steered_it_and_leaves_the_network_in_eval_mode() -> None:
    found: dict[str, Any] = {}
    training = training_of(found.__setitem__)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    fit = accelat(as_it_is, eps=0.05, steps=2, epochs=6, lr=0.2, window=1, quiet=1, least=1.0, augment=False)
    tuned = fit(net, training)
    assert not tuned.training
    rows = found["accelat"]["table"]["rows"]
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row[2] for row in rows] == pytest.approx([0.2, 0.2, 0.2, 0.16, 0.128, 0.1024])  # no rise is one of 1
    perturb = pgd_examples("linf", 0.05, 2, 0.25)
    assert robust_accuracy(tuned, training.val, training, perturb) == rows[-1][1]


def test_errors() -> None:
    with pytest.raises(BadValue, match="factor"):
        accelat(as_it_is, factor=1.0)
    empty = Split.of(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BadData, match="val"):
        robust_accuracy(nn.Identity(), empty, training_of(), pgd_examples("linf", 0.1, 1, 0.25))
