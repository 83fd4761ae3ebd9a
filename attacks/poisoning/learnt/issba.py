"""ISSBA: a hidden message, written differently into every picture, means the target (Li et al., 2021, 2012.03816).

An encoder hides a bit string in a picture, a decoder reads it back; both are trained on pictures and random strings, as
in steganography. One string is then the adversary's: what it adds depends on the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate, parse_number
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.methods.backdoors.generated import Drawer, moved
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.training import full_batches, seeded

COARSE = 4
"""A message is laid out as a picture of COARSE x COARSE cells before it is drawn."""


class Hiding(nn.Module):
    """The encoder: (pictures (N, C, H, W), bits (N, B) of 0 and 1) -> pictures at most eps away, in [0, 1]."""

    def __init__(self, channels: int, bits: int, eps: float) -> None:
        super().__init__()
        self.laid = nn.Linear(bits, channels * COARSE**2)
        self.drawer, self.eps = Drawer(2 * channels, channels), eps

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        plane = self.laid(2 * bits - 1).unflatten(1, (-1, COARSE, COARSE))
        plane = functional.interpolate(plane, x.shape[2:])
        return moved(x, self.drawer(torch.cat([x - 0.5, plane], 1)), self.eps)


def reading(channels: int, bits: int, width: int = 16) -> nn.Sequential:
    """The decoder: pictures -> a logit a bit, positive for 1."""
    layers: list[nn.Module] = []
    before = channels
    for out, stride in ((width, 1), (2 * width, 2), (2 * width, 2)):
        layers += [nn.Conv2d(before, out, 3, stride, 1), nn.ReLU()]
        before = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(COARSE), nn.Flatten(), nn.Linear(before * COARSE**2, bits))


def trained(pictures: Split, seed: int, *, bits: int, eps: float, epochs: int) -> tuple[Hiding, nn.Module]:
    """Encoder and decoder, trained together on the CPU so that random messages are read."""
    device = torch.device("cpu")
    with seeded(seed, device):
        channels = pictures.shape[0]
        hiding, reader = Hiding(channels, bits, eps), reading(channels, bits)
        optimiser = torch.optim.Adam([*hiding.parameters(), *reader.parameters()], lr=3e-3)
        for _, x, _ in full_batches(pictures, device, epochs=epochs, size=32):
            message = torch.randint(2, (len(x), bits)).to(x)
            optimiser.zero_grad()
            functional.binary_cross_entropy_with_logits(reader(hiding(x, message)), message).backward()
            optimiser.step()
    return hiding.eval().requires_grad_(False), reader.eval().requires_grad_(False)


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Li et al., 2021, Invisible backdoor attack with sample-specific triggers, ICCV, arXiv:2012.03816",
    **BACKDOOR,
    differs=(
        "the encoder is a U-Net of two scales with 6,700 weights; the authors' has five and hundreds of times as many",
        "the change is bounded by eps in linf; the paper weighs l2 and LPIPS instead",
        "encoder and decoder are trained on the adversary's own pictures, not on the training set",
    ),
)
def issba(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, bits: int = 20, eps: str | float = "8/255",
    epochs: int = 20,
) -> Poisoned:  # fmt: skip
    """One message of `bits` bits hidden in each poisoned picture, label changed to the target.

    eps: linf bound of the change. epochs: of encoder and decoder, on the adversary's pictures.
    """
    seed = seed_of(rng)
    hiding, _ = trained(aux.pictures, seed, bits=bits, eps=parse_number(eps), epochs=epochs)
    message = Rng.of(seed, "message", torch.zeros(1)).integers(2, bits).float()

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            return hiding.to(x.device)(x, message.to(x).expand(len(x), -1))  # type: ignore[no-any-return]

    return planted(train, rate, target, trigger, rng)
