"""Noise in a few pictures of each batch: what others lose to any that look odd, and the floor of an attack on them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import adaptation


@adaptation.attack(
    needs=Access.LABELS, norms=("linf", "l2", "l1", "l0"), paper="Wu et al., 2023, arXiv:2301.12576",
    cost=lambda **_: Cost(), **BLACK_BOX,
)  # fmt: skip
def batch_noise(view: adaptation.View, x: Tensor, y: Tensor, own: Tensor, ball: Ball, *, rng: Rng) -> Tensor:
    """The adversary's pictures each moved to a drawn point of the ball."""
    return torch.where(own[:, None, None, None], ball.sample(x, rng), x)
