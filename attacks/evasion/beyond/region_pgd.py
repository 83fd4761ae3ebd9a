"""PGD on what a patch or a frame holds, the patch put where the loss reacts most, then elsewhere.

The content is free within [0, 1], as in Brown et al., 2017, "Adversarial patch", arXiv 1712.09665, but of one picture
alone, as in Karmon et al., 2018, "LaVAN", arXiv 1801.02608.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.sets import REGIONS, Frame, Patch
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def _cost(*, steps: int, restarts: int, **_: object) -> Cost:
    return Cost(forwards=(steps + 2) * restarts, backwards=(steps + 2) * restarts)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=tuple(REGIONS),
    goals=("untargeted", "targeted"),
    paper="Karmon et al., 2018, arXiv:1801.02608",
    cost=_cost,
    family=("gradient",),
    **WHITE_BOX,
    least={"steps": 20},
    differs=(
        "the first restart's square is the one with most of the gradient's absolute values, where the authors fix "
        "its place; later ones are drawn",
        "signs of the gradient are stepped along, by rel_step of half the range, on a straight line to 0",
    ),
)
def region_pgd(
    model: Oracle, x: Tensor, y: Tensor, budget: Patch | Frame, *, rng: Rng, targets: Tensor | None = None,
    steps: int = 50, rel_step: float = 0.25, restarts: int = 2, loss: str = "ce",
) -> evasion.Found:  # fmt: skip
    """Sign ascent on the pixels of a square or of the frame, from random values, nothing else changed.

    x (N, C, H, W) in [0, 1], y (N,). targets (N, 1): the class to reach, whose loss is descended; None: any wrong class
    counts. steps in each of `restarts` places; rel_step: the first step in half ranges of a pixel. loss: ce, margin,
    dlr or pma. Raises BadValue, UnknownName.
    """
    if steps < 1 or restarts < 1 or not rel_step > 0:
        given = f"{steps=}, {restarts=}, {rel_step=}"
        raise BadValue(f"expected steps, restarts >= 1, rel_step > 0, got {given}; write steps=50")
    f, toward = losses.loss_named(loss), 1 if targets is None else -1
    goal = y if targets is None else targets[:, 0]

    def start(example: Tensor, number: Tensor) -> State:
        clean, streams = x[example], rng[example].fold(number)
        none = torch.full((len(example),), -torch.inf, device=x.device)
        count = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {"found": clean, "at": clean, "mask": budget.place(clean, streams), "score": none, "k": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, at, k = rows["example"], rows["at"], rows["k"]
        ask = model[example].gradient(at, lambda z: toward * f(z, goal[example]))
        margin = losses.goal_margin(ask.logits, y[example], None if targets is None else targets[example])
        better = margin > rows["score"]
        found, score = torch.where(per_row(better, at), at, rows["found"]), torch.where(better, margin, rows["score"])
        # the first question is about the picture itself: it says where a patch matters
        chosen = per_row((k == 0) & (rows["round"] == 0), at)
        mask = torch.where(chosen, budget.heaviest(ask.grad.abs()), rows["mask"])
        fresh = rng[example].fold(rows["round"]).fold("content").uniform(*x.shape[1:])
        left = rel_step * (1 - (k - 1) / steps).clamp_min(0) / 2
        moved = (at + per_row(left.to(at), at) * ask.grad.sign()).clamp(0, 1)
        new = torch.where(mask, torch.where(per_row(k == 0, at), fresh, moved), at)
        rows = {**rows, "found": found, "score": score, "mask": mask, "at": new, "k": k + 1}
        return rows, score > model.confidence_margin, k > steps

    rows, broken = search(model, restarts, start, step, most=steps + 2)
    return evasion.Found(rows.get("found", x), {"claimed": broken})
