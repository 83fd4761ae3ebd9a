"""GradInversion: Euclidean matching with batch-norm statistics, smoothness and agreement between restarts.

Yin et al. (2021, arXiv:2104.07586), eqs. 1-11: Adam with Langevin noise on

    |g(x) - g*|^2 / |g*|^2 + a_tv TV(x) + a_l2 |x| + a_bn sum_l (|mu_l(x) - mu_l| + |var_l(x) - var_l|) + a_g |x - E(x)|

with E(x) the mean over restarts, from half of the iterations on. A network that was never trained, or is in train mode,
has no running statistics to go by: a_bn is 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import INVERSION
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import (
    Best,
    Observed,
    Rate,
    Recovered,
    Row,
    Schedule,
    Variables,
    adam,
    batch_norm_prior,
    better,
    chosen,
    cost,
    evaluator,
    in_box,
    l2,
    shown,
    squared,
    starts,
    total_variation,
    warm_cosine,
)  # fmt: skip
from robustsuite.methods.federated.label_recovery import least_rows, recovered, weight_gradient
from robustsuite.scenarios import inversion

TURN = 0.5
"""The share of the iterations after which restarts are drawn to their mean."""


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE,
    paper="Yin et al., 2021, arXiv:2104.07586",
    cost=cost,
    **INVERSION,
    differs=(
        "the matching cost is relative to |g*|^2, so that its weight suits any network",
        "restarts agree on their plain mean, without registration, taken once at half of the iterations",
        "1000 iterations by default, not 20,000; labels are counted, the paper's rule for distinct ones is an option",
    ),
)
def gradinversion(
    seen: Observed, *, rng: Rng, iterations: int = 1000, restarts: int = 2, lr: float = 0.1, tv: float = 0.01,
    norm: float = 1e-6, bn: float = 1e-3, group: float = 0.01, noise: float = 0.2, distinct: bool = False,
) -> Recovered:  # fmt: skip
    """Match the update and the statistics it came with. distinct: the paper's label rule, for batches without repeats.

    Returns pictures (T, B, C, H, W) in [0, 1]. Source: arXiv:2104.07586.
    """
    guess = distinct and seen.labels is None
    y = least_rows(weight_gradient(seen), seen.shape[0]) if guess else recovered(seen)
    bn = bn if seen.terms.trained and seen.terms.mode == "eval" else 0.0

    def objective(v: Variables, row: Row) -> tuple[Tensor, Tensor]:
        u = v["u"]
        g, statistics = seen.client.watched(shown(u), row["y"])
        match = l2(seen.informed(g, row["observed"]), row["observed"]) / squared(row["observed"])
        total = match + tv * total_variation(u) + norm * _length(u)
        if bn:
            total = total + bn * batch_norm_prior(statistics, seen.client)
        return total + row["pull"] * _length(u - row["mean"]), match

    like = next(iter(seen.update.values()))
    start = in_box({"u": starts(rng, restarts, *seen.shape).to(like)})
    half = int(TURN * iterations)

    def search(start: Variables, part: int, steps: int, pull: float) -> Best:
        rows = {"y": y, "mean": start["u"].mean(1), "pull": torch.full((len(seen),), pull).to(like)}
        schedule = Schedule(steps, lr, _part(part), noise=noise)
        return adam(start, evaluator(seen, objective, rows), schedule, project=in_box, rng=rng.fold(part))

    first = search(start, 0, half, 0.0)
    best = better(first, search(first.variables, 1, iterations - half, group))
    return Recovered(chosen(shown(best.variables["u"]), best), y, (iterations + 2) * restarts)


def _length(u: Tensor) -> Tensor:
    """|u|_2 / (H W)."""
    return (u.square().sum() + 1e-12).sqrt() / u.shape[-2:].numel()


def _part(part: int) -> Rate:
    whole = warm_cosine(0.05)
    return lambda t: whole(TURN * part + t * TURN)
