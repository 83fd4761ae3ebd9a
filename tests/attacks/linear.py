"""A linear two-way classifier in the middle of the box, whose distance to the boundary is known in every norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle

SHAPE = (3, 8, 6)  # not square on purpose


class Linear(nn.Module):
    """Logits (w . (x - 1/2) + b, 0, -9, -9, ...): class 0 wherever the margin w . (x - 1/2) + b is positive."""

    def __init__(self, w: Tensor, b: float = 1.0, classes: int = 5) -> None:
        super().__init__()
        self.register_buffer("w", w)
        self.b, self.classes = b, classes

    def forward(self, x: Tensor) -> Tensor:
        margin = ((x - 0.5) * self.w).flatten(1).sum(1) + self.b
        others = torch.full((len(x), self.classes - 2), -9.0).to(x) + 0 * margin[:, None]
        return torch.cat([margin[:, None], 0 * margin[:, None], others], 1)


def linear(seed: int = 0, b: float = 1.0) -> Linear:
    """Weights of different sizes, signs at random; for b = 1 the box is out of the way in linf, l2 and l1."""
    size = Rng.of(seed, "weights", torch.tensor([0])).uniform(*SHAPE, low=0.2, high=3.0)[0]
    sign = Rng.of(seed, "signs", torch.tensor([0])).uniform(*SHAPE, low=-1, high=1)[0].sign()
    return ready(Linear(size * sign, b))  # type: ignore[return-value]


def centre(n: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures of the box's middle, whose margin is b, with their labels."""
    return torch.full((n, *SHAPE), 0.5), torch.zeros(n, dtype=torch.int64)


def distance(net: Linear, norm: str) -> float:
    """Closed form of the middle's distance to the boundary: b / ||w|| in the dual norm; l0 by greedy halves."""
    w = net.w.abs().flatten().double()
    if norm == "l0":
        return float(((w.sort(descending=True).values / 2).cumsum(0) < net.b).sum() + 1)
    return float(net.b / {"linf": w.sum(), "l2": w.norm(), "l1": w.max()}[norm])


def oracle(net: nn.Module, n: int, *, width: int = 64, ids: Tensor | None = None, **limits: object) -> Oracle:
    """A white-box oracle for n examples, with streams of their own."""
    ids = torch.arange(n) if ids is None else ids
    return Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids), width=width, **limits)


def streams(n: int) -> Rng:
    """The attack's streams of n examples."""
    return Rng.of(0, "attack", torch.arange(n))
