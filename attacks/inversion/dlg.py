"""Deep Leakage from Gradients: pictures and soft labels together, by L-BFGS on the Euclidean distance of gradients.

Zhu, Liu, Han (2019, arXiv:1906.08935), algorithm 1. Every client and restart has its own L-BFGS, advanced as one batch.
Made for twice differentiable networks (the authors' LeNet has sigmoids); with ReLU it often fails, as published.
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
    Variables,
    chosen,
    cost,
    evaluator,
    l2,
    shown,
    starts,
)  # fmt: skip
from robustsuite.methods.federated.lbfgs import lbfgs
from robustsuite.scenarios import inversion


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE,
    paper="Zhu, Liu, Han, 2019, arXiv:1906.08935",
    cost=cost,
    **INVERSION,
    differs=("iterations count gradient evaluations: the authors' 300 steps are up to 20 each",),
)
def dlg(seen: Observed, *, rng: Rng, iterations: int = 1000, restarts: int = 1, lr: float = 1.0) -> Recovered:
    """Match the update with pictures and label distributions that start as noise; granted labels are not used.

    Returns pictures (T, B, C, H, W) cut to [0, 1], and the likeliest class of each. Source: arXiv:1906.08935.
    """
    like = next(iter(seen.update.values()))
    classes = seen.update[seen.client.head(seen.shape[1:]).weight].shape[1]

    def objective(v: Variables, row: Row) -> tuple[Tensor, Tensor]:
        g = seen.client.update(shown(v["u"]), v["y"].softmax(-1))
        match = l2(seen.informed(g, row["observed"]), row["observed"])
        return match, match

    start = {
        "u": starts(rng.fold("u"), restarts, *seen.shape).to(like),
        "y": starts(rng.fold("y"), restarts, seen.shape[0], classes).to(like),
    }
    best = lbfgs(start, evaluator(seen, objective, {}), iterations, lr=lr)
    y = chosen(best.variables["y"], best)
    pictures = chosen(shown(best.variables["u"]).clamp(0, 1), best)
    return Recovered(pictures, y.nan_to_num().argmax(-1), (iterations + 1) * restarts)
