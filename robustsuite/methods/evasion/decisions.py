"""An adversary who sees labels alone: did this picture get there, how many questions did that take, how near is it?

Every decision-based attack asks through `Decisions`, a peer's as well as ours, so their distances at a number of
queries are read off the same way: the nearest picture that was ever asked about and reached the goal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.maths import projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import At
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle

CHECKPOINTS = (250, 500, 1000, 2500, 5000, 10000)
"""After these many queries an example the distance is kept, as <norm>_at_<queries>."""

VOTES, NEEDED = 10, 8
"""Where the system draws noise, so many answers are asked and that many must say yes: with a bare majority, the
many pictures tried would let luck through."""

TRIES, STEP = 100, 0.02
"""Noise added in search of a first adversarial picture: how often, and its growth a try."""

HAIR = 1e-3
"""How much further out than the nearest a returned picture stands: on the very boundary rounding decides."""

OWNED = 32
"""How many of the adversary's own pictures of a class are considered as starts."""


class Decisions:
    """Yes or no, an example at a time: `ask(rows, points)` says which points (M, C, H, W) reach the goal.

    x (N, C, H, W), classes (N,): the class to leave, or to reach if `targeted`. queries: the most an example may take,
    fewer where the threat leaves fewer. norm: what near is measured in, l1, l2 or linf. Kept for each example: `spent`
    (N,) queries, `least` (N,) distance of the nearest picture that got there (inf for none) and `nearest`, itself (x
    for none). Where the system draws noise (`noisy`) only `confirm` keeps a picture, since a single answer may be luck.
    One query is held back for `finish`. Raises BadValue for queries < 1.
    """

    def __init__(
        self, model: Oracle, x: Tensor, classes: Tensor, *, targeted: bool, queries: int, norm: str = "l2"
    ) -> None:
        if queries < 1:
            raise BadValue(f"expected queries >= 1, got {queries!r}; write for example queries=10000")
        self.model, self.x, self.classes, self.targeted, self.norm = model, x, classes, targeted, norm
        self.noisy = model.confidence_margin == torch.inf
        self.most = model.left().clamp(max=queries)
        self.spent, self.back = torch.zeros_like(self.most), 1
        self.least = torch.full((len(x),), torch.inf, device=x.device)
        self._nearest = torch.cat([x, x[:1]])  # the row beyond the examples takes what is not kept
        self.marks = torch.tensor(CHECKPOINTS, device=x.device)
        self.track = torch.full((len(x), len(CHECKPOINTS)), torch.inf, device=x.device)

    @property
    def nearest(self) -> Tensor:
        """The nearest picture of each example that got there (N, C, H, W); x where none did."""
        return self._nearest[: len(self.x)]

    def left(self, rows: Tensor) -> Tensor:
        """Queries left (M,)."""
        return self.most[rows] - self.spent[rows] - self.back

    def __call__(self, rows: Tensor, points: Tensor) -> Tensor:
        """Which points got there (M,), a query each; a row may stand in `rows` several times."""
        parts = [self._ask(i, p) for i, p in zip(rows.split(self.model.width), points.split(self.model.width),
                                                 strict=True)]  # fmt: skip
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool, device=self.x.device)

    def _ask(self, rows: Tensor, points: Tensor) -> Tensor:
        label = self.model[rows].labels(points)
        there = (label == self.classes[rows]) if self.targeted else (label != self.classes[rows]) & (label >= 0)
        number = self.spent[rows] + 1 + _place(rows)
        self.spent.scatter_add_(0, rows, torch.ones_like(rows))
        if not self.noisy:
            self._keep(rows, points, number, there)
        return there

    def confirm(self, rows: Tensor, points: Tensor) -> Tensor:
        """Whether points (M, C, H, W), found adversarial once, hold (M,) when asked again; free without noise.

        No example twice in `rows`; one with fewer than VOTES queries left is not confirmed.
        """
        if not self.noisy:
            return torch.ones(len(rows), dtype=torch.bool, device=self.x.device)
        able = self.left(rows) >= VOTES
        votes = torch.zeros(len(rows), device=self.x.device)
        for _ in range(VOTES):
            votes[able] += self(rows[able], points[able]).float()
        held = votes >= NEEDED
        self._keep(rows, points, self.spent[rows], held)
        return held

    def _keep(self, rows: Tensor, points: Tensor, number: Tensor, there: Tensor) -> None:
        """Enter the points that got `there` (M,), each the example's query `number` (M,), into the records."""
        if self.x.device.type == "cpu":  # a GPU's host would have to wait to know which
            got = there.nonzero().flatten()
            if not len(got):
                return
            rows, points, number, there = rows[got], points[got], number[got], there[got]
        length = torch.where(there, projections.norm((points - self.x[rows]).flatten(1), self.norm), torch.inf)
        in_time = torch.where(number[:, None] <= self.marks, length[:, None], torch.inf)
        self.track.scatter_reduce_(0, rows[:, None].expand_as(in_time), in_time, "amin")
        least = self.least.scatter_reduce(0, rows, length, "amin")
        nearer = (length == least[rows]) & (length < self.least[rows])
        place = torch.where(nearer, rows, len(self.x))
        place = torch.where(_place(place) == 0, place, len(self.x))
        self._nearest[place] = points
        self.least = least

    def finish(self) -> Tensor:
        """What to return (N, C, H, W): the nearest, a hair further out where that still holds; a query each."""
        self.back = 0
        rows = (self.least.isfinite() & (self.most > self.spent)).nonzero().flatten()
        if self.noisy or not len(rows):
            return self.nearest
        out = (self.x[rows] + (1 + HAIR) * (self.nearest[rows] - self.x[rows])).clamp(0, 1)
        there, found = self(rows, out), self.nearest.clone()
        found[rows[there]] = out[there]
        return found

    def columns(self) -> dict[str, Tensor]:
        """<norm>_at_<queries> (N,) float32 at each checkpoint in the limit, NaN for none; `logical` (N,) queries."""
        known = (self.marks <= self.most[:, None]) & self.track.isfinite()
        track = torch.where(known, self.track, torch.nan)
        series = f"{self.norm}_at"
        found: dict[str, Tensor] = {At.of(series, mark): track[:, k].float() for k, mark in enumerate(CHECKPOINTS)}
        return found | {"logical": self.spent.clone()}


def _place(rows: Tensor) -> Tensor:
    """How many earlier entries of `rows` (M,) name the same example, for each entry."""
    if len(rows) < 2 or (rows.device.type == "cpu" and bool((rows[1:] > rows[:-1]).all())):  # each once, as in a search
        return torch.zeros_like(rows)
    order = rows.argsort(stable=True)
    ordered = rows[order]
    first = torch.searchsorted(ordered, ordered)
    return torch.empty_like(rows).scatter_(0, order, torch.arange(len(rows), device=rows.device) - first)


def noise_start(ask: Decisions, rows: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """An adversarial picture by ever stronger Gaussian noise, a query a try: pictures (M, C, H, W), found (M,).

    Try n adds n * STEP * N(0, I); every third one, noise of 4 x 4 patches, which moves what fine noise leaves.
    """
    x, found = ask.x[rows], torch.zeros(len(rows), dtype=torch.bool, device=ask.x.device)
    at, (c, h, w) = x.clone(), x.shape[1:]
    for n in range(1, TRIES + 1):
        open_ = (~found & (ask.left(rows) > 0)).nonzero().flatten()
        if not len(open_):
            break
        draw = rng[open_].fold(n)
        if n % 3:
            noise = draw.normal(c, h, w)
        else:
            patches = draw.normal(c, -(-h // 4), -(-w // 4))
            noise = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :h, :w]
        tried = (x[open_] + n * STEP * noise).clamp(0, 1)
        there = ask(rows[open_], tried)
        got, tried = open_[there], tried[there]
        at[got], found[got] = tried, ask.confirm(rows[got], tried)
    return at, found


def picture_start(ask: Decisions, rows: Tensor, pictures: Split) -> tuple[Tensor, Tensor]:
    """The nearest of the adversary's pictures of the class to reach that the system takes for it, a query a try.

    Among the first OWNED pictures of the class. Returns pictures (M, C, H, W) and found (M,).
    """
    x, found = ask.x[rows], torch.zeros(len(rows), dtype=torch.bool, device=ask.x.device)
    at = x.clone()
    for wanted in ask.classes[rows].unique().tolist():
        mine = (ask.classes[rows] == wanted).nonzero().flatten()
        owned = pictures.images((pictures.y == wanted).nonzero().flatten()[:OWNED]).to(x)
        if not len(owned):
            continue
        apart = torch.stack([projections.norm((x[mine] - one).flatten(1), "l2") for one in owned], 1)
        for choice in apart.argsort(dim=1, stable=True).unbind(1):
            open_ = (~found[mine] & (ask.left(rows[mine]) > 0)).nonzero().flatten()
            if not len(open_):
                break
            tried = owned[choice[open_]]
            there = ask(rows[mine[open_]], tried)
            got, tried = mine[open_[there]], tried[there]
            at[got], found[got] = tried, ask.confirm(rows[got], tried)
    return at, found


def merged(kept: Tensor, new: Tensor, where: Tensor) -> Tensor:
    """Rows of `new` (M, ...) where `where` (M,) holds, else those of `kept`."""
    return torch.where(per_row(where, kept), new, kept)
