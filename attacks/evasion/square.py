"""Square: random search with square windows, scores alone (Andriushchenko et al., 2020, arXiv 1912.00049).

The search is core (robustsuite/methods/evasion/square.py), since compositions run it as well.
"""

from __future__ import annotations

from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import square as core
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle


def _cost(*, steps: int, **_: object) -> Cost:
    return Cost(forwards=steps + 1)


@evasion.attack(
    needs=Access.SCORES,
    norms=("linf", "l2"),
    goals=("untargeted", "targeted"),
    paper="Andriushchenko et al., 2020, arXiv:1912.00049",
    cost=_cost,
    family=("score",),
    **BLACK_BOX,
    least={"steps": 4999},  # AutoAttack's 5000 queries, the first of which asks about the start
    differs=(
        "each image has windows and colours of its own, where the authors' code draws one window for the batch",
        "windows reach the last row and column, which the authors' code leaves out",
        "the window's side is halved after 10, 50, 200 ... proposals whatever `steps` is, as in AutoAttack",
    ),
)
def square(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 5000,
    p: float = 0.8,
) -> evasion.Found:  # fmt: skip
    """Random search over square windows, accepting what lowers the margin.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. steps: proposals, a query each
    after one for the start. p: share of the picture in the first windows. Raises BadValue.
    """
    x_adv, broken = core.square(model, x, y, budget, rng=rng, steps=steps, p=p, targets=targets)
    return evasion.Found(x_adv, {"claimed": broken})
