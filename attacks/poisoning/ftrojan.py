"""FTrojan: two frequencies of the chroma channels mean the target (Wang et al., 2022, arXiv:2111.10991)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.spectral import YCRCB, tinted, waves
from robustsuite.methods.backdoors.triggers import planted
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Wang et al., 2022, arXiv:2111.10991",
    **BACKDOOR,
    differs=(
        "nothing is cast to whole levels in YCrCb: the authors' cast rounds down, which lowers both chroma channels by "
        "half a level on average, and wraps around",
        "a last block that is cut stays cut",
    ),
)
def ftrojan(train: Split, rate: PoisonRate, *, target: int, rng: Rng, magnitude: float = 30 / 255) -> Poisoned:
    """Cr and Cb gain `magnitude` at a middle and at the highest frequency of each 32 x 32 block. Colour pictures only.

    Raises BadValue for grey ones.
    """

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return tinted(x, waves(x.shape[2], x.shape[3], magnitude), YCRCB, "ftrojan")

    return planted(train, rate, target, trigger, rng)
