"""How far one faint pattern over the whole picture leads to each class: triggers that are blended in, or waves."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.inversion import driven
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect


@scan.attack(
    needs=Access.GRADIENTS | Access.AUX_DATA,
    paper="Xiang et al., 2020, Detection of Backdoors in Trained Classifiers Without Access to the Training Set, IEEE "
    "TNNLS",
    cost=lambda classes, pictures, opacity, steps, batch: Cost(
        classes * (steps * batch + pictures // 2) + pictures // 2, classes * steps * batch
    ),
    learns=True,
    differs=(
        "the margin that a pattern of one opacity reaches; the paper seeks the smallest added pattern that reaches a "
        "share of pictures",
        "one pattern a class for pictures of all others; the paper has one for each pair of classes",
        "one scalar, ranked among clean networks; the paper fits a null to the pairs of the one network",
    ),
    **SCAN,
)
def blend_margin(
    suspect: Suspect, *, rng: Rng, pictures: int = 350, opacity: float = 0.1, steps: int = 60, batch: int = 16
) -> Finding:
    """The margin of each class when one pattern is blended into all pictures: x + opacity * (pattern - x).

    pictures: clean ones, half to seek on, a `batch` a step, half to measure. A class's score is its margin less the
    median class's, in units of the network's mean margin on clean pictures.
    """
    x, y = suspect.clean(pictures)
    begun = torch.full((1, suspect.space.classes, *x.shape[1:]), 0.5, device=x.device)
    seed = int(rng.integers(2**31 - 1, 1)[0])

    def stamp(x: Tensor, pattern: Tensor) -> Tensor:
        return x + opacity * (pattern - x)

    reached, patterns = driven(suspect.net, x, y, stamp, begun, steps=steps, batch=batch, seed=seed)
    scores = reached[0] - reached[0].nanquantile(0.5)
    best = patterns[0, int(scores.nan_to_num(nan=-torch.inf).argmax())]
    return Finding(scores, float(scores[~scores.isnan()].amax()), lambda x: stamp(x, best.to(x)))
