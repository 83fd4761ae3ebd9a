"""Small streams for tests: a net with batch norm over 16 x 16 pictures, and cells of the scenario adaptation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.engine.runner import play
from robustsuite.scenarios.adaptation.asked import AdaptationSpec
from robustsuite.scenarios.adaptation.played import subjects
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.record import Record
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training, ready, weights_sha256
from robustsuite.serve.stages import applied

SPACE = InputSpace(3, 16, 16, 4)
N = 24


def net(seed: int = 0) -> nn.Module:
    """A convolution, batch norm with statistics of its own, and a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 4),
    )  # fmt: skip
    with torch.no_grad():
        for p in layers.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator))
        layers[1].running_mean.copy_(0.3 * torch.randn(6, generator=generator))
        layers[1].running_var.copy_(0.5 + torch.rand(6, generator=generator))
    return ready(layers)


def pictures(n: int = N, seed: int = 0) -> Tensor:
    """Pictures (n, 3, 16, 16) on the 8-bit grid."""
    x = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (x * 255).round() / 255


def dataset(n: int = N) -> Dataset:
    """A judged split, and one to learn from."""
    splits = {
        "test": Split.of(pictures(n), torch.arange(n) % 4),
        "train": Split.of(pictures(80, 1), torch.arange(80) % 4),
    }
    return Dataset("toy", SPACE, tuple("abcd"), splits)


def training() -> Training:
    """What a method that learns is handed."""
    return Training(dataset().split("train"), dataset().split("train"), 0)


def cell(
    defense: str = "none", given: dict[str, Any] | None = None, *, attack: str = "benign", seed: int = 0, n: int = N,
    corruptions: tuple[str, ...] = ("contrast", "pixelate"), shift: Any = None, **spec: Any,
) -> Cell:  # fmt: skip
    """One method on one stream."""
    shift = shift or {"imagenet_c": {"corruptions": list(corruptions)}}
    asked = {"scenario": "adaptation", "batch": 8, "shift": shift, "attacks": [attack], **spec}
    threat = AdaptationSpec.model_validate(asked).asked("t")
    model, data = net(), dataset(n)
    defenses = () if defense == "none" else (applied(defense, given or {}),)
    cycle = Lifecycle(Model("toy", model, SPACE, weights_sha256(model)), data, defenses, seed)
    about = subjects(data.split("test"), data, threat)
    return Cell("s", cycle, about, threat=threat, attack=card_of("attack", attack))


def played(*args: Any, **how: Any) -> Record:
    """The record of such a cell."""
    one = cell(*args, **how)
    return play(one, one.lifecycle.served())
