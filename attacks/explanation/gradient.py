"""The plain gradient: how much each pixel moves the class's logit (Simonyan et al., 2014, arXiv:1312.6034)."""

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
    paper="Simonyan et al., 2014, Deep Inside Convolutional Networks, arXiv:1312.6034",
    cost=lambda classes: Cost(1, 1),
)
def gradient(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng) -> Tensor:
    """|d logit of the class / d x|, its maximum over channels."""
    return slopes(model, x, classes, 1, lambda rows, k: x[rows]).abs().amax(1)
