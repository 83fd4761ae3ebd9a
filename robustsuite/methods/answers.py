"""Answers as probabilities, for defenses that change what is served; served are logits whose softmax they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 1e-12
"""What a probability of 0 is served as: no number may be infinite."""

LEAD = 1e-3
"""By how much, in log probability, a network's own class leads where a coarser answer ties it with another."""


def as_logits(p: Tensor, first: Tensor) -> Tensor:
    """Logits (N, K) whose softmax is p (N, K), renormalised; where the largest tie, class first (N,) of them leads."""
    most = p.amax(1, keepdim=True)
    ties = ((p == most).sum(1) > 1) & (p.gather(1, first[:, None]) == most).squeeze(1)
    return torch.where(p < LEAST, LEAST, p).log().scatter_add(1, first[:, None], LEAD * ties[:, None].to(p))


def onto_simplex(v: Tensor) -> Tensor:
    """The nearest point, in l2, of each row (N, K) whose entries are not negative and sum to 1.

    Held, Wolfe, Crowder (1974): subtract the one number that leaves a sum of 1, and cut at 0.
    """
    ordered = v.sort(1, descending=True).values
    over = (ordered.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    kept = (ordered > over).sum(1, keepdim=True).clamp(min=1)
    return (v - over.gather(1, kept - 1)).relu()


def as_without(base: nn.Module, served: nn.Module) -> nn.Module:
    """The network below, which says the same class or nearly so and hides nothing: what attacks go through."""
    return base
