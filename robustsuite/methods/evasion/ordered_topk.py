"""The optimiser that every ordered top-K attack here shares: they differ in what draws a picture to its list.

AdamW on the change delta, for weight * pull(logits) + ||delta||_2^2, its moments reset after a warm-up; after each
success nearer than the ones before, the weight falls to three quarters; the weight to start from is found by bisection
(Zhang and Wu, 2020; Paniagua, Grainger, Wu, 2023, arXiv:2312.11510).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustsuite.config.goals import OrderedTopK
from robustsuite.config.registry import Cost
from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-8, 1e-2
"""AdamW's (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""
WARM_UP, START, EASED = 5, 2e-3, 0.75
"""Steps until the moments are reset, standard deviation of the first delta, the weight's factor after a success."""
LEAST = {"iterations": 60}
"""Of one search, as in the papers' full setting: what their attacks need before a number may rest on them."""


class Pull(Protocol):
    """Logits (N, C), lists (N, K), memory (N, M) -> loss (N,), smaller nearer to the list, and the next memory."""

    def __call__(self, logits: Tensor, targets: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Schedule:
    """searches: bisection steps of the weight in [0, upper]; iterations: steps of length lr in each. 9 x 60, 1 x 30."""

    searches: int
    iterations: int
    lr: float
    upper: float

    def __post_init__(self) -> None:
        if self.searches < 1 or self.iterations < 1 or not self.lr > 0 or not self.upper > 0:
            raise BadValue(f"expected searches, iterations >= 1 and lr, upper > 0, got {self}; write searches=1")


def cost(*, searches: int, iterations: int, **_: object) -> Cost:
    """One forward and backward a step, and at most one more forward in which the head is read."""
    return Cost(forwards=searches * iterations + 1, backwards=searches * iterations)


def attack(
    model: Oracle, x: Tensor, targets: Tensor | None, budget: Ball, pull: Pull, schedule: Schedule, *,
    rng: Rng, memory: Tensor,
) -> Tensor:  # fmt: skip
    """The nearest pictures (N, C, H, W) in l2 found to be classified as their list says, be that beyond the budget.

    targets: (N, K), the first class first. memory: (N, M), handed to `pull` at its first call. Where no picture was
    found, the one that came nearest to the order, inside the budget.
    """
    if targets is None:
        raise BadValue("expected the goal {ordered_topk: K} for an ordered top-K attack, got untargeted; set the goal")
    goal, lists = OrderedTopK(targets.shape[1]), targets

    def start(example: Tensor, _: Tensor) -> State:
        blank = torch.zeros(len(example), device=x.device)
        clean, none = x[example], torch.zeros_like(x[example])
        rows = {"at": clean, "found": clean, "m": none, "v": none, "memory": memory[example]}
        rows |= {"least": blank + torch.inf, "score": blank - torch.inf, "hit": blank > 0, "k": blank.long()}
        return rows | {"low": blank, "high": blank + schedule.upper, "asked": blank, "weight": blank}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example = rows["example"]
        clean, target = x[example], lists[example]
        rows = _begin(rows, clean, schedule, rng[example])
        last = [rows["memory"]]

        def loss(logits: Tensor) -> Tensor:
            value, last[0] = pull(logits, target, rows["memory"])
            return value

        ask = model[example].gradient(rows["at"], loss)
        rows = _keep(rows, clean, goal.margin(ask.logits.nan_to_num(nan=0.0), target), budget)
        moved = _adamw({**rows, "memory": last[0]}, clean, ask.grad.nan_to_num(0.0, 0.0, 0.0), schedule)
        finished = moved["k"] >= schedule.searches * schedule.iterations
        return moved, torch.zeros_like(finished), finished

    return search(model, 1, start, step, most=schedule.searches * schedule.iterations)[0].get("found", x)


def _begin(rows: State, clean: Tensor, schedule: Schedule, rng: Rng) -> State:
    """Where a search of the weight begins: the next weight of the bisection, a fresh delta, fresh moments."""
    number, t = rows["k"] // schedule.iterations, rows["k"] % schedule.iterations
    first, later = t == 0, (t == 0) & (number > 0)
    low = torch.where(later & ~rows["hit"], rows["asked"], rows["low"])
    high = torch.where(later & rows["hit"], rows["asked"], rows["high"])
    asked = torch.where(first, (low + high) / 2, rows["asked"])
    noise = START * rng.fold(number).normal(*clean.shape[1:])
    blank, fresh = per_row(first, clean), per_row(first | (t == WARM_UP), clean)
    return {
        **rows, "low": low, "high": high, "asked": asked, "weight": torch.where(first, asked, rows["weight"]),
        "hit": rows["hit"] & ~first, "at": torch.where(blank, (clean + noise).clamp(0, 1), rows["at"]),
        "m": torch.where(fresh, 0.0, rows["m"]), "v": torch.where(fresh, 0.0, rows["v"]),
    }  # fmt: skip


def _keep(rows: State, clean: Tensor, margin: Tensor, budget: Ball) -> State:
    """The nearest success, or until there is one the largest margin; a nearer success eases the weight."""
    length = projections.norm((rows["at"] - clean).flatten(1), "l2")
    nearer = (margin > losses.CONFIDENCE_MARGIN) & (length <= rows["least"])
    closer = rows["least"].isinf() & (margin > rows["score"]) & ~nearer
    found = torch.where(per_row(nearer, clean), rows["at"], rows["found"])
    found = torch.where(per_row(closer, clean), budget.project(clean, rows["at"]), found)
    return {
        **rows, "found": found, "hit": rows["hit"] | (margin > losses.CONFIDENCE_MARGIN),
        "least": torch.where(nearer, length, rows["least"]), "score": torch.where(closer, margin, rows["score"]),
        "weight": torch.where(nearer, EASED * rows["weight"], rows["weight"]),
    }  # fmt: skip


def _adamw(rows: State, clean: Tensor, grad: Tensor, schedule: Schedule) -> State:
    """One step on weight * pull + ||delta||^2, then back into the box."""
    t = rows["k"] % schedule.iterations
    t = per_row(torch.where(t < WARM_UP, t, t - WARM_UP) + 1, clean)
    delta = rows["at"] - clean
    g = per_row(rows["weight"], clean) * grad + 2 * delta
    m = BETA1 * rows["m"] + (1 - BETA1) * g
    v = BETA2 * rows["v"] + (1 - BETA2) * g.square()
    size = (v / (1 - BETA2**t)).sqrt() + EPS
    delta = (1 - schedule.lr * DECAY) * delta - schedule.lr * (m / (1 - BETA1**t)) / size
    return {**rows, "at": (clean + delta).clamp(0, 1), "m": m, "v": v, "k": rows["k"] + 1}
