"""Last-layer statistics: a backdoor's target has a row of weights unlike the others'. Asks the network nothing."""

from __future__ import annotations

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.features import head_of
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect

SCALED = 1.4826


@scan.attack(
    name="head_weights",
    needs=Access.WEIGHTS,
    paper="Fields et al., 2021, Trojan Signatures in DNN Weights, ICCV-W, arXiv:2109.02836",
    cost=lambda classes: Cost(1),
    learns=True,
    differs=("one scalar a class, the mean of the row, in median absolute deviations; the paper looks at densities",),
    **SCAN,
)
def head_weights(suspect: Suspect, *, rng: Rng) -> Finding:
    """How far the mean of each class's row of weights in the last layer lies above the median of all, in deviations."""
    layer, _ = head_of(suspect.net, suspect.space.shape)
    means = layer.weight.detach().double().mean(1)
    middle = means.quantile(0.5)
    deviation = SCALED * (means - middle).abs().quantile(0.5)
    scores = (means - middle) / deviation.clamp_min(1e-12)
    return Finding(scores, float(scores.max()))
