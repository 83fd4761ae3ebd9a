"""Reverse sigmoid: two pictures far apart are answered alike (Lee et al., 2018, arXiv:1806.00054).

y' = y - beta * (sigmoid(gamma * logit(y)) - 1/2), renormalised: what a network is sure of is answered with less, so
that one answer stands for two probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.methods.answers import as_logits, as_without
from robustsuite.serve import stages


class ReverseSigmoid(nn.Module):
    """(N, C, H, W) -> logits (N, K) whose softmax is perturbed."""

    def __init__(self, base: nn.Module, beta: float, gamma: float) -> None:
        super().__init__()
        self.base, self.beta, self.gamma = base, beta, gamma

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        p, classes = z.softmax(1), z.shape[1]
        # logit(p_k) = z_k - log of the sum over the others, where 1 - p would be rounded to 0
        others = z[:, None].masked_fill(torch.eye(classes, dtype=torch.bool, device=z.device), -torch.inf)
        logit = z - others.logsumexp(2)
        perturbed = (p - self.beta * ((self.gamma * logit).sigmoid() - 0.5)).relu()
        return as_logits(perturbed / perturbed.sum(1, keepdim=True), p.argmax(1))


@stages.serve(
    paper="Lee et al., 2018, arXiv:1806.00054",
    surrogate=as_without,
    differs=(
        "beta 0.7 and gamma 0.2; with the 1 and 1 of Orekondy et al.'s code every picture has one answer, as the "
        "sigmoid undoes the logit",
    ),
)
def reverse_sigmoid(net: nn.Module, *, beta: float = 0.7, gamma: float = 0.2) -> nn.Module:
    """Serve probabilities less a sigmoid of their log odds, renormalised; where scores are flat, classes may change.

    Raises BadValue.
    """
    if not (0 <= beta <= 2 and gamma >= 0):
        raise BadValue(f"expected beta in [0, 2] and gamma >= 0, got {beta!r} and {gamma!r}; write 0.7 and 0.2")
    return ReverseSigmoid(net, beta, gamma)
