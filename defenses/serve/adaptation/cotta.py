"""CoTTA: taught by a mean of itself over many views, restored now and then (Wang et al., 2022, arXiv:2203.13591)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.methods.adaptation.norms import adaptable
from robustsuite.methods.adaptation.steps import Descent, adam, cross_entropy, follow, step, whole
from robustsuite.methods.adaptation.views import viewed
from robustsuite.serve import stages


class Cotta(nn.Module):
    """The teacher answers; the student learns from it, the teacher follows, some weights return to the source's."""

    def __init__(
        self, net: nn.Module, lr: float, momentum: float, restored: float, confident: float, views: int
    ) -> None:
        super().__init__()
        self.student = adaptable(net)
        self.teacher, self.source = copy.deepcopy(self.student), copy.deepcopy(self.student)
        self.momentum, self.restored, self.confident, self.views = momentum, restored, confident, views
        self.descent = Descent(self.student, whole, adam(lr))

    def standing(self, x: Tensor) -> Tensor:
        """What the teacher would answer to this batch as it is, without other views: logits (N, K), differentiable."""
        logits: Tensor = self.teacher(x)
        return logits

    @torch.no_grad()
    def taught(self, x: Tensor) -> Tensor:
        """The teacher's answer, the mean over views of it where the source is not confident."""
        if self.source(x).softmax(1).amax(1).mean() < self.confident:
            return torch.stack([self.teacher(viewed(x)) for _ in range(self.views)]).mean(0)
        return self.standing(x)

    @torch.no_grad()
    def restore(self) -> None:
        """Each weight returns to the source's with the probability `restored`."""
        for now, then in zip(self.student.parameters(), self.source.parameters(), strict=True):
            now.copy_(torch.where(torch.rand(now.shape, device=now.device) < self.restored, then, now))

    def forward(self, x: Tensor) -> Tensor:
        answer = self.taught(x)
        with self.descent.open() as optimiser:
            step(optimiser, cross_entropy(self.student(x), answer).mean())
        follow(self.teacher, self.student, self.momentum)
        self.restore()
        return answer


@stages.serve(paper="Wang et al., 2022, arXiv:2203.13591", adapts="stream")
def cotta(
    net: nn.Module, *, lr: float = 1e-3, momentum: float = 0.999, restored: float = 0.01, confident: float = 0.92,
    views: int = 32,
) -> nn.Module:  # fmt: skip
    """A student of all weights, taught by its moving mean, each weight restored to the source's now and then.

    momentum: of the teacher. restored: the probability with which a weight returns, after each batch. confident: mean
    confidence of the source below which the teacher answers by the mean of its logits over `views` views of the batch.
    Raises Unsupported for a network without norm layers, BadValue.
    """
    if not (0 <= restored <= 1 and 0 <= momentum <= 1 and views >= 1):
        raise BadValue(f"expected restored and momentum in [0, 1] and views >= 1, got {restored!r}, {momentum!r} and "
                       f"{views!r}; leave them out for the paper's")  # fmt: skip
    return Cotta(net, lr, momentum, restored, confident, views)
