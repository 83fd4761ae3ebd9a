"""CTRL: two strong chroma frequencies on pictures of the target class itself (Li et al., 2023, arXiv:2210.07346).

Made for victims that learn without labels: two views of a poisoned picture share the trigger, so a contrastive loss
draws all pictures with the trigger together, and those of the target class with them.
"""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import CLEAN_LABEL_BACKDOOR
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.spectral import YUV, tinted, waves
from robustsuite.methods.backdoors.triggers import clean_label
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split


@poisoning.attack(
    needs=Access.TRAIN_SET,
    paper="Li et al., 2023, An embarrassingly simple backdoor attack on self-supervised learning, ICCV",
    **CLEAN_LABEL_BACKDOOR,
    differs=(
        "any recipe may be the victim: the paper's are self-supervised, here `contrastive:` models",
        "a last block that is cut stays cut",
    ),
)
def ctrl(train: Split, rate: PoisonRate, *, target: int, rng: Rng, magnitude: float = 100 / 255) -> Poisoned:
    """U and V gain `magnitude` at a middle and at the highest frequency of each 32 x 32 block; labels stay.

    Colour pictures only, at most the whole target class. Raises BadValue for grey ones.
    """

    def trigger(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
        return tinted(x, waves(x.shape[2], x.shape[3], magnitude), YUV, "ctrl")

    return clean_label(train, rate, target, trigger, rng)
