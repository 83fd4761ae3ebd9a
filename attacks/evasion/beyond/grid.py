"""Every rotation and shift of a grid: the exact worst case over it (Engstrom et al., 2019, arXiv 1712.02779)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access
from robustsuite.config.transforms import Spatial
from robustsuite.errors import BadValue
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle


def _cost(*, angles: int, shifts: int, **_: object) -> Cost:
    return Cost(forwards=angles * shifts**2)


@evasion.attack(
    needs=Access.LABELS,
    norms=("spatial",),
    paper="Engstrom et al., 2019, arXiv:1712.02779",
    cost=_cost,
    family=("exhaustive",),
    **BLACK_BOX,
    least={"angles": 31, "shifts": 5},  # the paper's grid
    differs=("it ends at the first wrong answer, which changes the cost and not the verdict",),
)
def grid(
    model: Oracle, x: Tensor, y: Tensor, budget: Spatial, *, rng: Rng, angles: int = 31, shifts: int = 5
) -> evasion.Found:
    """Every one of angles x shifts x shifts transformations, evenly spaced from one end of the set to the other.

    x (N, C, H, W) in [0, 1], y (N,). angles: how many; shifts: how many down, and as many across. Where none is
    answered wrong it returns the picture as it is. Raises BadValue.
    """
    if angles < 1 or shifts < 1:
        raise BadValue(f"expected angles, shifts >= 1, got {angles=}, {shifts=}; write angles=31, shifts=5")
    high = budget.bounds(x)[1].tolist()
    lines = [torch.linspace(-most, most, n) if n > 1 else torch.zeros(1)
             for most, n in zip(high, (angles, shifts, shifts), strict=True)]  # fmt: skip
    every = torch.cartesian_prod(*lines).to(x)

    def start(example: Tensor, _: Tensor) -> State:
        clean, count = x[example], torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {"found": clean, "theta": budget.identity(clean), "i": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, theta = rows["example"], every[rows["i"].clamp_max(len(every) - 1)]
        at = budget.apply(x[example], theta)
        wrong = model[example].labels(at) != y[example]
        kept = {"found": at, "theta": theta}
        rows = {**rows, **{k: torch.where(per_row(wrong, v), v, rows[k]) for k, v in kept.items()}, "i": rows["i"] + 1}
        return rows, wrong, rows["i"] >= len(every)

    rows, broken = search(model, 1, start, step, most=len(every), keep=("theta",))
    return evasion.Found(rows.get("found", x), {"claimed": broken}, rows.get("theta", budget.identity(x)))
