"""TENT: a step down the entropy of its own answers, by the norm layers alone (Wang et al., 2021, arXiv:2006.10726)."""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.methods.adaptation.norms import adaptable, affine
from robustsuite.methods.adaptation.steps import Descent, adam, entropy, step
from robustsuite.serve import stages


class Tent(nn.Module):
    """It answers, then takes a step; the answer is the one before the step."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net = adaptable(net)
        self.descent = Descent(self.net, affine, adam(lr))

    def standing(self, x: Tensor) -> Tensor:
        """What it would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.net(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        with self.descent.open() as optimiser:
            logits: Tensor = self.net(x)
            step(optimiser, entropy(logits).mean())
        return logits.detach()


@stages.serve(
    paper="Wang et al., 2021, arXiv:2006.10726",
    adapts="stream",
    differs=("the rate is for CIFAR-10 in batches of 200, as in the code of later comparisons",),
)
def tent(net: nn.Module, *, lr: float = 1e-3) -> nn.Module:
    """Batch statistics, and one step of Adam a batch on the mean entropy, by scales and shifts of the norm layers.

    Raises Unsupported for a network without norm layers.
    """
    return Tent(net, lr)
