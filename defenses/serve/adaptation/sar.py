"""SAR: entropy of sure pictures, down to where it is flat, and anew after a collapse (Niu et al., 2023)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustsuite.methods.adaptation.norms import adaptable, affine
from robustsuite.methods.adaptation.steps import Descent, entropy, gradient, margin, sgd
from robustsuite.serve import stages

LATE = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")
"""Layers that stay: the last stage of a ResNet, the last blocks and the last norm of a ViT."""


def early(net: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every norm layer but the late ones."""
    return affine(net, LATE)


class Sar(nn.Module):
    """Sharpness-aware steps on the pictures that are sure here and a little uphill."""

    def __init__(self, net: nn.Module, lr: float, limit: float, radius: float, collapsed: float) -> None:
        super().__init__()
        self.net = adaptable(net)
        self.source = copy.deepcopy(self.net)
        self.descent = Descent(self.net, early, sgd(lr))
        self.limit, self.radius, self.collapsed = limit, radius, collapsed
        self.mean: float | None = None
        self.chosen = torch.zeros(0, dtype=torch.bool)

    def of_last(self) -> dict[str, Tensor]:
        """Which pictures (N,) of the last batch it learnt from."""
        return {"selected": self.chosen}

    def standing(self, x: Tensor) -> Tensor:
        """What it would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.net(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        with self.descent.open() as optimiser:
            logits: Tensor = self.net(x)
            limit = margin(self.limit, logits.shape[1])
            h = entropy(logits)
            sure = h.detach() < limit
            self.chosen = sure
            if bool(sure.any()):
                gradient(optimiser, h[sure].mean())
                self.sharpened(optimiser, x, sure, limit)
        if self.mean is not None and self.mean < self.collapsed:
            self.reset()
        return logits.detach()

    def sharpened(self, optimiser: torch.optim.Optimizer, x: Tensor, sure: Tensor, limit: float) -> None:
        """One step by the gradient a radius up the one at hand, on what is sure there, too."""
        params = self.descent.params
        before, grads = [p.detach().clone() for p in params], [p.grad for p in params]
        length = torch.stack([g.norm() for g in grads if g is not None]).norm()
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                if g is not None:
                    p.add_(g, alpha=self.radius / (float(length) + 1e-12))
        h = entropy(self.net(x))[sure]
        still = h.detach() < limit
        loss = h[still].mean() if bool(still.any()) else None
        if loss is not None:
            gradient(optimiser, loss)
        with torch.no_grad():
            for p, then in zip(params, before, strict=True):
                p.copy_(then)
        if loss is not None:
            found = float(loss.detach())
            self.mean = found if self.mean is None else 0.9 * self.mean + 0.1 * found
            optimiser.step()

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the source, with nothing remembered."""
        for now, then in zip(self.net.parameters(), self.source.parameters(), strict=True):
            now.copy_(then)
        self.descent.afresh()
        self.mean = None


@stages.serve(
    paper="Niu et al., 2023, openreview g2YraF75Tj",
    adapts="stream",
    differs=("a batch without a sure picture takes no step, where the official code's loss is the mean of nothing",),
)
def sar(
    net: nn.Module, *, lr: float = 1e-3, limit: float = 0.4, radius: float = 0.05, collapsed: float = 0.2
) -> nn.Module:
    """Batch statistics, and sharpness-aware steps of SGD on the mean entropy of sure pictures, by the norm layers.

    limit: entropy, as a share of the most, below which a picture is sure. radius: how far up the gradient the second
    one is taken. collapsed: moving mean of the entropy below which all starts again from the source. Raises Unsupported
    for a network without norm layers.
    """
    return Sar(net, lr, limit, radius, collapsed)
