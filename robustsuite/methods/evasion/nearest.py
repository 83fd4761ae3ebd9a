"""What minimum-norm attacks share: the loop that asks, keeps the nearest break so far and moves on; Adam; a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Ask, Oracle

MEAN, SQUARE, TINY = 0.9, 0.999, 1e-8
"""Adam's averages and what its root is held away from 0 by (Kingma & Ba, 2015, arXiv 1412.6980, algorithm 1)."""


class Seen(NamedTuple):
    """What a method moves by, a row each: the clean picture, the answer at `at`, and what it says.

    wrong (B,) bool: the goal is reached by more than rounding. length (B,): the distance of `at`. least (B,): that of
    the nearest break so far, infinite before the first. k (B,) int64: the moves made. part (B,) float64: k over all.
    """

    clean: Tensor
    ask: Ask
    wrong: Tensor
    length: Tensor
    least: Tensor
    k: Tensor
    part: Tensor


class Walk(NamedTuple):
    """A method: what it descends to the boundary by, what its rows hold, and how it moves.

    loss (logits, y, targets) -> (B,): what `Seen.ask` is a gradient of. begin: example (B,) -> a method's own rows.
    move (rows, seen) -> rows with the next `at`, in the box. aims (N, T): a round toward each of these classes, which
    the loss is handed in place of the targets; what counts as a break stays.
    """

    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    begin: Callable[[Tensor], State]
    move: Callable[[State, Seen], State]
    aims: Tensor | None = None


def nearest(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, targets: Tensor | None, steps: int, walk: Walk
) -> Tensor:
    """Pictures (N, C, H, W): the nearest break of steps + 1 points from the clean one on, inside the budget or not.

    Of several rounds that of all of them. Where nothing broke, the last point asked about comes back, projected onto
    the budget. Raises BadValue.
    """
    if steps < 1:
        raise BadValue(f"expected steps >= 1, got {steps!r}; write for example steps=100")

    def start(example: Tensor, _: Tensor) -> State:
        clean, least = x[example], torch.full((len(example),), torch.inf, device=x.device)
        count = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {**walk.begin(example), "at": clean, "found": clean, "least": least, "score": -least, "k": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        clean, label, at, k = x[rows["example"]], y[rows["example"]], rows["at"], rows["k"]
        target = None if targets is None else targets[rows["example"]]
        aim = target if walk.aims is None else walk.aims[rows["example"], rows["round"]][:, None]
        ask = model[rows["example"]].gradient(at, lambda z: walk.loss(z, label, aim))
        wrong = losses.goal_margin(ask.logits, label, target) > losses.CONFIDENCE_MARGIN
        length = projections.norm((at - clean).flatten(1), budget.norm)
        nearer = wrong & (length < rows["least"])
        least = torch.where(nearer, length, rows["least"])
        found = torch.where(per_row(nearer | least.isinf(), at), at, rows["found"])
        moved = walk.move(rows, Seen(clean, ask, wrong, length, least, k, k.to(torch.float64) / steps))
        kept = {"found": found, "least": least, "score": -least}
        return {**rows, **moved, **kept, "k": k + 1}, torch.zeros_like(wrong), k >= steps

    rounds = 1 if walk.aims is None else walk.aims.shape[1]
    rows = search(model, rounds, start, step, most=steps + 1, keep=("least",))[0]
    if not rows:
        return x
    return torch.where(per_row(rows["least"].isinf(), x), budget.project(x, rows["found"]), rows["found"])


def cost(*, steps: int, **_: object) -> Cost:
    """A forward and a backward pass for each of the steps + 1 points."""
    return Cost(forwards=steps + 1, backwards=steps + 1)


def cosine(ends: tuple[float, float], part: Tensor) -> Tensor:
    """From the first end to the last as `part` goes from 0 to 1, (N,) float32."""
    return (ends[1] + (ends[0] - ends[1]) * (1 + torch.cos(math.pi * part)) / 2).to(torch.float32)


def adam(rows: State, grad: Tensor, k: Tensor) -> tuple[State, Tensor, Tensor]:
    """Adam's averages after this gradient (B, C, H, W), the k-th from 0 on: the rows 'mean' and 'square', the unbiased
    mean, and the root that a step divides it by."""
    mean = torch.lerp(rows["mean"], grad, 1 - MEAN)
    square = torch.lerp(rows["square"], grad.square(), 1 - SQUARE)
    heard = [per_row((1 - kept ** (k + 1).to(torch.float64)).to(grad.dtype), grad) for kept in (MEAN, SQUARE)]
    return {"mean": mean, "square": square}, mean / heard[0], (square / heard[1]).sqrt() + TINY
