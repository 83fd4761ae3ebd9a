"""Square: random search with square windows, scores alone (Andriushchenko et al., 2020, arXiv 1912.00049).

Algorithms 1 to 3, with AutoAttack's settings. Windows, signs and tiles are drawn from each example's own stream, so a
verdict does not depend on the batch. Core, because compositions run it as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.randomness import Rng
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these many proposals the share p of the picture that a window covers is halved (not rescaled to `steps`)."""


def square(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, steps: int = 5000, p: float = 0.8,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Square in the budget's ball (linf, l2); returns x_adv (N, C, H, W) and which broke (N,) bool.

    steps: proposals an image, one query each after one for the start; fewer where the threat leaves fewer queries. p:
    share of the picture in the first windows. targets (N, 1): the class to reach; None: any wrong one. An unbroken
    image comes back as the iterate nearest to its goal. Raises BadValue for steps < 0 or p outside (0, 1].
    """
    if steps < 0 or not 0 < p <= 1:
        raise BadValue(f"expected steps >= 0 and 0 < p <= 1, got steps={steps!r}, p={p!r}; write for example p=0.8")
    able = (model.left() > 0).nonzero().flatten()
    x_adv, broken = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    target = None if targets is None else targets[able]
    rows, done = _search(model[able], x[able], y[able], target, budget, rng[able], steps, p)
    x_adv[able], broken[able] = rows.get("found", x[able]), done
    return x_adv, broken


def _search(
    model: Oracle, x: Tensor, y: Tensor, target: Tensor | None, budget: Ball, rng: Rng, steps: int, p: float
) -> tuple[State, Tensor]:
    begin, propose = (_stripes, _windows) if budget.norm == "linf" else (_tiles, _moved_mass)
    sides = side(torch.arange(steps + 1, device=x.device), p, x)

    def start(example: Tensor, _: Tensor) -> State:
        at, n = begin(x[example], budget, rng[example].fold("start")), len(example)
        count = torch.zeros(n, dtype=torch.int64, device=x.device)
        blank, clean = torch.full((n,), -torch.inf, device=x.device), x[example]
        return {"clean": clean, "at": at, "found": clean.clone(), "margin": blank, "i": count}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, at, i = rows["example"], rows["at"], rows["i"]
        view = model[example]
        margin = losses.goal_margin(view(at), y[example], None if target is None else target[example])
        better = margin > rows["margin"]
        found = projections.keep(rows["found"], at, better)
        highest = torch.where(better, margin, rows["margin"])
        out = (i >= steps) | (view.left() < 1)
        at = propose(found, rows["clean"], budget, rng[example].fold(i), sides[i.clamp_max(steps)])
        return {**rows, "at": at, "found": found, "margin": highest, "i": i + 1}, highest > model.confidence_margin, out

    return search(model, 1, start, step, most=steps + 1)


def side(i: Tensor, p: float, x: Tensor) -> Tensor:
    """Side (N,) of the window after i (N,) proposals: round(sqrt(p H W)), p halved on schedule, at most min(H, W)."""
    h, w = x.shape[-2:]
    halved = torch.stack([i > after for after in HALVINGS]).sum(0)
    length = (p * h * w * 0.5 ** halved.to(torch.float64)).sqrt().round()
    return length.clamp(1, min(h, w)).to(torch.int64)


def _signs(rng: Rng, *shape: int) -> Tensor:
    return rng.uniform(*shape, low=-1, high=1).sign()


def _offsets(rng: Rng, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Row (N, H, 1) and column (N, 1, W) of each pixel, counted from a window of side s (N,) drawn uniformly."""
    h, w = x.shape[-2:]
    u = rng.uniform(2)
    top = (u[:, 0] * (h - s + 1)).to(torch.int64)
    left = (u[:, 1] * (w - s + 1)).to(torch.int64)
    row = torch.arange(h, device=x.device)[:, None] - top[:, None, None]
    column = torch.arange(w, device=x.device) - left[:, None, None]
    return row, column


def _inside(row: Tensor, column: Tensor, s: Tensor) -> Tensor:
    """Pixels (N, H, W) whose row (N, H, 1) and column (N, 1, W) are those of the window."""
    s = s[:, None, None]
    return (row >= 0).logical_and_(row < s) & (column >= 0).logical_and_(column < s)


# linf: every pixel stands at x - eps or x + eps (algorithm 2)


def _stripes(x: Tensor, budget: Ball, rng: Rng) -> Tensor:
    """Vertical stripes one pixel wide, a sign a channel."""
    return budget.project(x, x + budget.eps * _signs(rng, x.shape[1], 1, x.shape[3]))


def _windows(at: Tensor, x: Tensor, budget: Ball, rng: Rng, s: Tensor) -> Tensor:
    """One window set to a new sign a channel."""
    row, column = _offsets(rng.fold("window"), s, x)
    colour = budget.eps * _signs(rng.fold("colour"), x.shape[1], 1, 1)
    return projections.chosen(_inside(row, column, s)[:, None], (x + colour).clamp_(0, 1), at)


# l2: mass moves from one window to another, in the shape of eta (algorithm 3)


def _rectangle(row: Tensor, column: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """eta^(h1, h2), eq. 2: sum over k from m + 1 to n + 1 of 1 / k^2, at Chebyshev distance m from the centre."""
    m = torch.maximum((row - height // 2).abs(), (column - width // 2).abs())
    n = torch.maximum(height, width) // 2
    terms = 1 / torch.arange(1, int(max(row.shape[1:])) + 2, device=row.device, dtype=torch.float32).square()
    sums = torch.cat([terms.new_zeros(1), terms.cumsum(0)])
    within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    last = len(sums) - 1
    value = sums[(n + 1).clamp(0, last).expand_as(m)] - sums[torch.minimum(m, n + 1).clamp(0, last)]
    return projections.unit(value * within, "l2")


def eta(row: Tensor, column: Tensor, s: Tensor, across: Tensor) -> Tensor:
    """Two rectangles of opposite sign that fill the window (N, H, W), of length 1; `across` (N,): transposed."""
    across, s = across[:, None, None], s[:, None, None]
    row, column = torch.where(across, column, row), torch.where(across, row, column)
    upper, lower = s // 2, s - s // 2
    return projections.unit(_rectangle(row, column, upper, s) - _rectangle(row - upper, column, lower, s), "l2")


def _tiles(x: Tensor, budget: Ball, rng: Rng) -> Tensor:
    """A grid of tiles, five along the shorter side, each eta with a random sign a channel; length eps in all."""
    c, h, w = x.shape[1:]
    s = max(min(h, w) // 5, 1)
    down, along = h // s, w // s
    row = torch.arange(h, device=x.device)[:, None].expand(h, w) - h % s // 2
    column = torch.arange(w, device=x.device)[None].expand(h, w) - w % s // 2
    covered = (row >= 0) & (row < down * s) & (column >= 0) & (column < along * s)
    tile = (row.div(s, rounding_mode="floor") * along + column.div(s, rounding_mode="floor")) * covered

    both = torch.tensor([False, True], device=x.device)
    side_s = torch.full((2,), s, device=x.device)
    shape = eta((row % s).expand(2, h, w), (column % s).expand(2, h, w), side_s, both) * covered
    way = rng.fold("ways").integers(2, down * along)[:, tile]
    sign = _signs(rng.fold("signs"), c, down * along)[:, :, tile]
    delta = sign * torch.where(way == 0, shape[0], shape[1])[:, None]
    return budget.project(x, x + budget.eps * projections.unit(delta, "l2"))


def _moved_mass(at: Tensor, x: Tensor, budget: Ball, rng: Rng, s: Tensor) -> Tensor:
    """Empty one window; its mass and the unused budget go to another, in the shape of what was there plus +-eta."""
    nu = at - x
    row, column = _offsets(rng.fold("to"), s, x)
    to = _inside(row, column, s)[:, None]
    taken = _inside(*_offsets(rng.fold("from"), s, x), s)[:, None]
    shape = eta(row, column, s, rng.fold("across").uniform(1)[:, 0] < 0.5)[:, None]
    shape = _signs(rng.fold("signs"), x.shape[1], 1, 1) * shape + _unit_a_channel(nu * to)

    unused = (budget.eps**2 - nu.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    available = ((nu * (to | taken)).square().sum((2, 3), keepdim=True) + unused / x.shape[1]).sqrt()
    nu = torch.where(to, _unit_a_channel(shape * to) * available, torch.where(taken, 0.0, nu))
    return budget.project(x, x + budget.eps * projections.unit(nu, "l2"))


def _unit_a_channel(delta: Tensor) -> Tensor:
    """Each channel (H, W) scaled to length 1; zeros stay."""
    return delta / delta.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
