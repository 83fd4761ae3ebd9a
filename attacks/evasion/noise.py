"""Random noise, the sanity floor: an attack that does not beat uniform samples of the ball does not work.

Carlini et al., 2019, "On evaluating adversarial robustness", arXiv 1902.06705, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def _cost(*, draws: int, **_: object) -> Cost:
    return Cost(forwards=draws)


@evasion.attack(
    needs=Access.SCORES,
    norms=("linf", "l2", "l1", "l0"),
    paper="Carlini et al., 2019, arXiv:1902.06705",
    cost=_cost,
    family=("noise",),
    **BLACK_BOX,
)
def noise(model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, draws: int = 100) -> evasion.Found:
    """Uniform samples of the ball, the one of largest margin kept.

    x (N, C, H, W) in [0, 1], y (N,). draws: samples an image, a query each. Raises BadValue.
    """
    if draws < 1:
        raise BadValue(f"expected draws >= 1, got {draws!r}; write for example draws=100")

    def start(example: Tensor, _: Tensor) -> State:
        n = len(example)
        count = torch.zeros(n, dtype=torch.int64, device=x.device)
        return {"found": x[example], "margin": torch.full((n,), -torch.inf, device=x.device), "i": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, i = rows["example"], rows["i"]
        at = budget.sample(x[example], rng[example].fold(i))
        margin = losses.margin(model[example](at), y[example])
        better = margin > rows["margin"]
        found = torch.where(per_row(better, at), at, rows["found"])
        margin = torch.where(better, margin, rows["margin"])
        return {**rows, "found": found, "margin": margin, "i": i + 1}, margin > model.confidence_margin, i + 1 >= draws

    rows, broken = search(model, 1, start, step, most=draws)
    return evasion.Found(rows.get("found", x), {"claimed": broken})
