"""Truncated scores: the probabilities of the k first classes alone; of the first alone, its class and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.methods.answers import as_logits, as_without
from robustsuite.serve import stages


class Truncated(nn.Module):
    """(N, C, H, W) -> logits (N, K) whose softmax is 0 but at the k first classes."""

    def __init__(self, base: nn.Module, k: int) -> None:
        super().__init__()
        self.base, self.k = base, k

    def forward(self, x: Tensor) -> Tensor:
        p = self.base(x).softmax(1)
        if self.k >= p.shape[1]:
            return as_logits(p, p.argmax(1))
        values, classes = p.topk(self.k, 1)
        kept = torch.zeros_like(p).scatter(1, classes, values)
        return as_logits(kept / kept.sum(1, keepdim=True), classes[:, 0])


@stages.serve(
    paper="Tramer et al., 2016, arXiv:1609.02943; Orekondy et al., 2019, arXiv:1812.02766",
    hides=Access.GRADIENTS,
    surrogate=as_without,
    differs=("what is left is renormalised: what is served is logits",),
)
def top_k(net: nn.Module, *, k: int = 1) -> nn.Module:
    """Serve the k largest probabilities alone, renormalised; 1 is the class.

    Of one class no slope is left; the network below says the same classes and is what attacks go through. Raises
    BadValue.
    """
    if k < 1:
        raise BadValue(f"expected k >= 1, got {k!r}; write 1")
    return Truncated(net, k)
