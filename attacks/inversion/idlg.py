"""iDLG: the label is read off the last layer's gradient first, then DLG searches for the picture alone.

Zhao, Mopuri, Bilen (2020, arXiv:2001.02610), algorithm 1.
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
)
from robustsuite.methods.federated.label_recovery import idlg as single_label
from robustsuite.methods.federated.label_recovery import recovered, weight_gradient
from robustsuite.methods.federated.lbfgs import lbfgs
from robustsuite.scenarios import inversion


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE,
    paper="Zhao, Mopuri, Bilen, 2020, arXiv:2001.02610",
    cost=cost,
    **INVERSION,
    differs=("batches of several pictures get counted labels; the paper has none",),
)
def idlg(seen: Observed, *, rng: Rng, iterations: int = 1000, restarts: int = 1, lr: float = 1.0) -> Recovered:
    """Match the update by L-BFGS, with the label of least row sum. iterations count gradient evaluations.

    Returns pictures (T, B, C, H, W) cut to [0, 1]. Source: arXiv:2001.02610.
    """
    alone = seen.shape[0] == 1 and seen.labels is None
    y = single_label(weight_gradient(seen)) if alone else recovered(seen)

    def objective(v: Variables, row: Row) -> tuple[Tensor, Tensor]:
        g = seen.client.update(shown(v["u"]), row["y"])
        match = l2(seen.informed(g, row["observed"]), row["observed"])
        return match, match

    start = {"u": starts(rng, restarts, *seen.shape).to(next(iter(seen.update.values())))}
    best = lbfgs(start, evaluator(seen, objective, {"y": y}), iterations, lr=lr)
    return Recovered(chosen(shown(best.variables["u"]).clamp(0, 1), best), y, (iterations + 1) * restarts)
