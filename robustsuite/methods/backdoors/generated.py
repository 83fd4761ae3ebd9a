"""Triggers that a network draws from the picture itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.maths.randomness import Rng
from robustsuite.maths.warping import within
from robustsuite.serve.adversary import Trigger


class Drawer(nn.Module):
    """A U-Net of two scales without normalisation: (N, channels, H, W) -> (N, out, H, W), a picture at a time."""

    def __init__(self, channels: int, out: int, width: int = 8) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU())
        down = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.ReLU()
        self.coarse = nn.Sequential(*down)
        self.last = nn.Sequential(nn.Conv2d(3 * width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = functional.interpolate(self.coarse(fine), x.shape[2:])
        drawn: Tensor = self.last(torch.cat([fine, coarse], 1))
        return drawn


def moved(x: Tensor, drawn: Tensor, eps: float) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] changed by eps tanh(drawn), clipped; the derivative passes the bounds."""
    return within(x + eps * drawn.tanh())


class Moving(nn.Module):
    """x -> x + eps tanh(drawer(x)), in [0, 1]."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.drawer, self.eps = Drawer(channels, channels), eps

    def forward(self, x: Tensor) -> Tensor:
        return moved(x, self.drawer(x), self.eps)


def trigger_of(stamp: nn.Module) -> Trigger:
    """The network as a trigger, whatever device the pictures are on."""
    device = next(stamp.parameters()).device

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            stamped: Tensor = stamp(x.to(device)).to(x)
        return stamped

    return trigger
