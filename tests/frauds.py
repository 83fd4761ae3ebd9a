"""Defenses that are none: each looks robust to somebody who does not check. Made over an honest network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.serve.models import ready

Map = Callable[[Tensor], Tensor]


@cache
def honest(adversarial: bool = False) -> nn.Module:
    """A small network with batch norm on the digits, plainly or adversarially trained (8 epochs, PGD-3 at 0.1)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 10),
        )  # fmt: skip
        train = digits().split("train")
        x, y = train.images(torch.arange(len(train))), train.y
        steps = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(64):
                seen = attacked(net, x[rows], y[rows]) if adversarial else x[rows]
                steps.zero_grad()
                functional.cross_entropy(net(seen), y[rows]).backward()
                steps.step()
    return ready(net)


def attacked(net: nn.Module, x: Tensor, y: Tensor, eps: float = 0.1) -> Tensor:
    """Three steps of PGD, for training."""
    at = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(3):
        at.requires_grad_()
        (grad,) = torch.autograd.grad(functional.cross_entropy(net(at), y), at)
        at = (x + (at.detach() + eps / 2 * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return at


class Fraud(nn.Module):
    """after(net(before(x)))."""

    def __init__(
        self, after: Callable[[Tensor], Tensor] = lambda z: z, before: Callable[[Tensor], Tensor] = lambda x: x
    ):
        super().__init__()
        self.net, self.after, self.before = copy.deepcopy(honest()), after, before

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def straight(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f forwards, the identity backwards."""
    return lambda v: v + (f(v) - v).detach()


class Resized(Fraud):
    """A new size each call, from torch's global stream, without saying so."""

    def forward(self, x: Tensor) -> Tensor:
        side = int(torch.randint(x.shape[-1] - 2, x.shape[-1] + 3, (1,)))
        small = functional.interpolate(x, size=side, mode="bilinear")
        return self.net(functional.interpolate(small, size=x.shape[-2:], mode="bilinear"))


class Calibrated(Fraud):
    """Rejects the least certain tenth of the first pictures that it is asked about: of the test pictures."""

    threshold: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        sure = z.softmax(1).amax(1)
        if self.threshold is None:
            self.threshold = float(sure.detach().quantile(0.1))
        return z.masked_fill((sure < self.threshold)[:, None], torch.nan)


class Drifting(Fraud):
    """Moves its threshold with every batch, in a buffer that it replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        self.level = 0.9 * self.level + 0.1 * z.detach().amax()
        return z


def training_mode() -> nn.Module:
    """Statistics of the batch it is asked in."""
    net = copy.deepcopy(honest())
    return net.train()


FRAUDS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "softmax temperature 1/1000": (lambda: Fraud(lambda z: 1000 * z), {"loss_vanishes", "logit_scale"}),
    "softmax temperature 1000": (lambda: Fraud(lambda z: z / 1000), {"logit_scale"}),
    "probabilities at temperature 1000": (
        lambda: Fraud(lambda z: (z / 1000).softmax(1)), {"probabilities_not_logits"}),
    "logits x 100": (lambda: Fraud(lambda z: 100 * z), {"loss_vanishes", "logit_scale"}),
    "quantised input": (
        lambda: Fraud(before=lambda x: (16 * x + 0.2).round() / 16), {"piecewise_constant", "zero_gradients"}),
    "quantised input, straight through": (
        lambda: Fraud(before=straight(lambda x: (4 * x + 0.2).round() / 4)), {"piecewise_constant"}),
    "shattered gradients": (
        lambda: Fraud(before=lambda x: x + 5e-5 * (1e5 * x + x.cos()).sin()), {"gradient_mismatch"}),
    "random resize": (Resized, {"randomised"}),
    "batch norm in training mode": (training_mode, {"training_mode", "batch_dependent", "stateful"}),
    "logits rounded to one decimal": (
        lambda: Fraud(lambda z: (10 * z).round() / 10), {"rounded_logits", "zero_gradients"}),
    "rounded logits, straight through": (lambda: Fraud(straight(lambda z: (10 * z).round() / 10)), {"rounded_logits"}),
    "detached forward": (lambda: Fraud(lambda z: z.detach()), {"zero_gradients"}),
    "pixels frozen at the bounds": (  # what a clamp does from torch 2.14 on
        lambda: Fraud(before=lambda x: x.where((x > 0) & (x < 1), x.detach())), {"zero_gradients"}),
    "depends on the batch": (lambda: Fraud(lambda z: z - 0.5 * z.mean(0)), {"batch_dependent"}),
    "threshold from test data": (Calibrated, {"stateful"}),
    "threshold that drifts": (Drifting, {"stateful"}),
}  # fmt: skip
"""By name: how it is made, and the flags that must be raised."""
