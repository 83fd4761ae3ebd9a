"""HopSkipJump as the package foolbox has it, `foolbox:hopskipjump`: the comparator of every decision-based attack.

Chen, Jordan, Wainwright, 2020, https://arxiv.org/abs/1904.02144; Rauber, Zimmermann, Bethge, Brendel, 2020,
https://doi.org/10.21105/joss.02607. The class runs as it is, behind `Decisions`, until the queries are spent.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue, MissingPackage, Unsupported
from robustsuite.maths.projections import per_row, unit
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import Decisions, noise_start, picture_start
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

try:
    import eagerpy
    import foolbox as library
except ImportError:
    library = None

PAPER = "Chen, Jordan, Wainwright, 2020, arXiv:1904.02144 (foolbox: Rauber et al., 2020, 10.21105/joss.02607)"
LEAST = {"queries": 5000}  # as of our own decision-based attacks
DIFFERS = (
    "the start and its cost are those of our own decision-based attacks, so that what follows can be compared",
    "the estimated direction is scaled to length 1 an image; the package scales the batch as a whole",
    "what is returned stands a thousandth further out than the nearest found, as rounding decides on the boundary",
    "a picture that is asked twice in a row is answered from memory, as the package repeats itself while others search",
    "random numbers are drawn for the batch, so what an example gets depends on those beside it",
)


class _Spent(Exception):
    """No example has a query left."""


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


class _Answers:
    """What foolbox calls a model: scores (0, 1) where a picture got there, (1, 0) where not, a whole batch at a time.

    The last picture asked and the last that got there are answered from memory; an example that has spent its
    queries is told yes, so that searches for the others end.
    """

    def __init__(self, ask: Decisions, rows: Tensor, at: Tensor) -> None:
        self.ask, self.rows, self.last, self.got = ask, rows, at.clone(), at.clone()
        self.yes = torch.ones(len(rows), dtype=torch.bool, device=at.device)
        self.bounds = library.types.Bounds(0.0, 1.0)

    def __call__(self, inputs: Any) -> Any:
        points: Tensor = inputs.raw
        if not bool((self.ask.left(self.rows) > 0).any()):
            raise _Spent
        same = (points == self.last).flatten(1).all(1)
        known = (points == self.got).flatten(1).all(1)
        there = torch.where(known, True, self.yes)
        fresh = ~same & ~known
        open_ = (fresh & (self.ask.left(self.rows) > 0)).nonzero().flatten()
        there = there | fresh
        there[open_] = self.ask(self.rows[open_], points[open_])
        self.last, self.yes = points.clone(), there
        self.got = torch.where(per_row(there, points), points, self.got)
        return eagerpy.astensor(torch.stack([~there, there], 1).float())


def _run(ask: Decisions, rows: Tensor, at: Tensor, rng: Rng, steps: dict[str, Any]) -> None:
    """The package's attack from adversarial pictures `at` (M, C, H, W) of the examples `rows`."""
    if not len(rows):
        return
    seed = int(rng.fold("foolbox").integers(1 << 31)[0])
    with torch.random.fork_rng([at.device] if at.device.type == "cuda" else []), contextlib.suppress(_Spent):
        torch.manual_seed(seed)
        attack = _rescaled()(steps=1 << 20, **steps)
        label = torch.zeros(len(rows), dtype=torch.int64, device=at.device)
        attack.run(_Answers(ask, rows, at), ask.x[rows], library.criteria.Misclassification(label), starting_points=at)


def _rescaled() -> Any:
    class Rescaled(library.attacks.HopSkipJumpAttack):  # type: ignore[misc]
        """Each image's direction has length 1, as in the paper's eq. 15; the package's sum runs over the batch."""

        def approximate_gradients(self, *given: Any) -> Any:
            return eagerpy.astensor(unit(super().approximate_gradients(*given).raw, "l2"))

    return Rescaled


def _ready(model: Oracle, probes: int) -> dict[str, Any]:
    if library is None:
        raise MissingPackage("foolbox", "the attack foolbox:hopskipjump", "foolbox==3.3.4")
    if model.confidence_margin == torch.inf:
        raise Unsupported("expected a system that answers the same twice for foolbox:hopskipjump; use cgba")
    if probes < 1:
        raise BadValue(f"expected probes >= 1, got {probes!r}; write for example probes=100")
    return {"initial_gradient_eval_steps": probes}


@evasion.attack(
    name="foolbox:hopskipjump", needs=Access.LABELS, norms=("l2",), paper=PAPER, cost=_cost, minimum_norm=True,
    differs=DIFFERS, requires="foolbox", family=("decision",), least=LEAST, **BLACK_BOX,
)  # fmt: skip
def hopskipjump(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, queries: int = 10000, probes: int = 100
) -> evasion.Found:
    """Foolbox's HopSkipJump toward any wrong class, from the noise cgba starts from.

    x (N, C, H, W) in [0, 1], y (N,). queries: the most an image, fewer where the threat leaves fewer; probes: of the
    first estimate. Columns: l2_at_<queries>, logical. Raises BadValue, MissingPackage, Unsupported.
    """
    steps = _ready(model, probes)
    ask = Decisions(model, x, y, targeted=False, queries=queries)
    for rows in torch.arange(len(x), device=x.device).split(model.width):
        at, found = noise_start(ask, rows, rng[rows].fold("start"))
        _run(ask, rows[found], at[found], rng[rows[found]], steps)
    return evasion.Found(ask.finish(), ask.columns())


@evasion.attack(
    name="foolbox:hopskipjump_targeted", needs=Access.LABELS | Access.AUX_DATA, norms=("l2",), goals=("targeted",),
    paper=PAPER, cost=_cost, minimum_norm=True, differs=DIFFERS, requires="foolbox", family=("decision",),
    least=LEAST, **BLACK_BOX,
)  # fmt: skip
def hopskipjump_targeted(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor, aux: Aux, queries: int = 10000,
    probes: int = 100,
) -> evasion.Found:  # fmt: skip
    """Foolbox's HopSkipJump toward one class, from the picture cgba_h starts from.

    Parameters, columns and errors as of hopskipjump; targets (N, 1).
    """
    steps = _ready(model, probes)
    ask = Decisions(model, x, targets[:, 0], targeted=True, queries=queries)
    for rows in torch.arange(len(x), device=x.device).split(model.width):
        at, found = picture_start(ask, rows, aux.pictures)
        _run(ask, rows[found], at[found], rng[rows[found]], steps)
    return evasion.Found(ask.finish(), ask.columns())
