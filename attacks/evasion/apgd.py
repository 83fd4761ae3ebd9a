"""Auto-PGD: gradient ascent without a step size to tune (Croce & Hein, 2020, arXiv 2003.01690; l1: 2021, 2103.01208).

The loop is core (robustsuite/methods/evasion/apgd.py), since compositions run it as well.
"""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import apgd as core
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle


def _cost(
    *, classes: int, steps: int, loss: str, restarts: int, n_targets: int, order: str, **_: object
) -> Cost:
    evaluations = (steps + 3) * restarts * (min(n_targets, classes - 1) if loss == "dlr-t" else 1)
    malt = min(classes - 1, core.CANDIDATES) if loss == "dlr-t" and order == "malt" else 0
    return Cost(forwards=1 + evaluations + malt, backwards=evaluations + malt)


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    paper="Croce & Hein, 2020, arXiv:2003.01690",
    cost=_cost,
    family=("gradient",),
    **WHITE_BOX,
    least={"steps": 20},  # as PGD, which it beats at equal steps; AutoAttack takes 100
    differs=("a break needs a margin above 1e-5, so that exact ties do not count",),
)
def apgd(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    rng: Rng,
    targets: Tensor | None = None,
    steps: int = 100,
    loss: str = "ce",
    restarts: int = 1,
    n_targets: int = 9,
    order: str = "logit",
) -> evasion.Found:
    """Auto-PGD with momentum and a step size that halves itself.

    x (N, C, H, W) in [0, 1], y (N,). loss: ce, margin, dlr, pma (probability margin, Xie et al., arXiv 2411.15210), or
    dlr-t: targeted DLR over the first `n_targets` wrong classes in `order`, logit or malt (arXiv 2407.02240). targets
    (N, 1): the class to reach; dlr and dlr-t are then the targeted DLR towards it, the other losses are descended.
    Raises BadValue, UnknownName.
    """
    x_adv, broken = core.apgd(
        model, x, y, budget, rng=rng, steps=steps, loss=loss, restarts=restarts, n_targets=n_targets, order=order,
        targets=targets,
    )  # fmt: skip
    return evasion.Found(x_adv, {"claimed": broken})
