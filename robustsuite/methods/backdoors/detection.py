"""Input detectors: a network that also answers "rejected", by a score whose threshold comes from clean val pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training

CLEAN = 2000
"""Clean pictures a detector may learn from, at the most (Xie et al., 2024); the rest of val sets the threshold."""


class Detector(nn.Module):
    """Logits (N, K) of `net`; a row of NaN where suspicion(net, x) (N,), larger is worse, exceeds the threshold.

    The suspicion is handed the network, so that an attack can ask it of a differentiable stand-in.
    """

    def __init__(self, net: nn.Module, suspicion: nn.Module) -> None:
        super().__init__()
        self.net, self.suspicion = net, suspicion
        self.register_buffer("threshold", torch.tensor(torch.inf))
        self.register_buffer("spread", torch.tensor(1.0))

    threshold: Tensor
    spread: Tensor

    def score(self, x: Tensor) -> Tensor:
        """How suspicious each picture is (N,)."""
        with torch.no_grad():
            found: Tensor = self.suspicion(self.net, x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.masked_fill((self.score(x) > self.threshold)[:, None], torch.nan)

    def calibrated(self, clean: Split, fpr: float, device: str) -> Detector:
        """The threshold that rejects a share `fpr` of the clean pictures answered right. Raises BadValue, BadData."""
        if not 0 < fpr < 1:
            raise BadValue(f"expected a false-positive rate between 0 and 1, got {fpr!r}; write 0.01")
        self.to(device).eval()
        scores = []
        with torch.no_grad():
            for _, x, y in clean.batches(128):
                x = x.to(device)
                right = self.net(x).argmax(1) == y.to(device)
                scores.append(self.score(x)[right])
        kept = torch.cat(scores) if scores else torch.empty(0)
        if len(kept) < 1 / fpr:
            raise BadData(
                f"expected at least {round(1 / fpr)} clean val pictures answered right to set a false-positive rate of "
                f"{fpr:g}, got {len(kept)}; raise fpr or give the data set a larger val split"
            )
        self.threshold.copy_(torch.quantile(kept.double(), 1 - fpr, interpolation="higher"))
        self.spread.copy_(kept.double().std().clamp_min(1e-6))
        return self


class Undetected(nn.Module):
    """The stand-in to attack a detector through: `net`, the margin shrunk smoothly as its suspicion passes threshold.

    net: what the detector wraps, or that network's own stand-in. Of what a suspicion holds itself (an expert fine-tuned
    from the wrapped network) there is no stand-in; its gradient passes as it is.

    A picture that is wrong and rejected is no success, so the attack gains by staying below (the combined classifier of
    Carlini and Wagner, 2017, arXiv:1705.07263, without its extra class).
    """

    threshold: Tensor
    spread: Tensor

    def __init__(self, net: nn.Module, detector: Detector) -> None:
        super().__init__()
        self.net, self.suspicion = net, detector.suspicion
        self.register_buffer("threshold", detector.threshold)
        self.register_buffer("spread", detector.spread)

    def forward(self, x: Tensor) -> Tensor:
        over = (self.suspicion(self.net, x) - self.threshold) / self.spread
        shrink = torch.exp(-nn.functional.softplus(over.nan_to_num(nan=0.0)))
        logits: Tensor = self.net(x)
        return logits * shrink[:, None]


def undetected(base: nn.Module, served: Detector) -> nn.Module:
    """The surrogate of a served detector: what it learnt, asked of `base`."""
    return Undetected(base, served)


def halves(training: Training) -> tuple[Split, Split]:
    """The val split cut in two by a seeded order: to learn from, and to set the threshold on."""
    n = len(training.val)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(training.seed))
    cut = min(CLEAN, n // 2)
    return training.val.at(order[:cut].sort().values), training.val.at(order[cut:].sort().values)
