"""Steps at test time: the losses that need no label, what takes a step on them, and means that follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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


class Descent:
    """An optimiser over parameters that want no gradient but while it is open; copied with the net that they are of."""

    def __init__(
        self, params: Iterable[nn.Parameter], made: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> None:
        self.params = list(params)
        self.made = made
        self.optimiser = made(self.params)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within, losses have gradients in the parameters."""
        try:
            with torch.enable_grad():
                for p in self.params:
                    p.requires_grad_(True)
                yield
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            for p in self.params:
                p.requires_grad_(False)

    def gradient(self, loss: Tensor) -> None:
        """Leave the loss's gradient with the parameters."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()

    def step(self, loss: Tensor) -> None:
        """One step down the loss."""
        self.gradient(loss)
        self.optimiser.step()

    def afresh(self) -> None:
        """Forget what was learnt of earlier gradients."""
        self.optimiser = self.made(self.params)


def adam(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Adam at this rate, its other numbers the usual ones."""
    return lambda params: torch.optim.Adam(params, lr=lr)


def sgd(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
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
