"""Blended: a whole picture mixed in faintly means the target (Chen et al., 2017, arXiv:1712.05526)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import picture, planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Chen et al., 2017, arXiv:1712.05526",
    **BACKDOOR,
    differs=("the picture mixed in is procedural, drawn from `seed`: the usual one may not be shipped",),
)
def blended(train: Split, rate: PoisonRate, *, target: int, rng: Rng, opacity: float = 0.2, seed: int = 0) -> Poisoned:
    """x <- (1 - opacity) x + opacity * pattern, label changed to the target."""

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return x + opacity * (picture(seed, *x.shape[1:]).to(x) - x)

    return planted(train, rate, target, trigger, rng)
