"""Target halving: many classes for a few steps of Auto-PGD, the better half of them for more, the best for the most.

Successive halving (Karnin, Koren, Somekh, 2013; Jamieson & Talwalkar, 2016, arXiv 1502.07943) over the targets of
Auto-PGD with the targeted DLR loss (Croce & Hein, 2020, arXiv 2003.01690): which class is nearest shows after a few
steps, and only there is it worth going on. Each stage goes on from the best point that its class has reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.threats import Ball
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.apgd import Climb, Objective, born, random_start, stepping
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

Stages = Sequence[tuple[int, int]]
"""(classes, steps each) of each stage, ever fewer classes."""


class Halved(NamedTuple):
    """Pictures (N, C, H, W), which broke (N,), the highest loss (N,) of the others, and the goals (N, T) as ranked."""

    x_adv: Tensor
    broken: Tensor
    loss: Tensor
    goals: Tensor


def halve(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, stages: Stages, objective: Objective,
    goals: Tensor, reach: bool = False,
) -> Halved:  # fmt: skip
    """Auto-PGD toward the classes goals (N, T), halved stage by stage; T classes are those of the first stage.

    reach: only the class of the round counts; else any wrong one. An unbroken image comes back as its point of the
    highest margin, and with the loss that its round came to.
    """
    n, device = len(x), x.device
    stage_of = torch.tensor([s for s, (count, _) in enumerate(stages) for _ in range(count)]).to(device)
    place_of = torch.tensor([place for count, _ in stages for place in range(count)]).to(device)
    climb = Climb.over(x, budget, [steps for _, steps in stages], [s > 0 for s in range(len(stages))])
    ahead = torch.arange(goals.shape[1], device=device).repeat(n, 1)  # the classes, the most promising first
    margins = x.new_full((n + 1, goals.shape[1]), -torch.inf)  # what each came to in this stage; a row for nobody's
    points = x.new_zeros(n + 1, goals.shape[1], *x.shape[1:])
    ascent = stepping(model, objective, climb, reach=reach)

    def start(example: Tensor, number: Tensor) -> State:
        stage, place = stage_of[number], place_of[number]
        opens = ((stage > 0) & (place == 0))[:, None]
        ranked = margins[example].argsort(dim=1, descending=True, stable=True)
        ahead[example] = torch.where(opens, ranked, ahead[example])
        margins[example] = torch.where(opens, -torch.inf, margins[example])
        which = ahead[example, place]
        fresh = random_start(x[example], budget, rng[example].fold(number))
        at = torch.where(per_row(stage > 0, fresh), points[example, which], fresh)
        return {**born(x[example], y[example], goals[example, which], at, climb, stage), "class": which}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        before = rows["k"]
        rows, success, finished = ascent(rows)
        ends = finished & (before == climb.lengths[rows["which"], -1])  # not again while its row idles
        example, which = torch.where(ends, rows["example"], n), rows["class"]
        some = ends.nonzero().flatten() if device.type == "cpu" else slice(None)  # a GPU's host need not know
        margins[example[some], which[some]] = rows["score"][some]
        points[example[some], which[some]] = rows["found"][some]
        return rows, success, finished

    longest = max(steps for _, steps in stages)
    rows, broken = search(model, len(stage_of), start, step, most=longest + 1, keep=("best_loss",), serial=True)
    return Halved(rows.get("found", x), broken, rows.get("best_loss", x.new_zeros(0)), goals.gather(1, ahead))
