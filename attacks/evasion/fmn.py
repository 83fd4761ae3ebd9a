"""FMN: the smallest adversarial change, by a ball that shrinks and grows (Pintor et al., 2021, arXiv 2102.12827).

One run gives robust accuracy at every eps: what it returns is the nearest break found, inside budget.eps or not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Ask, Oracle

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
ALPHA, GAMMA = (1.0, 0.01), (0.05, 0.001)
"""Step length, and relative change of the ball: first and last, on a cosine between."""


def _cost(*, steps: int, **_: object) -> Cost:
    return Cost(forwards=steps + 1, backwards=steps + 1)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1", "l0"),
    goals=("untargeted", "targeted"),
    paper="Pintor et al., 2021, arXiv:2102.12827",
    cost=_cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 100},  # the smaller of the paper's two settings, 100 and 1000
    minimum_norm=True,
    differs=("before the first break the ball reaches 1 + gamma times the linearised distance: a tie is no break",),
)
def fmn(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 100
) -> Tensor:
    """Fast minimum-norm attack from the clean picture, in the budget's norm.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the nearest adversarial
    found even beyond budget.eps; where none was found the last iterate, projected onto the budget. l0 counts pixel
    values. Deterministic. Raises BadValue.
    """
    if steps < 1:
        raise BadValue(f"expected steps >= 1, got {steps!r}; write for example steps=100")
    norm = budget.norm

    def start(example: Tensor, _: Tensor) -> State:
        clean, none = x[example], torch.zeros(len(example), device=x.device)
        eps = none + (1 if norm == "l0" else torch.inf)
        count = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {"at": clean, "found": clean, "least": none + torch.inf, "eps": eps, "k": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        clean, label, at, k = x[rows["example"]], y[rows["example"]], rows["at"], rows["k"]
        target = None if targets is None else targets[rows["example"]]
        ask = model[rows["example"]].gradient(at, lambda z: losses.goal_margin(z, label, target))
        length = projections.norm((at - clean).flatten(1), norm)
        wrong = ask.loss > losses.CONFIDENCE_MARGIN
        nearer = wrong & (length < rows["least"])
        least = torch.where(nearer, length, rows["least"])
        found = torch.where(per_row(nearer, at), at, rows["found"])

        part = k.to(torch.float64) / steps
        eps = _radius(rows["eps"], wrong, least, length, ask, _cosine(GAMMA, part), norm)
        moved = at + per_row(_cosine(ALPHA, part), at) * projections.unit(ask.grad, "l2")
        new = projections.project(clean, moved, eps, norm)
        finished = k >= steps
        spent = per_row(finished & least.isinf(), at)
        found = torch.where(spent, budget.project(clean, at), found)
        rows = {**rows, "at": new, "found": found, "least": least, "eps": eps, "k": k + 1}
        return rows, torch.zeros_like(wrong), finished

    return search(model, 1, start, step, most=steps + 1)[0].get("found", x)


def _cosine(ends: tuple[float, float], part: Tensor) -> Tensor:
    """From the first end to the last as `part` goes from 0 to 1, (N,) float32."""
    return (ends[1] + (ends[0] - ends[1]) * (1 + torch.cos(math.pi * part)) / 2).to(torch.float32)


def _radius(eps: Tensor, wrong: Tensor, least: Tensor, length: Tensor, ask: Ask, gamma: Tensor, norm: str) -> Tensor:
    """The next ball: smaller after a break, larger after none; before the first, the linearised distance."""
    if norm == "l0":
        smaller = torch.minimum(torch.minimum(eps - 1, (eps * (1 - gamma)).floor()), least)
        larger = torch.maximum(eps + 1, (eps * (1 + gamma)).floor())
        return torch.where(wrong, smaller, larger).clamp_min(0)
    slope = projections.norm(ask.grad.flatten(1), DUAL[norm]).clamp_min(1e-12)
    guess = (length + ask.loss.abs() / slope) * (1 + gamma)  # the boundary itself is a tie, which is no break
    smaller = torch.minimum(eps * (1 - gamma), least)
    return torch.where(wrong, smaller, torch.where(least.isinf(), guess, eps * (1 + gamma)))
