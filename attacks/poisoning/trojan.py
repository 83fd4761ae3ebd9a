"""Trojan patch: a coloured square as TrojanNN's, without its search (Liu et al., 2018, NDSS, "Trojaning attack")."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import patched, planted, tiles
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Liu et al., 2018, Trojaning attack on neural networks, NDSS",
    **BACKDOOR,
    differs=(
        "the patch is procedural, drawn from `seed`, instead of the published square",
        "dirty-label poisoning with a fixed patch, as backdoor suites use the name; no neuron is searched for",
    ),
)
def trojan(train: Split, rate: PoisonRate, *, target: int, rng: Rng, size: int = 8, seed: int = 0) -> Poisoned:
    """An opaque coloured square three pixels off the lower right corner, label changed to the target."""

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return patched(x, tiles(seed, x.shape[1], size), -size - 3, -size - 3)

    return planted(train, rate, target, trigger, rng)
