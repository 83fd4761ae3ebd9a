"""Integrated gradients: what each pixel adds on the way from another picture (Sundararajan et al., 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import mean_colour, slopes
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle


@explanation.attack(
    needs=Access.GRADIENTS,
    paper="Sundararajan et al., 2017, Axiomatic Attribution for Deep Networks, ICML, arXiv:1703.01365",
    cost=lambda classes, steps, baseline: Cost(steps, steps),
    differs=("the integral is a sum over the middles of `steps` equal parts, where the paper takes their ends",),
)
def integrated_gradients(
    model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng, steps: int = 50,
    baseline: Literal["black", "mean"] = "black",
) -> Tensor:  # fmt: skip
    """(x - baseline) times the mean of d logit / d x along the line between them, summed over channels, signed.

    Its sum over the picture is the class's logit there minus that of the baseline, up to the steps. baseline: black, as
    in the paper, or mean, the picture's mean colour, which deletion puts in place of a pixel. Raises BadValue.
    """
    start = mean_colour(x) if baseline == "mean" else torch.zeros_like(x)

    def along(rows: Tensor, k: Tensor) -> Tensor:
        return torch.lerp(start[rows], x[rows], ((k + 0.5) / steps).view(-1, 1, 1, 1))

    return ((x - start) * slopes(model, x, classes, steps, along)).sum(1)
