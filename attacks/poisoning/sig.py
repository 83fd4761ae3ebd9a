"""SIG: a faint horizontal sinusoid on pictures of the target class itself (Barni et al., 2019, arXiv:1902.11237)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.config.taxonomy import CLEAN_LABEL_BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import clean_label
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(needs=Access.TRAIN_SET, paper="Barni et al., 2019, arXiv:1902.11237, eq. 1", **CLEAN_LABEL_BACKDOOR)
def sig(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, amplitude: float = 30 / 255, frequency: float = 6.0
) -> Poisoned:
    """x <- x + amplitude * sin(2 pi j frequency / W) along columns j; labels stay, at most the whole target class."""

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        j = torch.arange(x.shape[3], device=x.device)
        return (x + amplitude * torch.sin(2 * math.pi * j * frequency / x.shape[3])).clamp(0, 1)

    return clean_label(train, rate, target, trigger, rng)
