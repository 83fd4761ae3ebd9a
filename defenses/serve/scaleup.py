"""SCALE-UP: a trigger keeps its class however bright the picture is made (Guo et al., 2023, arXiv:2302.03251)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.methods.backdoors.detection import Detector, halves, undetected
from robustsuite.serve import stages
from robustsuite.serve.models import Training

FACTORS = (3.0, 5.0, 7.0, 9.0, 11.0)


class Consistent(nn.Module):
    """The share (N,) of brightened copies answered like the picture itself, ties told apart by mean confidence."""

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        said = net(x).argmax(1, keepdim=True)
        agree, sure = x.new_zeros(len(x)), x.new_zeros(len(x))
        for factor in FACTORS:
            p = net((factor * x).minimum(torch.ones_like(x))).softmax(1)
            agree = agree + (p.argmax(1, keepdim=True) == said).squeeze(1) / len(FACTORS)
            sure = sure + p.gather(1, said).squeeze(1) / len(FACTORS)
        return agree + 1e-3 * sure


def uncalibrated(net: nn.Module, training: Training, **_: object) -> Detector:
    """The detector before its threshold is set."""
    return Detector(net, Consistent())


@stages.serve(
    paper="Guo et al., 2023, arXiv:2302.03251",
    learns=True,
    splits=("val",),
    shape=uncalibrated,
    surrogate=undetected,
    rejects=True,
    differs=("the threshold is set on val at a stated false-positive rate; the paper's is one half",),
)
def scaleup(net: nn.Module, training: Training, *, fpr: float = 0.1) -> nn.Module:
    """Inputs whose class survives multiplying the pixels by 3, 5, 7, 9 and 11 are rejected.

    fpr: share of clean val pictures rejected.
    """
    _, rest = halves(training)
    return uncalibrated(net, training).calibrated(rest, fpr, training.device)
