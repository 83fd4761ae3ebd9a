"""STRIP: a trigger keeps its class whatever is laid over the picture (Gao et al., 2019, arXiv:1902.06531)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.methods.backdoors.detection import Detector, halves, undetected
from robustsuite.serve import stages
from robustsuite.serve.models import Training


class Steady(nn.Module):
    """Minus the mean entropy (N,) of the answers on x + overlay, clipped to [0, 1], over the overlays (M, C, H, W)."""

    overlays: Tensor

    def __init__(self, overlays: Tensor) -> None:
        super().__init__()
        self.register_buffer("overlays", overlays)

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for overlay in self.overlays:
            log_p = net(_boxed(x + overlay)).log_softmax(1)
            total = total + (log_p.exp() * log_p).sum(1)
        return total / len(self.overlays)


def _boxed(x: Tensor) -> Tensor:
    """Clipped to [0, 1], the gradient passing as if it were not."""
    return x + (x.detach().clamp(0, 1) - x.detach())


def uncalibrated(net: nn.Module, training: Training, *, overlays: int, **others: object) -> Detector:
    """The detector before its threshold is set."""
    clean, _ = halves(training)
    rows = torch.randperm(len(clean), generator=torch.Generator().manual_seed(training.seed))[:overlays]
    return Detector(net, Steady(clean.images(rows)))


@stages.serve(
    paper="Gao et al., 2019, arXiv:1902.06531", learns=True, splits=("val",), shape=uncalibrated, surrogate=undetected,
    rejects=True,
)
def strip(net: nn.Module, training: Training, *, fpr: float = 0.1, overlays: int = 100) -> nn.Module:
    """Inputs whose answer hardly changes under superimposed clean pictures are rejected (low entropy).

    fpr: share of clean val pictures rejected. overlays: clean val pictures laid over each input.
    """
    _, rest = halves(training)
    return uncalibrated(net, training, overlays=overlays).calibrated(rest, fpr, training.device)
