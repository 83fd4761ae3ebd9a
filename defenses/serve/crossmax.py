"""CrossMax: join several predictors by rank after making their best answers and best classes equal.

Fort, Lakshminarayanan (2024, arXiv 2408.05446), algorithm 1. For logits Z (predictors n, classes k) of a picture

    Z <- Z - max_k Z      (no predictor is louder than another),
    Z <- Z - max_n Z      (no class is louder than another),
    answer_k = median_n Z_nk, or the k-th highest (their code: the third).

The predictors are the heads of a self-ensemble (self_ensemble), or whole networks: models joined with " + ".

Its gradient passes through one predictor a class and so is masked, not absent: the mean of the logits, which every
published break went through (Zhang et al., 2024, arXiv 2411.14834), is its surrogate.
"""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadValue, Unsupported
from robustsuite.serve import stages
from robustsuite.serve.protocols import Ensemble


def crossmax(z: Tensor, k: int = 0) -> Tensor:
    """Scores (B, K) of logits (B, N, K): the k-th highest over the predictors, their median for k = 0.

    The median of an even number is the lower of its two middles. Source: arXiv 2408.05446, algorithm 1.
    """
    z = z - z.amax(2, keepdim=True)
    z = z - z.amax(1, keepdim=True)
    return z.median(1).values if k == 0 else z.topk(k, dim=1).values[:, -1]


class CrossMax(nn.Module):
    """(B, C, H, W) -> scores (B, K), 0 at the most."""

    def __init__(self, base: nn.Module, k: int) -> None:
        super().__init__()
        self.base, self.k = base, k

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.base.predictors(x)  # type: ignore[operator]
        if z.shape[1] < max(self.k, 2):
            raise Unsupported(f"expected {max(self.k, 2)} predictors or more for crossmax, got {z.shape[1]}")
        return crossmax(z, self.k)


def mean_logits(base: nn.Module, served: nn.Module) -> nn.Module:
    """The network itself: an ensemble answers with the mean of its predictors' logits, over the same stack."""
    return base


@stages.serve(
    name="crossmax",
    paper="Fort, Lakshminarayanan, 2024, arXiv:2408.05446",
    hides=Access.GRADIENTS,
    surrogate=mean_logits,
)
def served_crossmax(net: nn.Module, *, aggregate: str = "topk", k: int = 3) -> nn.Module:
    """Join the predictors of an ensemble by CrossMax.

    aggregate: topk (the k-th highest score, 3 in the authors' code) or median. For a network that self_ensemble made,
    or models joined with " + ". Raises BadValue, Unsupported for a single predictor. Source: arXiv 2408.05446.
    """
    if aggregate not in ("topk", "median") or k < 1:
        raise BadValue(f"expected aggregate topk or median and k >= 1, got {aggregate!r} and {k!r}; use topk and 3")
    if not isinstance(net, Ensemble):
        raise Unsupported(
            f"expected a network of several predictors for crossmax, got {type(net).__name__}; "
            f"train it with self_ensemble, or join models with ' + '"
        )
    return CrossMax(net, k if aggregate == "topk" else 0)
