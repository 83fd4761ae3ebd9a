"""A stream that nobody meddles with: what a system that adapts is worth (Wang et al., 2021, arXiv:2006.10726)."""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import adaptation


@adaptation.attack(needs=Access.LABELS, paper="Wang et al., 2021, arXiv:2006.10726", cost=lambda **_: Cost())
def benign(view: adaptation.View, x: Tensor, y: Tensor, own: Tensor, ball: Ball, *, rng: Rng) -> Tensor:
    """No adversary: every picture as it comes."""
    return x
