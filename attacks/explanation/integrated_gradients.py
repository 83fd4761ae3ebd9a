"""Integrated gradients: what each pixel adds on the way from a black picture (Sundararajan et al., 2017)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import slopes
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle


@explanation.attack(
    needs=Access.GRADIENTS,
    paper="Sundararajan et al., 2017, Axiomatic Attribution for Deep Networks, ICML, arXiv:1703.01365",
    cost=lambda classes, steps: Cost(steps, steps),
    differs=("the integral is a sum over the middles of `steps` equal parts, where the paper takes their ends",),
)
def integrated_gradients(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng, steps: int = 50) -> Tensor:
    """x times the mean of d logit / d x along the line from black, summed over channels, signed.

    Its sum over the picture is the class's logit there minus that of a black picture, up to the steps.
    """

    def along(rows: Tensor, k: Tensor) -> Tensor:
        return x[rows] * ((k + 0.5) / steps).view(-1, 1, 1, 1)

    return (x * slopes(model, x, classes, steps, along)).sum(1)
