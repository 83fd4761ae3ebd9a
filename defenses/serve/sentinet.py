"""SentiNet: a region that carries its class into other pictures is a trigger (Chou, Tramer, Pellegrino, 2018).

Grad-CAM finds what the answer rests on; it is pasted on clean pictures, and so is noise of the same shape. A trigger
fools the network where noise leaves it sure (arXiv:1812.00292).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import BadData
from robustsuite.methods.backdoors.detection import Detector, halves, undetected
from robustsuite.methods.maps import grad_cam
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training

BIN = 0.02
"""Of mean confidence, in which the most fooled clean picture stands for the bound."""

MOST = 400
"""Clean pictures that the bound is fitted to, at the most."""


def salient(net: nn.Module, x: Tensor, classes: Tensor, share: float) -> Tensor:
    """The share of places (N, 1, H, W) that speaks most for these classes, as bool; the same number in each picture."""
    heat = grad_cam(net, x, classes).flatten(1)
    top = heat.topk(max(1, int(share * heat.shape[1])), dim=1).indices
    return torch.zeros_like(heat, dtype=torch.bool).scatter(1, top, True).view(len(x), 1, *x.shape[2:])


class Pasted(nn.Module):
    """How far (N,) a picture's region fools the network beyond what clean pictures do at the same confidence.

    onto (M, C, H, W): clean pictures. noise: what is pasted beside. curve (3,): the bound, a + b c + d c^2.
    """

    onto: Tensor
    noise: Tensor
    curve: Tensor

    def __init__(self, onto: Tensor, noise: Tensor, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("onto", onto)
        self.register_buffer("noise", noise)
        self.register_buffer("curve", torch.zeros(3))

    def point(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean confidence (N,) under noise, and the share (N,) of clean pictures that the region turns to its class."""
        said = net(x).argmax(1)
        region = salient(net, x, said, self.share)
        sure, fooled = x.new_zeros(len(x)), x.new_zeros(len(x))
        for picture, noise in zip(self.onto, self.noise, strict=True):
            fooled = fooled + (net(torch.where(region, x, picture)).argmax(1) == said) / len(self.onto)
            sure = sure + net(torch.where(region, noise, picture)).softmax(1).amax(1) / len(self.onto)
        return sure, fooled

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        sure, fooled = self.point(net, x)
        return fooled - powers(sure) @ self.curve


def powers(c: Tensor) -> Tensor:
    """1, c, c^2 (N, 3)."""
    return torch.stack([torch.ones_like(c), c, c.square()], 1)


def bound(sure: Tensor, fooled: Tensor) -> Tensor:
    """The quadratic (3,) through the most fooled clean pictures of each bin of confidence, by least squares."""
    places = ((sure - sure.min()) / BIN).long()
    x = sure.min() + BIN * (places.unique() + 0.5)
    y = torch.stack([fooled[places == place].max() for place in places.unique()])
    solved = torch.linalg.lstsq(powers(x.double()).cpu(), y.double().cpu()[:, None], driver="gelsd")
    curve: Tensor = solved.solution[:, 0].float()
    return curve


def untaught(net: nn.Module, training: Training, *, overlays: int, share: float, **_: object) -> Detector:
    """The detector before its bound and its threshold are set."""
    clean, _rest = halves(training)
    onto = clean.images(torch.arange(min(overlays, len(clean))))
    noise = torch.rand(onto.shape, generator=torch.Generator().manual_seed(training.seed))
    return Detector(net, Pasted(onto, noise, share))


@stages.serve(
    paper="Chou, Tramer, Pellegrino, 2018, arXiv:1812.00292",
    learns=True,
    splits=("val",),
    shape=untaught,
    surrogate=undetected,
    rejects=True,
    differs=(
        "one Grad-CAM region, of the answered class; the paper subtracts those of further likely classes",
        "a picture's distance from the bound is upwards, not to its nearest point, and the threshold is set on val",
        "features are the last with places in any network; there the region is as coarse as they are",
    ),
)
def sentinet(
    net: nn.Module, training: Training, *, fpr: float = 0.1, overlays: int = 100, share: float = 0.15
) -> nn.Module:
    """Inputs whose salient region turns clean pictures to their class are rejected.

    fpr: share of clean val pictures rejected. overlays: clean pictures pasted on; an answer costs 2 overlays + 2
    forwards. share: of the picture that is pasted. Raises BadData, and Unsupported without features over places.
    """
    clean, rest = halves(training)
    detector = untaught(net, training, overlays=overlays, share=share).to(training.device).eval()
    others = clean.at(torch.arange(min(overlays, len(clean)), min(len(clean), overlays + MOST)))
    if len(others) < 3:
        raise BadData(
            f"expected at least {overlays + 3} clean pictures in half of val, got {len(clean)}; lower overlays"
        )
    assert isinstance(detector.suspicion, Pasted)
    detector.suspicion.curve.copy_(fitted_to(detector, others, training.device))
    return detector.calibrated(rest, fpr, training.device)


def fitted_to(detector: Detector, clean: Split, device: str) -> Tensor:
    """The bound (3,) of these clean pictures."""
    assert isinstance(detector.suspicion, Pasted)
    with torch.no_grad():
        points = [detector.suspicion.point(detector.net, x.to(device)) for _, x, _ in clean.batches(128)]
    sure, fooled = (torch.cat(parts) for parts in zip(*points, strict=True))
    return bound(sure, fooled)
