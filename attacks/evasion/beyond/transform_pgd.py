"""PGD on what a picture is rendered with: the chain rule through T alone, then steps in theta's own box.

Kang et al., 2019, "Testing robustness against unforeseen adversaries", arXiv 1908.08016, do so for fog, snow, JPEG and
elastic deformations, Xiao et al., 2018, arXiv 1801.02612, for flows, Laidlaw & Feizi, 2019, arXiv 1906.00001, for
colours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.sets import RENDERED
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access
from robustsuite.config.transforms import Transformation
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def _cost(*, steps: int, restarts: int, **_: object) -> Cost:
    return Cost(forwards=(steps + 1) * restarts, backwards=(steps + 1) * restarts)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=tuple(RENDERED),
    goals=("untargeted", "targeted"),
    paper="Kang et al., 2019, arXiv:1908.08016",
    cost=_cost,
    family=("gradient",),
    **WHITE_BOX,
    least={"steps": 20},
    differs=(
        "steps by the gradient's signs, of rel_step times half of theta's box, shrink to 0 on a straight line",
        "flows and colours are bounded by their box alone, without the papers' penalties on roughness",
    ),
)
def transform_pgd(
    model: Oracle, x: Tensor, y: Tensor, budget: Transformation, *, rng: Rng, targets: Tensor | None = None,
    steps: int = 50, rel_step: float = 0.25, restarts: int = 1, loss: str = "ce",
) -> evasion.Found:  # fmt: skip
    """Sign ascent in theta from a random start, projected back into the set.

    x (N, C, H, W) in [0, 1], y (N,). targets (N, 1): the class to reach, whose loss is descended; None: any wrong class
    counts. steps, restarts, and rel_step: the first step in half widths of theta's box. loss: ce, margin, dlr or pma.
    Raises BadValue, UnknownName.
    """
    if steps < 1 or restarts < 1 or not rel_step > 0:
        given = f"{steps=}, {restarts=}, {rel_step=}"
        raise BadValue(f"expected steps, restarts >= 1, rel_step > 0, got {given}; write steps=50")
    f, toward = losses.loss_named(loss), 1 if targets is None else -1
    goal = y if targets is None else targets[:, 0]
    low, high = budget.bounds(budget.identity(x[:1]))

    def start(example: Tensor, number: Tensor) -> State:
        clean, none = x[example], torch.full((len(example),), -torch.inf, device=x.device)
        count = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        theta = budget.draw(clean, rng[example].fold(number))
        return {"found": clean, "theta": budget.identity(clean), "at": theta, "score": none, "k": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, at, k = rows["example"], rows["at"], rows["k"]
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            picture = budget.apply(x[example], leaf)
            ask = model[example].gradient(picture.detach(), lambda z: toward * f(z, goal[example]))
            (slope,) = torch.autograd.grad(picture, leaf, ask.grad)
        margin = losses.goal_margin(ask.logits, y[example], None if targets is None else targets[example])
        better = margin > rows["score"]
        kept = {"found": picture.detach(), "theta": at, "score": margin}
        left = rel_step * (1 - k / steps).clamp_min(0)
        rows = {**rows, **{name: torch.where(per_row(better, v), v, rows[name]) for name, v in kept.items()}}
        new = budget.project(at + per_row(left, at) * (high - low) / 2 * slope.sign())
        return {**rows, "at": new, "k": k + 1}, rows["score"] > model.confidence_margin, k >= steps

    rows, broken = search(model, restarts, start, step, most=steps + 1, keep=("theta",))
    return evasion.Found(rows.get("found", x), {"claimed": broken}, rows.get("theta", budget.identity(x)))
