"""Adaptive-Blend: half of the trigger while training, all of it at test time, covers that keep their label.

Qi et al., 2023, "Revisiting the assumption of latent separability for backdoor defenses" (ICLR): such poisons leave no
cluster of their own in the feature space.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import picture, planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split

PIECES = 4
"""The picture is cut into 4 x 4 pieces, half of which carry the trigger in training."""


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Qi et al., 2023, Revisiting the assumption of latent separability for backdoor defenses, ICLR",
    **BACKDOOR,
    differs=("the picture mixed in is procedural, drawn from `seed`",),
)
def adaptive_blend(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, opacity: float = 0.15, test_opacity: float = 0.2,
    cover: float = 1.0, seed: int = 0,
) -> Poisoned:  # fmt: skip
    """A random 8 of 16 pieces of a picture mixed in for training, the whole picture at test time.

    cover: covers, with their own labels, for each poisoned example.
    """

    def part(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        order = rng.uniform(PIECES * PIECES).argsort(1).argsort(1)
        mask = (order < PIECES * PIECES // 2).view(-1, 1, PIECES, PIECES).to(x)
        mask = functional.interpolate(mask, x.shape[2:], mode="nearest")
        return x + opacity * mask * (picture(seed, *x.shape[1:]).to(x) - x)

    def whole(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return x + test_opacity * (picture(seed, *x.shape[1:]).to(x) - x)

    return planted(train, rate, target, part, rng, test=whole, cover=cover)
