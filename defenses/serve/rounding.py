"""Rounded scores: probabilities to so many decimals (Tramer et al., 2016, arXiv:1609.02943, section 7)."""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.methods.answers import as_logits, as_without
from robustsuite.serve import stages


class Rounded(nn.Module):
    """(N, C, H, W) -> logits (N, K) whose softmax is rounded."""

    def __init__(self, base: nn.Module, decimals: int) -> None:
        super().__init__()
        self.base, self.decimals = base, decimals

    def forward(self, x: Tensor) -> Tensor:
        p = self.base(x).softmax(1)
        return as_logits(p.round(decimals=self.decimals), p.argmax(1))


@stages.serve(
    paper="Tramer et al., 2016, arXiv:1609.02943",
    hides=Access.GRADIENTS,
    surrogate=as_without,
    differs=("rounded scores are renormalised: what is served is logits", "where they tie, the class stays as it was"),
)
def rounding(net: nn.Module, *, decimals: int = 1) -> nn.Module:
    """Serve probabilities rounded to a number of decimals.

    A step has no slope; the network below says the same classes and is what attacks go through. Raises BadValue.
    """
    if decimals < 0:
        raise BadValue(f"expected decimals >= 0, got {decimals!r}; write 1")
    return Rounded(net, decimals)
