"""FAB: onto the linearised boundary, drawn back toward the clean picture (Croce & Hein, 2020, arXiv 1907.02044).

Each step projects both the iterate and the clean picture onto the plane where, to first order, the class aimed at
overtakes the true one, and goes between the two; a break is followed by a step back.
"""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import nearest
from robustsuite.methods.evasion.apgd import ranked_targets
from robustsuite.methods.evasion.nearest import Seen, Walk
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State
from robustsuite.serve.oracle import Oracle

ALPHA, ETA, BETA = 0.1, 1.05, 0.9
"""The largest part of the clean picture in a step, how far past the plane it goes, and how far back after a break."""


def _points(steps: int) -> int:
    """Points whose gradient costs what `steps` cost the authors: two forward passes and a backward one each."""
    return 3 * steps // 2


def _cost(*, steps: int, n_targets: int, classes: int, **_: object) -> Cost:
    asked = min(n_targets, classes - 1) * (_points(steps) + 1)
    return Cost(forwards=asked + 1, backwards=asked)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Croce and Hein, 2020, arXiv:1907.02044",
    cost=_cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 100},  # AutoAttack's
    minimum_norm=True,
    differs=(
        "the targeted version of AutoAttack, a start for each of the likeliest wrong classes and none at random; the "
        "first version linearises every class in each step",
        "each point is asked about once, for answer and gradient, so that the one after a step back takes a turn of "
        "its own; there are half as many again as steps: what the authors' two forward passes a step come to",
    ),
)
def fab(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 100,
    n_targets: int = 9,
) -> Tensor:  # fmt: skip
    """FAB-T toward the n_targets likeliest wrong classes, from the clean picture; the nearest break of them all.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is; steps: as the paper counts them.
    Returns the nearest adversarial found even beyond budget.eps; where none was found the last iterate, projected onto
    the budget. Deterministic. Raises BadValue.
    """
    if n_targets < 1:
        raise BadValue(f"expected n_targets >= 1, got {n_targets!r}; write for example n_targets=9")
    aims = ranked_targets(model, x, y, n_targets, "logit", budget.norm) if targets is None else targets

    def move(rows: State, seen: Seen) -> State:
        at, clean, grad = rows["at"], seen.clean, seen.ask.grad
        away = at - clean
        short = -seen.ask.loss
        here = projections.onto_plane(at, grad, short, budget.norm)
        there = projections.onto_plane(clean, grad, short + (grad * away).flatten(1).sum(1), budget.norm)
        near, far = (projections.norm(d.flatten(1), budget.norm) for d in (here, there))
        alpha = per_row((near / (near + far).clamp_min(1e-12)).clamp_max(ALPHA), x)
        ahead = ((1 - alpha) * (at + ETA * here) + alpha * (clean + ETA * there)).clamp(0, 1)
        return {"at": projections.chosen(seen.wrong, clean + BETA * away, ahead)}

    lead = _lead if targets is None else losses.goal_margin
    return nearest.nearest(model, x, y, budget, targets, _points(steps), Walk(lead, lambda _: {}, move, aims))


def _lead(logits: Tensor, y: Tensor, aim: Tensor | None) -> Tensor:
    """By how much (N,) the class aimed at (N, 1) leads the true one; to reach it, it has to lead all of them."""
    return losses.own(logits, y if aim is None else aim[:, 0]) - losses.own(logits, y)
