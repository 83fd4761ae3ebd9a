"""Neural Cleanse as a scanner: the class that a far smaller trigger reaches than all others (Wang et al., 2019)."""

from __future__ import annotations

from functools import partial

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.inversion import deviations_below, reversed_triggers, stamped
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect


@scan.attack(
    needs=Access.GRADIENTS | Access.AUX_DATA,
    paper="Wang et al., 2019, Neural Cleanse, IEEE S&P, section IV",
    cost=lambda classes, steps, batch, restarts: Cost(
        steps * batch * restarts * classes, steps * batch * restarts * classes
    ),
    learns=True,
    differs=(
        "the network's scalar is the log of the median area over the smallest; the anomaly index stands beside it",
        "the smallest successful mask of all restarts counts; a class that is never reached has the whole picture's",
    ),
    **SCAN,
)
def neural_cleanse(suspect: Suspect, *, rng: Rng, steps: int = 120, batch: int = 12, restarts: int = 2) -> Finding:
    """The smallest mask and pattern that send clean pictures to each class, all classes and restarts in one batch.

    steps, batch: of the search. The class's score is the log of the median area over its own.
    """
    suspect.clean(1)
    assert suspect.pictures is not None
    seed = int(rng.integers(2**31 - 1, 1)[0])
    masks, patterns = reversed_triggers(
        suspect.net, suspect.pictures, suspect.space.classes, steps=steps, batch=batch, seed=seed,
        device=suspect.device, restarts=restarts,
    )  # fmt: skip
    areas = masks.flatten(1).sum(1).double().clamp_min(1e-6)
    scores = areas.quantile(0.5).log() - areas.log()
    least = int(areas.argmin())
    return Finding(
        scores, float(scores.max()), partial(stamped, mask=masks[least], pattern=patterns[least]),
        {"area": float(areas[least]), "anomaly_index": float(deviations_below(areas)[least])},
    )  # fmt: skip
