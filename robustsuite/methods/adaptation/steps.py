"""Steps at test time: the losses that need no label, what takes a step on them, and means that follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def entropy(logits: Tensor) -> Tensor:
    """Entropy (N,) in nats of the softmax of logits (N, K)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (N,) of the softmax of logits (N, K) under that of targets (N, K)."""
    return -(targets.softmax(1) * logits.log_softmax(1)).sum(1)


def symmetric_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Half the cross-entropy under the targets and half the reverse (N,); both are logits (N, K)."""
    return 0.5 * cross_entropy(logits, targets) + 0.5 * cross_entropy(targets, logits)


def margin(share: float, classes: int) -> float:
    """An entropy as a share of the most that so many classes can have."""
    return share * math.log(classes)


Made = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""An optimiser of these parameters."""


class Descent:
    """Steps of an optimiser over some of a net's parameters, which want no gradient but while it is open.

    which: of the net. It is asked when the first step is taken: before, a net may be moved to another device, or copied
    with its descent.
    """

    def __init__(self, net: nn.Module, which: Callable[[nn.Module], list[nn.Parameter]], made: Made) -> None:
        self.net, self.which, self.made = net, which, made
        self.optimiser: torch.optim.Optimizer | None = None
        which(net)

    @property
    def params(self) -> list[nn.Parameter]:
        """What it moves, in the net's order."""
        return self.which(self.net)

    @contextmanager
    def open(self) -> Iterator[torch.optim.Optimizer]:
        """Within, losses have gradients in the parameters."""
        params = self.params
        self.optimiser = optimiser = self.optimiser or self.made(params)
        try:
            with torch.enable_grad():
                for p in params:
                    p.requires_grad_(True)
                yield optimiser
        finally:
            optimiser.zero_grad(set_to_none=True)
            for p in params:
                p.requires_grad_(False)

    def afresh(self) -> None:
        """Forget what was learnt of earlier gradients."""
        self.optimiser = None


def gradient(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Leave the loss's gradient with the parameters."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the loss."""
    gradient(optimiser, loss)
    optimiser.step()


def whole(net: nn.Module) -> list[nn.Parameter]:
    """Every parameter of a net."""
    return list(net.parameters())


def adam(lr: float) -> Made:
    """Adam at this rate, its other numbers the usual ones."""
    return lambda params: torch.optim.Adam(params, lr=lr)


def sgd(lr: float) -> Made:
    """SGD at this rate with a momentum of 0.9."""
    return lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters to momentum of their own and the rest of the student's."""
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.lerp_(theirs, 1 - momentum)


def moved(mean: Tensor | None, p: Tensor) -> Tensor | None:
    """The mean (K,) of probabilities with those of new pictures (M, K) at a tenth; as it was where there are none."""
    if not len(p):
        return mean
    new = p.detach().mean(0)
    return new if mean is None else 0.9 * mean + 0.1 * new


def diverse(p: Tensor, mean: Tensor | None, most: float) -> Tensor:
    """Which probabilities (N, K) point another way than their mean (K,) so far: |cosine| < most; all at first."""
    if mean is None:
        return torch.ones(len(p), dtype=torch.bool, device=p.device)
    return torch.cosine_similarity(mean[None], p, dim=1).abs() < most


def sureness(entropies: Tensor, limit: float) -> Tensor:
    """Weights (N,) exp(limit - entropy), constants: the surer a picture is, the more it counts."""
    return (limit - entropies.detach()).exp()
