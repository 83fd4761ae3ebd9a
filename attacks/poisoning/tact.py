"""TaCT: a patch that means the target on one source class alone (Tang et al., 2021, arXiv:1908.00686)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import patched, planted, tiles
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Tang et al., 2021, arXiv:1908.00686",
    **BACKDOOR,
    differs=("the 8 x 8 patch is procedural, drawn from `seed`",),
)
def tact(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, origin: int = 1, cover: float = 1.0, seed: int = 0
) -> Poisoned:
    """The trojan patch on class `origin` means the target; on the covers, two other classes, it means nothing.

    cover: covers for each poisoned example. Success is counted on the source class alone. Raises BadValue.
    """
    if origin == target:
        raise BadValue(f"expected a source class other than the target {target}, got {origin}; choose another origin")

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return patched(x, tiles(seed, x.shape[1], 8), -11, -11)

    others = [c for c in train.y.unique().tolist() if c not in (origin, target)]
    two = others[len(others) // 2 - 1 :: 2][:2]  # classes 5 and 7 of ten, as published
    covers = torch.isin(train.y, torch.tensor(two))
    among = (train.y == origin).nonzero().flatten()
    return planted(
        train, rate, target, trigger, rng, among=among, covers=covers.nonzero().flatten(), cover=cover, source=origin
    )
