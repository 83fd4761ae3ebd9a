"""Inverting Gradients: cosine matching with a smoothness prior, by Adam on the sign of the gradient.

Geiping et al. (2020, arXiv:2003.14053), eq. 4:

    argmin_x 1 - <g(x), g*> / (|g(x)| |g*|) + alpha TV(x),   x in [0, 1].
"""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.taxonomy import INVERSION
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.gradient_matching import (
    Observed,
    Recovered,
    Row,
    Schedule,
    Variables,
    adam,
    chosen,
    cosine,
    cost,
    evaluator,
    in_box,
    shown,
    starts,
    total_variation,
)  # fmt: skip
from robustsuite.methods.federated.label_recovery import recovered
from robustsuite.scenarios import inversion


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE,
    paper="Geiping et al., 2020, arXiv:2003.14053",
    cost=cost,
    **INVERSION,
    differs=("1000 iterations by default, not 24,000; labels counted from the last layer's gradient",),
)
def inverting_gradients(
    seen: Observed, *, rng: Rng, iterations: int = 1000, restarts: int = 1, lr: float = 0.1, tv: float = 0.02
) -> Recovered:
    """Match the direction of the update. tv: alpha, on pictures normalised by mean 1/2 and std 1/4, as is lr.

    Returns pictures (T, B, C, H, W) in [0, 1]. Source: arXiv:2003.14053.
    """
    y = recovered(seen)

    def objective(v: Variables, row: Row) -> tuple[Tensor, Tensor]:
        g = seen.client.update(shown(v["u"]), row["y"])
        match = cosine(seen.informed(g, row["observed"]), row["observed"])
        return match + tv * total_variation(v["u"]), match

    start = in_box({"u": starts(rng, restarts, *seen.shape).to(next(iter(seen.update.values())))})
    schedule = Schedule(iterations, lr, signed=True)
    best = adam(start, evaluator(seen, objective, {"y": y}), schedule, project=in_box)
    return Recovered(chosen(shown(best.variables["u"]), best), y, (iterations + 1) * restarts)
