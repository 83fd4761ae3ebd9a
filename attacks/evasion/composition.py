"""`ensemble`: the strong half of AutoAttack first, the dear half as audits. Cheaper, and not AutoAttack.

APGD-CE and targeted APGD (Croce and Hein, 2020, https://arxiv.org/abs/2003.01690) with targets in MALT order (Melamed
et al., 2024, https://arxiv.org/abs/2407.02240). FAB and Square, four fifths of AutoAttack's evaluations, seldom break
what these leave. Here FMN (Pintor et al., 2021, https://arxiv.org/abs/2102.12827), which like FAB walks to the nearest
boundary, and a short Square (2020, https://arxiv.org/abs/1912.00049) try a random tenth of what stands, at least 20
examples; if one of them breaks, the audit goes on to all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustsuite.config.registry import Cost, card_of
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.randomness import Rng
from robustsuite.methods.apgd import CANDIDATES, apgd
from robustsuite.methods.square import square
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.oracle import Oracle

SHARE, FEWEST = 0.1, 20
"""An audit's first sample: this share of what stands, but at least so many."""

Stage = Callable[[Oracle, Tensor, Tensor, Tensor | None, Ball, Rng], tuple[Tensor, Tensor]]
"""(model, x, y, targets, budget, rng) -> x_adv, broken (B,) bool."""


def _cost(*, classes: int, steps: int, n_targets: int, order: str, queries: int) -> Cost:
    rounds = 1 + min(n_targets, classes - 1)
    ranking = min(classes - 1, CANDIDATES) if order == "malt" else 0
    gradients = rounds * (steps + 3) + ranking + steps + 1
    return Cost(forwards=gradients + queries + 4, backwards=gradients)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Croce and Hein, 2020, arXiv:2003.01690; Melamed et al., 2024, arXiv:2407.02240",
    cost=_cost,
    family=("gradient", "minimum norm", "score"),
    **WHITE_BOX,
    least={"steps": 100},  # its FMN audit's, and AutoAttack's for APGD
    differs=(
        "it is not AutoAttack: FMN and a short Square audit a sample of what APGD leaves, and all of it only if one of "
        "the sample breaks, so a verdict may depend on which other examples are asked (never on batch size or order)",
        "a break needs a margin above 1e-5, so that exact ties do not count",
        "in l1 there is no Square audit; below 4 classes the targeted DLR loss is the margin, from as many starts",
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
    steps: int = 100,
    n_targets: int = 9,
    order: str = "malt",
    queries: int = 1000,
) -> Found:
    """APGD-CE, targeted APGD, then audits by FMN and Square: near AutoAttack's strength at a quarter of its cost.

    x (N, C, H, W) in [0, 1], y (N,). steps: of APGD and FMN; n_targets: wrong classes tried, in `order` (malt or
    logit), or where `targets` (N, 1) names the class to reach, starts towards it; queries: Square's. Columns:
    after_apgd_ce, after_apgd_t, after_fmn, after_square (still standing), audited (tried by every audit) and claimed
    (broken). Raises BadValue.
    """
    if queries < 1:
        raise BadValue(f"expected queries >= 1 for the Square audit, got {queries!r}; write for example queries=1000")
    x_adv, standing, columns = x.clone(), torch.ones_like(y, dtype=torch.bool), {}
    audited = torch.ones_like(standing)

    def attempt(name: str, stage: Stage, rows: Tensor, keep: bool) -> bool:
        target = None if targets is None else targets[rows]
        got, broken = stage(model[rows], x[rows], y[rows], target, budget, rng[rows].fold(name))
        new = torch.ones_like(broken) if keep else broken
        x_adv[rows[new]] = got[new]
        standing[rows[broken]] = False
        return bool(broken.any())

    for name, stage in _gradients(steps, n_targets, order).items():
        attempt(name, stage, standing.nonzero().flatten(), keep=True)
        columns[f"after_{name}"] = standing.clone()
    for name, stage in _audits(steps, queries, budget).items():
        sample = _sample(standing, rng.fold(f"sample of {name}"))
        rest = standing & ~torch.zeros_like(standing).index_fill(0, sample, True)
        if attempt(name, stage, sample, keep=False):
            attempt(name, stage, rest.nonzero().flatten(), keep=False)
        else:
            audited &= ~rest
        columns[f"after_{name}"] = standing.clone()
    return Found(x_adv, {**columns, "audited": audited, "claimed": ~standing})


def _gradients(steps: int, n_targets: int, order: str) -> dict[str, Stage]:
    def ce(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        return apgd(model, x, y, budget, rng=rng, steps=steps, targets=target)

    def targeted(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        if not len(x):
            return x, torch.zeros_like(y, dtype=torch.bool)
        classes = model[torch.arange(1, device=x.device)](x[:1]).shape[1]
        starts = min(n_targets, classes - 1)
        if classes < 4 or target is not None:
            loss = "margin" if classes < 4 else "dlr-t"
            return apgd(model, x, y, budget, rng=rng, steps=steps, loss=loss, restarts=starts, targets=target)
        return apgd(model, x, y, budget, rng=rng, steps=steps, loss="dlr-t", n_targets=n_targets, order=order)

    return {"apgd_ce": ce, "apgd_t": targeted}


def _audits(steps: int, queries: int, budget: Ball) -> dict[str, Stage]:
    def nearest(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        smallest: Tensor = card_of("attack", "fmn").function(model, x, y, budget, rng=rng, steps=steps, targets=target)
        inside = budget.project(x, smallest)
        return inside, losses.goal_margin(model(inside), y, target) > model.confidence_margin

    def search(
        model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        return square(model, x, y, budget, rng=rng, steps=queries, targets=target)

    return {"fmn": nearest} if budget.norm == "l1" else {"fmn": nearest, "square": search}


def _sample(standing: Tensor, rng: Rng) -> Tensor:
    """A random SHARE of the standing rows, at least FEWEST of them."""
    rows = standing.nonzero().flatten()
    count = min(len(rows), max(FEWEST, round(SHARE * len(rows))))
    order = rng[rows].uniform(1).flatten().argsort(stable=True)
    return rows[order[:count]].sort().values
