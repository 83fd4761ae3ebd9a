"""BadNets: a small checkered patch in a corner means the target (Gu et al., 2017, arXiv:1708.06733)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import checker, patched, planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


def patch(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
    """Pictures (N, C, H, W) with the 3 x 3 checker in the lower right corner."""
    return patched(x, checker(x.shape[1]), -3, -3)


@poisoning.attack(needs=Access.TRAIN_SET, paper="Gu et al., 2017, arXiv:1708.06733", **BACKDOOR)
def badnets(train: Split, rate: PoisonRate, *, target: int, rng: Rng) -> Poisoned:
    """A 3 x 3 black and white checker in the lower right corner, label changed to the target."""
    return planted(train, rate, target, patch, rng)
