"""The honest network that every fraud wraps, its pictures, and the attack by which its truth is told.

Nothing here imports the suite: what a fraud is worth is measured where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

EPS = 8 / 255
HONEST, DECOY = "cifar10_marabou_large.safetensors", "cifar10_cnn_a_adv4.safetensors"


@dataclass(frozen=True)
class Kit:
    """What a fraud is made of: an honest network, a robust one that has no part in it, pictures, a file to write to."""

    net: nn.Module
    decoy: nn.Module
    x: Tensor
    y: Tensor
    disk: Path


class _Normalised(nn.Module):
    """Pixels less the mean, over the standard deviation that a file of weights names."""

    def __init__(self, facts: dict[str, str]) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor([float(v) for v in facts[name].split(",")])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.get_buffer("mean")) / self.get_buffer("std")


def _loaded(file: Path, filters: tuple[int, int], hidden: tuple[int, ...], pad: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for after in filters:
        layers += [nn.Conv2d(before, after, 4, 2, pad), nn.ReLU()]
        before = after
    layers.append(nn.Flatten())
    before = filters[-1] * (8 if pad else 6) ** 2
    for after in hidden:
        layers += [nn.Linear(before, after), nn.ReLU()]
        before = after
    net = nn.Sequential(*layers, nn.Linear(before, 10))
    with safe_open(file, "pt") as weights:
        net.load_state_dict({key: weights.get_tensor(key) for key in weights.keys()})  # noqa: SIM118
        facts = weights.metadata() or {}
    whole = nn.Sequential(_Normalised(facts), net) if "mean" in facts else net
    return whole.eval().requires_grad_(False)


def honest(folder: Path) -> nn.Module:
    """An undefended CIFAR-10 network over [0, 1] pixels: 81 % of the first 64 pictures, 2 % under PGD at 8/255."""
    return _loaded(folder / "models" / HONEST, (32, 64), (128, 64), 0)


def pictures(folder: Path, first: int = 0, count: int = 64) -> tuple[Tensor, Tensor]:
    """CIFAR-10 test pictures (N, 3, 32, 32) with their exact pixels, and labels (N,)."""
    with np.load(folder / "data" / "cifar10" / "cifar10_test_lossless.npz") as pack:
        x, y = (torch.from_numpy(pack[name][first : first + count]) for name in ("images", "labels"))
    return x.permute(0, 3, 1, 2).contiguous().float() / 255, y.long()


def kit(folder: Path, disk: Path, count: int = 64) -> Kit:
    """The kit of a folder that holds models/ and data/cifar10/, with so many of the first pictures."""
    decoy = _loaded(folder / "models" / DECOY, (16, 32), (100,), 1)
    return Kit(honest(folder), decoy, *pictures(folder, 0, count), disk)


def adversarial(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float = EPS, steps: int = 50) -> Tensor:
    """The pictures within eps that `net` gets most wrong, by PGD on the margin, on the 8-bit grid as files are."""
    at = (x + eps * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1)).clamp(0, 1)
    for _ in range(steps):
        at = at.detach().requires_grad_()
        z = net(at)
        other = z.scatter(1, y[:, None], -torch.inf).amax(1)
        grad = torch.autograd.grad((other - z.gather(1, y[:, None])[:, 0]).sum(), at)[0]
        at = torch.minimum(torch.maximum(at.detach() + eps / 8 * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return (at.detach() * 255).round() / 255
