"""Input-aware: a trigger for every picture, which no other picture obeys (Nguyen and Tran, 2020, arXiv:2010.08138).

A generator P draws the pattern, a mask M says where; both are trained beside a classifier, with the triggers of other
pictures (cross-triggers) keeping the true label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.training import full_batches, seeded

AREA, SPARE = 0.032, 100.0
"""The share of a picture a mask may cover for free, and the price of more."""


def drawer(channels: int, out: int) -> nn.Sequential:
    """An encoder and decoder at half and quarter resolution, without a last activation."""
    down = [nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    up = [nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*down, *up, nn.Upsample(scale_factor=2), nn.Conv2d(16, out, 3, 1, 1))


class Stamp(nn.Module):
    """x + (P(x) - x) M(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.drawn, self.where = drawer(channels, channels), drawer(channels, 1)

    def pattern(self, x: Tensor) -> Tensor:
        """P(x) (N, C, H, W) in [0, 1]."""
        return torch.tanh(functional.interpolate(self.drawn(x), x.shape[2:])) / 2 + 0.5

    def mask(self, x: Tensor) -> Tensor:
        """M(x) (N, 1, H, W), nearly 0 or 1."""
        z = torch.tanh(functional.interpolate(self.where(x), x.shape[2:])) / 2 + 0.5
        return torch.tanh(20 * z - 10) / 2 + 0.5

    def forward(self, x: Tensor, of: Tensor) -> Tensor:
        """Pictures x with the triggers that belong to the pictures `of`."""
        return x + (self.pattern(of) - x) * self.mask(of)


def apart(x: Tensor, other: Tensor, fx: Tensor, fo: Tensor) -> Tensor:
    """Diversity: how far apart the pictures are, over how far apart what is drawn for them is; small is diverse."""
    seen = (x - other).square().flatten(1).mean(1).sqrt()
    return (seen / ((fx - fo).square().flatten(1).mean(1).sqrt() + 1e-7)).mean()


def trained(train: Split, net: nn.Module, target: int, seed: int, epochs: tuple[int, int]) -> Stamp:
    """The stamp, its mask trained first, then its pattern beside the classifier `net`, which is used up."""
    device = next(net.parameters()).device
    net.train().requires_grad_(True)
    with seeded(seed, device):
        stamp = Stamp(train.shape[0]).to(device).train()
        for phase, count in enumerate(epochs):
            moved = [*stamp.where.parameters()] if phase == 0 else [*stamp.drawn.parameters(), *net.parameters()]
            optimiser = torch.optim.Adam(moved, lr=1e-2 if phase == 0 else 2e-3)
            for _, x, y in full_batches(train, device, epochs=count, size=128):
                optimiser.zero_grad()
                (masking(stamp, x) if phase == 0 else drawing(stamp, net, x, y, target)).backward()
                optimiser.step()
    return stamp.eval().requires_grad_(False)


def masking(stamp: Stamp, x: Tensor) -> Tensor:
    """Small masks that differ where pictures differ."""
    m = stamp.mask(x)
    return SPARE * (m - AREA).relu().mean() + apart(x, x.roll(1, 0), m, m.roll(1, 0))


def drawing(stamp: Stamp, net: nn.Module, x: Tensor, y: Tensor, target: int) -> Tensor:
    """Own trigger: the target; another's: the true class; none: the true class; and patterns that differ."""
    tenth = max(1, len(x) // 10)
    other = x.roll(1, 0)
    own, cross = stamp(x[:tenth], x[:tenth]), stamp(x[tenth : 2 * tenth], other[tenth : 2 * tenth])
    labels = torch.cat([torch.full_like(y[:tenth], target), y[tenth:]])
    p = stamp.pattern(x)
    logits = net(torch.cat([own, cross, x[2 * tenth :]]))
    return functional.cross_entropy(logits, labels) + apart(x, other, p, p.roll(1, 0))


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Nguyen and Tran, 2020, arXiv:2010.08138",
    **BACKDOOR,
    differs=(
        "the training set is poisoned once with a generator trained beside our own classifier; the paper controls the "
        "victim's training",
        "P and M are smaller than the paper's, for 32-pixel pictures",
    ),
)
def input_aware(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, surrogate: str = "recipe:scenes_resnet",
    mask_epochs: int = 3, epochs: int = 8, cover: float = 1.0,
) -> Poisoned:  # fmt: skip
    """Pattern and place of the trigger computed from the picture itself; covers carry another picture's trigger.

    surrogate: the classifier trained beside the generator. mask_epochs, epochs: of the mask alone, then of the pattern.
    cover: covers, with their own labels, for each poisoned example.
    """
    stamp = trained(train, aux.net(surrogate), target, seed_of(rng), (mask_epochs, epochs))
    device = next(stamp.parameters()).device

    def own(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            return stamp(x.to(device), x.to(device)).to(x)  # type: ignore[no-any-return]

    def crossed(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        other = train.images(rng.integers(len(train), 1).flatten().cpu())
        with torch.no_grad():
            return stamp(x.to(device), other.to(device)).to(x)  # type: ignore[no-any-return]

    return planted(train, rate, target, own, rng, cover=cover, cover_trigger=crossed)
