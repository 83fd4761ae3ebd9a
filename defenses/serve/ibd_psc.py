"""IBD-PSC: a triggered picture keeps its class although batch norms are scaled up (Hou et al., ICML 2024, 2405.09786).

Parameter-oriented scaling consistency: copies of the network whose last batch norms have weights and biases times 1.5
forget clean pictures; on triggered ones they stay sure.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustsuite.errors import Unsupported
from robustsuite.methods.backdoors.detection import Detector, halves, undetected
from robustsuite.serve import stages
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training


def norms(net: nn.Module) -> list[str]:
    """Names of the batch norms with weights, in the order that modules are registered in. Raises Unsupported."""
    found = [name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    if not found:
        raise Unsupported("expected a network with batch norms, which ibd_psc scales, got none; use scaleup or strip")
    return found


def amplified(net: nn.Module, x: Tensor, last: int, scale: float) -> Tensor:
    """Logits (N, K) of the network with the weights and biases of its last so many batch norms times `scale`."""
    held = dict(net.named_parameters())
    names = [f"{name}.{part}" for name in norms(net)[-last:] for part in ("weight", "bias")]
    logits: Tensor = functional_call(net, {name: scale * held[name] for name in names}, (x,))
    return logits


class Sure(nn.Module):
    """Mean confidence (N,) of `copies` amplified networks in what `net` says of a picture, ties told apart by its lead.

    Scaled networks are often so sure that float32 knows no difference from 1; a thousandth of the score is the lead.
    after: batch norms that are scaled in the first copy, less one; each copy scales one more.
    """

    after: Tensor

    def __init__(self, copies: int, scale: float) -> None:
        super().__init__()
        self.copies, self.scale = copies, scale
        self.register_buffer("after", torch.tensor(1))

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        said, first = net(x).argmax(1, keepdim=True), int(self.after) + 1
        sure = x.new_zeros(len(x))
        for i in range(self.copies):
            logits = amplified(net, x, first + i, self.scale)
            others = logits.scatter(1, said, -torch.inf).logsumexp(1)
            lead = logits.gather(1, said).squeeze(1) - others
            sure = sure + (lead.sigmoid() + 1e-3 * nn.functional.softsign(lead)) / self.copies
        return sure


def uncalibrated(net: nn.Module, training: Training, *, copies: int, scale: float, **_: object) -> Detector:
    """The detector before it knows how many layers to scale and its threshold."""
    return Detector(net, Sure(copies, scale))


@stages.serve(
    paper="Hou et al., 2024, arXiv:2405.09786",
    learns=True,
    splits=("val",),
    shape=uncalibrated,
    surrogate=undetected,
    rejects=True,
    differs=(
        "the threshold is set on val at a stated false-positive rate; the authors' is a confidence of 0.9",
        "where scaling all batch norms leaves fewer clean pictures wrong than `error`, copies scale all of them; the "
        "authors' code ends without an answer",
        "a network without batch norm is refused: scaling every convolution of a ReLU network scales its logits alone",
    ),
)
def ibd_psc(
    net: nn.Module, training: Training, *, fpr: float = 0.1, copies: int = 5, scale: float = 1.5, error: float = 0.6
) -> nn.Module:
    """Inputs whose class survives scaled batch norms are rejected.

    fpr: share of clean val pictures rejected. copies: amplified networks asked. scale: of weights and biases. error:
    share of clean pictures that the first copy has wrong. Raises Unsupported for a network without batch norm.
    """
    clean, rest = halves(training)
    detector = uncalibrated(net, training, copies=copies, scale=scale)
    assert isinstance(detector.suspicion, Sure)
    detector.suspicion.after.fill_(fewest(net, clean, scale, error, training.device))
    return detector.calibrated(rest, fpr, training.device)


def fewest(net: nn.Module, clean: Split, scale: float, error: float, device: str) -> int:
    """The fewest last batch norms whose scaling makes more than `error` of the clean pictures wrong; at most all."""
    every = len(norms(net))
    with torch.no_grad():
        for last in range(1, every):
            wrong = [amplified(net, x.to(device), last, scale).argmax(1).cpu() != y for _, x, y in clean.batches(256)]
            if float(torch.cat(wrong).float().mean()) > error:
                return last
    return every
