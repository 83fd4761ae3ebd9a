"""Networks that tests name as python:tests.nets:..., made in no time."""

from functools import cache

import torch
from torch import nn

from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.maths.randomness import Rng


def linear(classes: int = 10) -> nn.Module:
    """Least squares on the digits' train split: nine of ten test pictures right, and every attack quick."""
    return nn.Sequential(nn.Flatten(), _head(classes))


def nine() -> nn.Module:
    """A class too few for the digits."""
    return linear(9)


def not_a_number() -> nn.Module:
    """A weight that training has lost, in a place that does not reach the blank picture's logits."""
    net = linear()
    net.register_buffer("spare", torch.tensor([float("nan")]))
    return net


def colours() -> nn.Module:
    """Two classes over RGB pictures of any size, by the colours of their quarters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))


@cache
def _targets(split: str) -> torch.Tensor:
    seen = digits().split(split)
    x = seen.images(torch.arange(len(seen))).flatten(1)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    found = torch.linalg.lstsq(ones.T @ ones + torch.eye(65), ones.T @ nn.functional.one_hot(seen.y).double()).solution
    # below that LAPACK differs from process to process, the sign of zero too, and so would the hash of the weights
    return found.round(decimals=9) + 0.0


def _head(classes: int, split: str = "train") -> nn.Linear:
    head = nn.Linear(64, classes)
    with torch.no_grad():
        head.weight.copy_(10 * _targets(split)[:64, :classes].T)
        head.bias.copy_(10 * _targets(split)[64, :classes])
    return head


def another() -> nn.Module:
    """The same kind from the val split: what an adversary may own."""
    return nn.Sequential(nn.Flatten(), _head(10, "val"))


class Boxed(nn.Module):
    """`linear` behind numpy: no gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.from_numpy(self.net(x.detach()).numpy())


class Voting(Boxed):
    """`linear` that names the class alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


class Noised(nn.Module):
    """A network behind Gaussian noise on the pixels, drawn from the streams it is handed."""

    rng: Rng | None = None

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rng = self.rng or Rng.of(0, "noised", torch.zeros(len(x), dtype=torch.int64))
        return self.net(x + self.sigma * rng.normal(*x.shape[1:]))  # type: ignore[no-any-return]


class WrongAtFirst(nn.Module):
    """Right where `linear` is, but for the first test picture."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()
        self.register_buffer("first", digits().split("test").images(torch.tensor([0])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)
        here = ((x - self.first).abs().flatten(1).amax(1) < 1e-3)[:, None]
        return torch.where(here, logits.roll(1, 1), logits)


def wrong_at_first() -> nn.Module:
    return WrongAtFirst()


def drawn() -> nn.Module:
    """Weights from the global generator, as most people's factories draw them before they load their own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Masked(nn.Module):
    """`linear`, whose gradient says nothing of its answers: to brighten the picture moves all logits alike."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.net(x)
        return z.detach() + (x.flatten(1).mean(1, keepdim=True) - x.flatten(1).mean(1, keepdim=True).detach()) * 1e-3


def masked() -> nn.Module:
    return Masked()
