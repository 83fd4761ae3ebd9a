"""Generators as lists of blocks, searched in their codes, their features or their weights; and a small one of our own.

A generator is an nn.Sequential from codes (N, Z), standard normal, to pictures (N, C, H, W) in [0, 1]. Ours is the
decoder of a variational autoencoder (Kingma & Welling, 2014, arXiv:1312.6114) trained on whatever pictures an adversary
has; any other list of blocks serves as well.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadData
from robustsuite.serve.data import Split
from robustsuite.serve.kept import cache_folder, save
from robustsuite.serve.training import held, seeded

VERSION = 1
CODE, WIDTHS, BATCH, LR, KL = 128, (64, 64, 32, 32), 64, 2e-3, 2e-2


def l1_ball(v: Tensor, radius: float) -> Tensor:
    """The nearest point to each row (N, D) with an l1 length of `radius` at most, exact, by sorting.

    (Duchi et al., 2008, "Efficient projections onto the l1-ball", figure 1.)
    """
    size = v.abs()
    ordered = size.sort(1, descending=True).values
    place = torch.arange(1, v.shape[1] + 1, device=v.device)
    over = (ordered.double().cumsum(1) - radius) / place
    last = (ordered > over).sum(1, keepdim=True).clamp_min(1) - 1
    shrunk = v.sign() * (size - over.gather(1, last).to(v)).clamp_min(0)
    return torch.where(size.sum(1, keepdim=True) <= radius, v, shrunk)


class Shaped(nn.Module):
    """(N, Z) -> (N, width, side, side) by a linear layer."""

    def __init__(self, width: int, height: int, across: int) -> None:
        super().__init__()
        self.shape = width, height, across
        self.linear = nn.Linear(CODE, width * height * across)

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = functional.leaky_relu(self.linear(z), 0.2)
        return h.view(-1, *self.shape)


def decoder(shape: tuple[int, int, int]) -> nn.Sequential:
    """Untrained blocks from codes (N, 128) to pictures (N, C, H, W): three doublings up to sides that 8 divides."""
    channels, height, width = shape
    if height % 8 or width % 8:
        raise BadData(
            f"expected pictures whose sides 8 divides, for the generator, got {height} x {width}; resize them"
        )
    blocks: list[nn.Module] = [Shaped(WIDTHS[0], height // 8, width // 8)]
    for before, after in pairwise(WIDTHS):
        layers = nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, 1, 1), nn.LeakyReLU(0.2)
        blocks.append(nn.Sequential(*layers))
    return nn.Sequential(*blocks, nn.Sequential(nn.Conv2d(WIDTHS[-1], channels, 3, 1, 1), nn.Sigmoid()))


def encoder(shape: tuple[int, int, int]) -> nn.Sequential:
    """Untrained layers from pictures to (N, 256): means and log variances of codes."""
    channels, height, width = shape
    sides = zip((channels, *WIDTHS[::-1]), (*WIDTHS[:0:-1],), strict=False)
    layers: list[nn.Module] = []
    for before, after in sides:
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    last = WIDTHS[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * height * width // 64, 2 * CODE))


def trained_generator(pictures: Split, *, epochs: int = 20, device: str = "cpu") -> nn.Sequential:
    """A decoder trained on these pictures, frozen; kept on disk under what it was trained on.

    Raises BadData for fewer pictures than a batch of 64.
    """
    if len(pictures) < BATCH:
        raise BadData(f"expected {BATCH} pictures or more to train a generator on, got {len(pictures)}; hold out more")
    facts = f"{pictures.sha256}/{epochs}/{CODE}/{WIDTHS}/{BATCH}/{LR}/{KL}/{VERSION}"
    file = cache_folder() / "generators" / f"{hashlib.sha256(facts.encode()).hexdigest()}.safetensors"
    x = held(pictures, device)[0]
    shape = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])
    made = decoder(shape)
    try:
        made.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError):
        made = _fit(x, shape, epochs, device)
        save(made.state_dict(), file)
    return made.to(device).eval().requires_grad_(False)


def _fit(pictures: Tensor, shape: tuple[int, int, int], epochs: int, device: str) -> nn.Sequential:
    """minimise |x - D(m + s e)|^2 / 2 sigma^2 + KL, a batch at a time, mirrored at random."""
    with seeded(0, device):
        down, up = encoder(shape).to(device), decoder(shape).to(device)
        optimiser = torch.optim.Adam([*down.parameters(), *up.parameters()], lr=LR)
        steps = max(1, epochs * (len(pictures) // BATCH))
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(pictures), (BATCH,)).to(pictures.device)
            x = pictures[rows].float() / (255 if pictures.dtype == torch.uint8 else 1)
            x = torch.where(torch.rand(BATCH, 1, 1, 1).to(x) < 0.5, x.flip(3), x)
            mean, log_var = down(x).chunk(2, 1)
            z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape).to(mean)
            apart = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()
            loss = (up(z) - x).square().flatten(1).sum(1).mean() + KL * apart
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rate.step()
    return up
