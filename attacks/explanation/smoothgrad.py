"""SmoothGrad: the gradient averaged over noisy copies of the picture (Smilkov et al., 2017, arXiv:1706.03825)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import slopes
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle


@explanation.attack(
    needs=Access.GRADIENTS,
    paper="Smilkov et al., 2017, SmoothGrad: removing noise by adding noise, arXiv:1706.03825",
    cost=lambda classes, draws, noise: Cost(draws, draws),
    differs=("the absolute value is taken after averaging, and the maximum over channels, as `gradient` takes it",),
)
def smoothgrad(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng, draws: int = 50, noise: float = 0.15) -> Tensor:
    """|mean of d logit / d x over `draws` noisy copies|, its maximum over channels.

    noise: the standard deviation as a share of the picture's own range of values. Raises BadValue.
    """
    if not noise >= 0:
        raise BadValue(f"expected noise >= 0 for smoothgrad, got {noise!r}; write noise=0.15")
    sigma = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(-1, 1, 1, 1)

    def noisy(rows: Tensor, k: Tensor) -> Tensor:
        return x[rows] + sigma[rows] * rng[rows].fold(k).normal(*x.shape[1:])

    return slopes(model, x, classes, draws, noisy).abs().amax(1)
