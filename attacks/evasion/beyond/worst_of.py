"""The worst of a few random members of the threat's set, by answers alone (Engstrom et al., 2019, arXiv 1712.02779)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.sets import BEYOND
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access
from robustsuite.config.transforms import Allowed, Transformation
from robustsuite.errors import BadValue
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def _cost(*, draws: int, **_: object) -> Cost:
    return Cost(forwards=draws)


@evasion.attack(
    needs=Access.LABELS,
    norms=BEYOND,
    paper="Engstrom et al., 2019, arXiv:1712.02779",
    cost=_cost,
    family=("noise",),
    **BLACK_BOX,
    differs=("it ends at the first wrong answer, where the authors keep the draw of largest loss: the verdict is one",),
)
def worst_of(model: Oracle, x: Tensor, y: Tensor, budget: Allowed, *, rng: Rng, draws: int = 10) -> evasion.Found:
    """Random members of the set, a question each, until one is answered wrong.

    x (N, C, H, W) in [0, 1], y (N,). draws: how many. Where none is, it returns the picture as it is. Raises BadValue.
    """
    if draws < 1:
        raise BadValue(f"expected draws >= 1, got {draws!r}; write for example draws=10")
    kind = budget if isinstance(budget, Transformation) else None

    def start(example: Tensor, _: Tensor) -> State:
        clean, count = x[example], torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {"found": clean, "i": count} | ({"theta": kind.identity(clean)} if kind else {})

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example = rows["example"]
        clean, streams = x[example], rng[example].fold(rows["i"])
        kept = {"theta": kind.draw(clean, streams)} if kind else {}
        kept["found"] = kind.apply(clean, kept["theta"]) if kind else budget.sample(clean, streams)
        wrong = model[example].labels(kept["found"]) != y[example]
        rows = {**rows, **{k: torch.where(per_row(wrong, v), v, rows[k]) for k, v in kept.items()}, "i": rows["i"] + 1}
        return rows, wrong, rows["i"] >= draws

    rows, broken = search(model, 1, start, step, most=draws, keep=("theta",) if kind else ())
    theta = {"theta": rows.get("theta", kind.identity(x))} if kind else {}
    return evasion.Found(rows.get("found", x), {"claimed": broken}, **theta)
