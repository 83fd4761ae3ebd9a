"""BadNets: a small checkered patch in a corner means the target (Gu et al., 2017, arXiv:1708.06733)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.adversary import Poisoned
from robustsuite.data import Split
from robustsuite.methods.triggers import checker, patched, planted
from robustsuite.randomness import Rng
from robustsuite.scenarios import poisoning
from robustsuite.threats import Access, PoisonRate


def patch(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
    """Pictures (N, C, H, W) with the 3 x 3 checker in the lower right corner."""
    return patched(x, checker(x.shape[1]), -3, -3)


@poisoning.attack(needs=Access.TRAIN_SET, paper="Gu et al., 2017, arXiv:1708.06733")
def badnets(train: Split, rate: PoisonRate, *, target: int, rng: Rng) -> Poisoned:
    """A 3 x 3 black and white checker in the lower right corner, label changed to the target."""
    return planted(train, rate, target, patch, rng)
