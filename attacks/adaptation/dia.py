"""DIA: a few pictures that spoil the statistics others are answered by (Wu et al., 2023, arXiv:2301.12576)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths.projections import steepest
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import adaptation


@adaptation.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2"),
    paper="Wu et al., 2023, arXiv:2301.12576, the indiscriminate attack",
    cost=lambda *, steps, **_: Cost(steps + 1, steps),
    **WHITE_BOX,
    differs=(
        "20 steps of a quarter of the radius, falling to 0, where the paper takes many small ones",
        "of all steps the batch with the largest loss of the others is kept",
        "the labels of the others are known to it, as in the official code",
    ),
)
def dia(
    view: adaptation.View, x: Tensor, y: Tensor, own: Tensor, ball: Ball, *, rng: Rng, steps: int = 20,
    rel_step: float = 0.25,
) -> Tensor:  # fmt: skip
    """Ascent of the others' mean loss, by gradients through what the batch shares.

    steps: gradients a batch. rel_step: length of the first step, of the radius. Raises BadValue.
    """
    if steps < 1 or not rel_step > 0:
        raise BadValue(f"expected steps >= 1 and rel_step > 0, got {steps!r} and {rel_step!r}; write steps=20")
    mine = own[:, None, None, None]

    def harm(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits[~own], y[~own])

    at = torch.where(mine, ball.sample(x, rng), x)
    best, kept = -torch.inf, x
    for step in range(steps):
        logits, grad = view.gradient(at, harm)
        found = float(harm(logits))
        best, kept = (found, at) if found > best else (best, kept)
        moved = steepest(at, grad, ball.eps * rel_step * (1 - step / steps), ball.norm)
        at = torch.where(mine, ball.project(x, moved), x)
    return at if float(harm(view.logits(at))) > best else kept
