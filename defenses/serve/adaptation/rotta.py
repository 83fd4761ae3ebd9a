"""RoTTA: learnt from a memory of all classes, on slow statistics (Yuan et al., 2023, arXiv:2303.13899)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.methods.adaptation.memory import Item, Memory
from robustsuite.methods.adaptation.norms import affine, learning, moving_normed
from robustsuite.methods.adaptation.steps import Descent, adam, cross_entropy, entropy, follow, step
from robustsuite.methods.adaptation.views import viewed
from robustsuite.serve import stages


class Rotta(nn.Module):
    """The teacher answers; what it was asked goes into the memory, which the student learns from now and then."""

    def __init__(self, net: nn.Module, lr: float, share: float, momentum: float, size: int, every: int) -> None:
        super().__init__()
        self.student = moving_normed(net, share)
        self.teacher = copy.deepcopy(self.student)
        self.momentum, self.size, self.every = momentum, size, every
        self.descent = Descent(self.student, affine, adam(lr))
        self.memory: Memory | None = None
        self.asked = 0

    def standing(self, x: Tensor) -> Tensor:
        """What the teacher would answer to this batch, logits (N, K), differentiable."""
        logits: Tensor = self.teacher(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = self.teacher(x)
        self.memory = self.memory or Memory(self.size, answer.shape[1])
        said, unsure = answer.argmax(1).tolist(), entropy(answer).tolist()
        for picture, label, h in zip(x.detach(), said, unsure, strict=True):
            self.memory.add(Item(picture.clone(), label, h))
            self.asked += 1
            if self.asked % self.every == 0:
                self.learn(self.memory)
        return answer

    def learn(self, memory: Memory) -> None:
        """One step of the student towards the teacher on the memory, young pictures first; the teacher follows."""
        x, ages = memory.pictures()
        for net in (self.student, self.teacher):
            learning(net, True)
        with torch.no_grad():
            target = self.teacher(x)
        with self.descent.open() as optimiser:
            weights = (-ages).exp() / (1 + (-ages).exp())
            step(optimiser, (weights * cross_entropy(self.student(viewed(x)), target)).mean())
        for net in (self.student, self.teacher):
            learning(net, False)
        follow(self.teacher, self.student, self.momentum)


@stages.serve(paper="Yuan et al., 2023, arXiv:2303.13899", adapts="stream")
def rotta(
    net: nn.Module, *, lr: float = 1e-3, share: float = 0.05, momentum: float = 0.999, size: int = 64, every: int = 64
) -> nn.Module:
    """Slowly moving statistics, and a step from a balanced memory after every so many pictures.

    share: of a batch's statistics in the moving ones. momentum: of the teacher, which answers. size: pictures in the
    memory; every: pictures between steps. Raises Unsupported for a network without batch norm, BadValue.
    """
    if size < 1 or every < 1 or not 0 <= share <= 1:
        raise BadValue(f"expected size, every >= 1 and share in [0, 1], got {size!r}, {every!r} and {share!r}; leave "
                       f"them out for the paper's")  # fmt: skip
    return Rotta(net, lr, share, momentum, size, every)
