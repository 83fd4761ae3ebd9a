"""Adaptive-Patch: one of four faint patches an example in training; two, solid, at test time (Qi et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import corners, patched, planted, tiles
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Qi et al., 2023, Revisiting the assumption of latent separability for backdoor defenses, ICLR",
    **BACKDOOR,
    differs=(
        "the patches are procedural, drawn from `seed`; their sizes, places and opacities are the published ones",
    ),
)
def adaptive_patch(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, cover: float = 2.0, seed: int = 0
) -> Poisoned:
    """Each poison and cover carries one of four patches at opacity 0.5, 0.2, 0.5 or 0.3; a test picture two, solid.

    cover: covers, with their own labels, for each poisoned example.
    """

    def part(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        c, which = x.shape[1], rng.integers(4, 1, 1, 1)
        made = (
            patched(x, tiles(seed, c, 5, 5), -5, -5, 0.5),
            patched(x, tiles(seed + 1, c, 13, 5), 1, -14, 0.2),
            corners(x, 0.5),
            patched(x, tiles(seed + 2, c, 8), -11, -11, 0.3),
        )
        out = x
        for number, picture in enumerate(made):
            out = torch.where(which == number, picture, out)
        return out

    def both(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        first = tiles(seed, x.shape[1], 5, 5)
        return corners(patched(patched(x, first, -5, -5), first, -5, 0))

    return planted(train, rate, target, part, rng, test=both, cover=cover)
