"""What an adversary may see and do: access, perturbation budgets, the threat that joins them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from robustsuite.config.goals import Goal, Untargeted
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths import projections
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Budget, GoalFacts, ThreatFacts, radius_words

if TYPE_CHECKING:
    from robustsuite.config.transforms import Transformation


class Access(Flag):
    """What of the system the adversary is handed."""

    NONE = 0
    LABELS = auto()
    SCORES = auto()
    GRADIENTS = auto()
    WEIGHTS = auto()
    TRAIN_SET = auto()
    UPDATE = auto()
    AUX_DATA = auto()
    WHITE_BOX = LABELS | SCORES | GRADIENTS | WEIGHTS

    def kinds(self) -> tuple[str, ...]:
        """The names of the granted kinds."""
        return tuple(str(kind.name).lower() for kind in Access(self.value))

    def words(self) -> str:
        """The granted kinds in words: 'labels, scores'."""
        return ", ".join(self.kinds()) or "nothing"


def parse_access(names: str | list[str]) -> Access:
    """Access from a yaml value such as 'white_box', 'scores' or ['weights', 'update'].

    Scores include labels (an argmax away), gradients include scores.
    """
    known = {str(name).lower(): member for name, member in Access.__members__.items()}
    access = Access.NONE
    for name in [names] if isinstance(names, str) else names:
        if name.lower() not in known:
            raise UnknownName("access", name, known)
        access |= known[name.lower()]
    if Access.GRADIENTS in access:
        access |= Access.SCORES
    return access | Access.LABELS if Access.SCORES in access else access


class Ball(Protocol):
    """All pictures in [0, 1] within `eps` of x, in one norm or by another measure of what differs."""

    norm: ClassVar[str]

    @property
    def eps(self) -> float: ...
    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor: ...
    def allows(self, x: Tensor, x_adv: Tensor) -> Tensor: ...
    def project(self, x: Tensor, x_adv: Tensor) -> Tensor: ...
    def sample(self, x: Tensor, rng: Rng) -> Tensor: ...


@dataclass(frozen=True)
class Sized:
    """What a set of pictures has, of whatever kind: its name and how large it is."""

    eps: float
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        eps: Any = self.eps
        eps = eps.item() if getattr(eps, "ndim", None) == 0 else eps  # a number of numpy or torch
        object.__setattr__(self, "eps", eps)
        if not (isinstance(eps, int | float) and not isinstance(eps, bool) and eps >= 0):
            raise BadValue(f"expected an eps >= 0 for {self.norm}, got {self.eps!r}; write 8/255, 0.5 or inf")

    def __str__(self) -> str:
        return f"{self.norm}(eps={radius_words(self.eps, self.norm)})"


@dataclass(frozen=True)
class Near(Sized):
    """A set that is read from pixels: all pictures in [0, 1] at a distance of at most eps; here of a norm."""

    tolerance: ClassVar[float] = 0.0

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance (N,) float64 between pictures (N, C, H, W), in this norm."""
        return projections.norm((x_adv.double() - x.double()).flatten(1), self.norm)

    def allows(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Which rows (N,) keep the budget and the box, read in float64; float32 rounding is forgiven."""
        inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)  # false for NaN as well
        return inside & (self.distance(x, x_adv) <= self.eps * (1 + self.tolerance) + self.tolerance)


@dataclass(frozen=True)
class Linf(Near):
    """No pixel value moves by more than eps."""

    norm: ClassVar[str] = "linf"
    tolerance: ClassVar[float] = 1e-6

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest picture in the ball and the box."""
        return projections.linf(x, x_adv, self.eps)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """Uniform in the ball, clipped to the box."""
        return self.project(x, x + rng.uniform(*x.shape[1:], low=-self.eps, high=self.eps))


@dataclass(frozen=True)
class L2(Near):
    """The Euclidean length of the change, in [0, 1] pixel units, is at most eps."""

    norm: ClassVar[str] = "l2"
    tolerance: ClassVar[float] = 1e-5

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Scaled into the ball, then clipped to the box (which only shortens)."""
        return projections.l2(x, x_adv, self.eps)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """Uniform in the ball (Gaussian direction, radius u^(1/d)), clipped to the box."""
        direction = projections.unit(rng.fold("direction").normal(*x.shape[1:]), "l2")
        radius = rng.fold("radius").uniform(1, 1, 1) ** (1 / x.shape[1:].numel())
        return self.project(x, x + self.eps * radius * direction)


@dataclass(frozen=True)
class L1(Near):
    """The absolute changes sum to at most eps."""

    norm: ClassVar[str] = "l1"
    tolerance: ClassVar[float] = 1e-5

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest picture in ball and box at once (Croce & Hein, 2021, arXiv 2103.01208, prop. 2.1)."""
        return projections.l1(x, x_adv, self.eps)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """Uniform in the ball (Laplace direction, radius u^(1/d)), projected to the box."""
        u = rng.fold("direction").uniform(*x.shape[1:], low=-1, high=1)
        direction = projections.unit(-u.sign() * torch.log1p(-u.abs()), "l1")
        radius = rng.fold("radius").uniform(1, 1, 1) ** (1 / x.shape[1:].numel())
        return self.project(x, x + self.eps * radius * direction)


@dataclass(frozen=True)
class L0(Near):
    """At most eps pixel values (channel by channel) change."""

    norm: ClassVar[str] = "l0"

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Keep the eps largest changes, clip them to the box."""
        return projections.l0(x, x_adv, self.eps)

    def sample(self, x: Tensor, rng: Rng) -> Tensor:
        """eps places drawn without replacement, each with a fresh uniform value."""
        score = rng.fold("places").uniform(*x.shape[1:])
        fresh = rng.fold("values").uniform(*x.shape[1:])
        return torch.where(projections.largest(score, int(self.eps)), fresh, x)


BALLS: dict[str, type[Linf] | type[L2] | type[L1] | type[L0]] = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}


def parse_number(value: object, what: str = "eps") -> float:
    """A number from 0.03, '0.03' or '8/255'.

    Raises BadValue for anything else, a zero denominator included.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"\s*([-+\d.eE]+)\s*(?:/\s*([-+\d.eE]+)\s*)?", str(value))
    if value == "inf":
        return math.inf
    try:
        if match:
            number = float(match[1]) / float(match[2] or 1)
            if math.isfinite(number):
                return number
    except (ValueError, ZeroDivisionError):
        pass
    raise BadValue(f"expected a number or a fraction such as 8/255 for {what}, got {value!r}; write for example 8/255")


def parse_ball(norm: str, eps: object) -> Ball:
    """A ball from a norm's name and an eps such as '8/255'; `sets.parse_set` knows the other sets as well."""
    if norm not in BALLS:
        raise UnknownName("budget", norm, [*BALLS, "queries"])
    return BALLS[norm](parse_number(eps, f"the {norm} budget"))


AnySet = TypeVar("AnySet", bound="Ball | Transformation")
"""Balls stay balls, and other sets what they are."""


def within_box(ball: AnySet) -> AnySet:
    """The ball; raises BadValue for an linf radius in units of 0 ... 255: pictures are in [0, 1]."""
    if ball.norm == "linf" and 1 < ball.eps < math.inf:
        raise BadValue(
            f"expected an linf eps in [0, 1], as the pixels are, got {ball.eps:g}; write {ball.eps:g}/255, or inf for "
            f"no limit"
        )
    return ball


@dataclass(frozen=True)
class PoisonRate:
    """The share of the training examples the adversary may change, covers included."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise BadValue(f"expected a poison rate above 0 and up to 1, got {self.rate!r}; write 0.01")

    def most(self, n: int) -> int:
        """How many of n examples that is; at least one."""
        return max(1, int(self.rate * n + 1e-9))


@dataclass(frozen=True)
class Update:
    """What one client of a federated training shares, and what its observer knows besides.

    batch: its examples. local_steps, rate: SGD steps on them (one step: the gradient itself). mode: batch norm in
    'eval' or 'train'. trained: the network is a trained one. labels: the observer is told the classes.
    """

    batch: int = 1
    local_steps: int = 1
    rate: float = 0.01
    mode: str = "eval"
    trained: bool = True
    labels: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "local_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadValue(f"expected {name} as a whole number >= 1, got {value!r}; write 1")
        if self.mode not in ("eval", "train"):
            raise BadValue(f"expected mode eval or train, got {self.mode!r}; it is batch norm's")

    def told(self) -> dict[str, Any]:
        """The batch, and what differs from the defaults."""
        plain = Update(self.batch)
        return {k: v for k, v in vars(self).items() if k == "batch" or v != getattr(plain, k)}


@dataclass(frozen=True)
class Threat:
    """One adversary: the protocol it plays (scenario), what it sees, what it may change.

    surrogate: the spec of a network of the adversary's own, which attacks that need gradients are played through.
    terms: what a scenario of somebody's own reads of its yaml besides, by key. keep: which pictures are kept, broken,
    all or none; no part of what it is.
    """

    name: str
    scenario: str
    access: Access = Access.NONE
    budget: Ball | Transformation | None = None
    queries: int | None = None
    queries_total: int | None = None
    goal: Goal = field(default_factory=Untargeted)
    poison: PoisonRate | None = None
    target: int | None = None
    update: Update | None = None
    surrogate: str = ""
    surrogate_sha256: str = ""
    terms: tuple[tuple[str, Any], ...] = ()
    keep: str = field(default="broken", compare=False)

    @property
    def lends(self) -> Access:
        """What the adversary's own network gives away besides: all of itself."""
        return Access.WHITE_BOX if self.surrogate else Access.NONE

    def facts(self) -> ThreatFacts:
        """The same as a record holds it."""
        told = dict(self.terms) | ({"update": self.update.told()} if self.update else {})
        told |= {k: getattr(self, k) for k in ("surrogate", "surrogate_sha256") if getattr(self, k)}
        budget = Budget(
            norm=self.budget.norm if self.budget else "", eps=self.budget.eps if self.budget else None,
            queries=self.queries, queries_total=self.queries_total,
            poison_rate=self.poison.rate if self.poison else None, terms=told,
        )  # fmt: skip
        goal = GoalFacts(name=self.goal.name, terms=dict(vars(self.goal)), words=str(self.goal))
        return ThreatFacts(name=self.name, access=self.access.kinds(), goal=goal, budget=budget)
