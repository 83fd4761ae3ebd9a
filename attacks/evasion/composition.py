"""`ensemble`: Auto-PGD whose targets are halved, then audits. A twenty-fifth of AutoAttack's price, and not AutoAttack.

Targeted APGD (Croce and Hein, 2020, https://arxiv.org/abs/2003.01690) toward nine classes for a few steps, toward the
three nearest for more, toward the nearest for the most; what is near then, toward three classes anew. In l1 few steps
lead nowhere: there it is APGD-CE first, and then fewer classes, at a twentieth. FAB and Square, four fifths of
AutoAttack's evaluations, seldom break what this leaves. Here a short FAB (2020, https://arxiv.org/abs/1907.02044) and a
short Square (2020, https://arxiv.org/abs/1912.00049) try so many of what stands that, could they break a quarter of it,
they would break one with 95 % probability. If one breaks, gradients mislead here, and the audit goes on to all, at
AutoAttack's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from robustsuite.config.registry import Cost, card_of
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.apgd import CANDIDATES, apgd, ranked_targets
from robustsuite.methods.evasion.halving import Halved, Stages, halve
from robustsuite.methods.evasion.square import square
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.oracle import Oracle

Parts = Sequence[tuple[float, float]]
HALVED: Parts = ((1.0, 0.08), (1 / 3, 0.16), (0.0, 0.8))
HALVED_L1: Parts = ((1 / 3, 0.4), (0.0, 0.6))
FIRST_L1: Parts = ((0.0, 0.6),)
AGAIN: Parts = ((1 / 3, 1.0),)
"""Of each stage: its share of the targets, at least one, and of the steps. For all, then for the near ones anew; in l1
FIRST_L1 is APGD-CE before, toward no class."""

NEAR = -0.15
"""The loss from which on an image is near: measured, whatever AutoAttack breaks and HALVED leaves lies among the first
tenth or so by its loss."""

SHARE, DOUBT = 0.25, 0.05
"""An audit's first sample misses a weakness of this share of what stands with this probability at the most."""

SHORT, FAB = 20, 4 / 3
"""Square's first audit has this part of its queries, and FAB's aims at one class; FAB has so many times the steps."""

Audit = Callable[[Oracle, Tensor, Tensor, Tensor | None, Ball, Rng], tuple[Tensor, Tensor]]
"""(model, x, y, targets, budget, rng) -> x_adv, broken (B,) bool."""


def stages_of(n_targets: int, steps: int, parts: Parts = HALVED) -> Stages:
    """(classes, steps) of each stage."""
    return [(max(1, round(n_targets * share)), max(1, round(steps * part))) for share, part in parts]


def _cost(*, classes: int, steps: int, n_targets: int, order: str, queries: int) -> Cost:
    count, ranking = min(n_targets, classes - 1), min(classes - 1, CANDIDATES) if order == "malt" else 0
    again = stages_of(count, steps, AGAIN)
    first = [*stages_of(count, steps, FIRST_L1), *stages_of(count, steps, HALVED_L1)]
    dearest = max(_points(stages_of(count, steps)), _points(first) + 2 * (1 + first[1][0]))  # l1's three radii
    gradients = dearest + _points(again) + 2 * again[0][0] + ranking + (1 + count) * (2 * steps + 2)  # of FAB
    return Cost(forwards=gradients + queries + max(1, queries // SHORT) + 6, backwards=gradients)


def _points(stages: Stages) -> int:
    return sum(count * (length + 1) for count, length in stages)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Croce and Hein, 2020, arXiv:2003.01690; Jamieson and Talwalkar, 2016, arXiv:1502.07943",
    cost=_cost,
    family=("gradient", "minimum norm", "score"),
    **WHITE_BOX,
    least={"steps": 50},  # measured: what these leave, AutoAttack leaves as well
    differs=(
        "it is not AutoAttack: a short FAB and Square audit a sample of what APGD leaves, and longer ones all of it, "
        "only if one of the sample breaks, so a verdict may depend on which other examples are asked (never on batch "
        "size or order), and the price is far below what may be asked at the most",
        "a break needs a margin above 1e-5, so that exact ties do not count",
        "in l1 APGD-CE comes first, then three classes; there is no Square audit",
        "below 4 classes the targeted DLR loss is its numerator, z_t - z_y",
    ),
)
def ensemble(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    rng: Rng,
    targets: Tensor | None = None,
    steps: int = 50,
    n_targets: int = 9,
    order: str = "logit",
    queries: int = 5000,
) -> Found:
    """APGD toward ever fewer classes, then audits by FAB and Square: AutoAttack's verdict for a twenty-fifth.

    x (N, C, H, W) in [0, 1], y (N,). steps: of APGD toward the nearest class; n_targets: wrong classes tried first, in
    `order` (logit, or malt, whose ranking costs a gradient a class), or where `targets` (N, 1) names the class to
    reach, starts towards it; queries: Square's at most. Columns: after_apgd_ce (in l1), after_apgd_t, after_again,
    after_fab, after_square (still standing), audited (tried by every audit) and claimed (broken). Raises BadValue,
    UnknownName.
    """
    if queries < 1 or steps < 1 or n_targets < 1:
        given = f"{steps=}, {n_targets=}, {queries=}"
        raise BadValue(f"expected steps, n_targets, queries >= 1, got {given}; write for example queries=5000")
    columns: dict[str, Tensor] = {}
    x_adv, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)
    for name, rows, got, broken in _ascents(model, x, y, budget, rng, targets, steps, n_targets, order):
        x_adv[rows] = got
        standing[rows[broken]] = False
        columns[f"after_{name}"] = standing.clone()
    audited = torch.ones_like(standing)

    def attempt(name: str, audit: Audit, rows: Tensor) -> bool:
        target = None if targets is None else targets[rows]
        got, fell = audit(model[rows], x[rows], y[rows], target, budget, rng[rows].fold(name))
        x_adv[rows[fell]] = got[fell]
        standing[rows[fell]] = False
        return bool(fell.any())

    misled, longer = False, _audits(steps, n_targets, queries, budget)
    for name, audit in _audits(steps, 1, max(1, queries // SHORT), budget).items():
        if not misled:
            sample = _sample(standing, rng.fold(f"sample of {name}"))
            rest = standing & ~torch.zeros_like(standing).index_fill(0, sample, True)
            misled = attempt(name, audit, sample)
        if misled:  # of this audit and of those that follow
            attempt(f"long {name}", longer[name], standing.nonzero().flatten())
        else:
            audited &= ~rest
        columns[f"after_{name}"] = standing.clone()
    return Found(x_adv, {**columns, "audited": audited, "claimed": ~standing})


def _ascents(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, rng: Rng, targets: Tensor | None, steps: int, n_targets: int,
    order: str,
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:  # fmt: skip
    """Of each ascent its name, the rows (M,) it was about, their pictures (M, C, H, W), and which broke (M,)."""
    rows, parts = torch.arange(len(x), device=x.device), HALVED
    if budget.norm == "l1":
        ((_, first),) = stages_of(n_targets, steps, FIRST_L1)
        x_adv, broken = apgd(model, x, y, budget, rng=rng.fold("apgd_ce"), steps=first, targets=targets)
        yield "apgd_ce", rows, x_adv, broken
        rows, parts = (~broken).nonzero().flatten(), HALVED_L1
    target, reach = None if targets is None else targets[rows], targets is not None
    goals = _goals(model[rows], x[rows], y[rows], budget, target, n_targets, order)
    stages, again = stages_of(goals.shape[1], steps, parts), stages_of(goals.shape[1], steps, AGAIN)

    def halved(rows: Tensor, name: str, stages: Stages, goals: Tensor) -> Halved:
        streams, classes = rng[rows].fold(name), goals[:, : stages[0][0]]
        return halve(model[rows], x[rows], y[rows], budget, rng=streams, stages=stages, objective=_ascended,
                     goals=classes, reach=reach)  # fmt: skip

    found = halved(rows, "apgd_t", stages, goals)
    yield "apgd_t", rows, found.x_adv, found.broken
    near = (~found.broken & (found.loss > NEAR)).nonzero().flatten()
    anew = halved(rows[near], "again", again, found.goals[near])
    better = per_row(anew.broken | (anew.loss > found.loss[near]), x)
    yield "again", rows[near], torch.where(better, anew.x_adv, found.x_adv[near]), anew.broken


def _ascended(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss (N,), or its numerator where there are too few classes for it."""
    if logits.shape[1] >= 4:
        return losses.targeted_dlr(logits, y, target)
    return losses.own(logits, target) - losses.own(logits, y)


def _goals(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, targets: Tensor | None, count: int, order: str
) -> Tensor:
    """The classes (N, T) to aim at: the likeliest wrong ones, or the given one as often as there are starts."""
    if targets is not None:
        return targets.repeat(1, count)
    return ranked_targets(model, x, y, count, order, budget.norm)


def _audits(steps: int, n_targets: int, queries: int, budget: Ball) -> dict[str, Audit]:
    def boundary(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        fab, given = card_of("attack", "fab").function, {"steps": round(FAB * steps), "n_targets": n_targets}
        nearest: Tensor = fab(model, x, y, budget, rng=rng, targets=target, **given)
        inside = budget.project(x, nearest)
        return inside, losses.goal_margin(model(inside), y, target) > model.confidence_margin

    def search(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        return square(model, x, y, budget, rng=rng, steps=queries, targets=target)

    return {"fab": boundary} if budget.norm == "l1" else {"fab": boundary, "square": search}


def _sample(standing: Tensor, rng: Rng) -> Tensor:
    """So many of the standing rows, at random, as an audit tries first."""
    rows = standing.nonzero().flatten()
    order = rng[rows].uniform(1).flatten().argsort(stable=True)
    return rows[order[: enough(len(rows))]].sort().values


def enough(standing: int) -> int:
    """How many of these, drawn without replacement, miss a SHARE of them with a probability of at most DOUBT."""
    weak = math.ceil(SHARE * standing)
    return next(
        k for k in range(standing + 1) if math.comb(standing - weak, k) <= DOUBT * math.comb(standing, k) or not weak
    )
