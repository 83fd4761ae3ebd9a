"""Batch norm on the statistics of what is asked (Schneider et al., 2020, arXiv:2006.16971)."""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.methods.adaptation.norms import batch_normed
from robustsuite.serve import stages


class Renormalised(nn.Module):
    """A network on the statistics of each batch; nothing stays of an earlier one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def standing(self, x: Tensor) -> Tensor:
        """What it would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.net(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.standing(x)


@stages.serve(paper="Schneider et al., 2020, arXiv:2006.16971", adapts="stream")
def bn_adapt(net: nn.Module, *, prior: float = 0.0) -> nn.Module:
    """Every batch norm layer takes the mean and variance of the batch that is asked, or a mix with training's.

    prior: the number of pictures N that training's statistics count for, beside n of the batch: the batch has the share
    n / (N + n); 0 forgets them. Raises Unsupported for a network without batch norm.
    """
    return Renormalised(batch_normed(net, prior))
