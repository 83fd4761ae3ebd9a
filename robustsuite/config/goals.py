"""What the adversary wants the answer to be: anything wrong, one class, or an ordered list of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng


class Goal(Protocol):
    """targets: what a picture's answer is compared with (N, K); margin: how far (N,) it is past it, > 0 if reached."""

    name: ClassVar[str]

    def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor: ...
    def margin(self, logits: Tensor, targets: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Untargeted:
    """Any class but the true one."""

    name: ClassVar[str] = "untargeted"

    def __str__(self) -> str:
        return self.name

    def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor:
        """The class to leave (N, 1)."""
        return y[:, None]

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The best other logit minus the true one (N,)."""
        return margin(logits, targets[:, 0])


@dataclass(frozen=True)
class Targeted:
    """One class, drawn uniformly among the wrong ones: another seed draws another."""

    name: ClassVar[str] = "targeted"

    def __str__(self) -> str:
        return self.name

    def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor:
        """The class to reach (N, 1)."""
        return _wrong(y, classes, 1, rng)

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The target's logit minus the best other (N,)."""
        return -margin(logits, targets[:, 0])


@dataclass(frozen=True)
class OrderedTopK:
    """The K first classes, in order (Zhang and Wu, 2020; Paniagua, Grainger, Wu, 2023, arXiv:2312.11510).

    The list is drawn uniformly among the orderings of the wrong classes: another seed draws another.
    """

    k: int
    name: ClassVar[str] = "ordered_topk"

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise BadValue(f"expected a whole number of classes >= 1 for ordered_topk, got {self.k!r}; write 5")

    def __str__(self) -> str:
        return f"{self.name}(k={self.k})"

    def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor:
        """The classes (N, K) that shall lead, the first one first."""
        if self.k > classes - 1:
            raise BadValue(f"expected at most {classes - 1} targets among {classes} classes, got {self.k}; lower k")
        return _wrong(y, classes, self.k, rng)

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The smallest margin (N,) of a listed class over the next one, of the last over every class not listed."""
        listed = logits.gather(1, targets)
        rest = logits.scatter(1, targets, -torch.inf).amax(1, keepdim=True)
        return -torch.cat([listed, rest], 1).diff(dim=1).amax(1)


@dataclass(frozen=True)
class ToClass:
    """One class for every picture, as a backdoor's answer; a picture of that class itself is none of its business."""

    target: int
    name: ClassVar[str] = "targeted"

    def __post_init__(self) -> None:
        if not isinstance(self.target, int) or isinstance(self.target, bool) or self.target < 0:
            raise BadValue(f"expected a class as a target, 0 or more, got {self.target!r}; write {{target: 3}}")

    def __str__(self) -> str:
        return f"to_class({self.target})"

    def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor:
        """The class to reach (N, 1)."""
        if not 0 <= self.target < classes:
            raise BadValue(f"expected a target in 0 ... {classes - 1}, got {self.target!r}; choose a class of the data")
        return torch.full_like(y, self.target)[:, None]

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The target's logit minus the best other (N,)."""
        return -margin(logits, targets[:, 0])


def _wrong(y: Tensor, classes: int, k: int, rng: Rng) -> Tensor:
    """k distinct wrong classes (N, k) in uniform order."""
    scores = rng.uniform(classes).scatter(1, y[:, None], -1.0)
    return scores.topk(k, 1).indices


def parse_goal(value: object) -> Goal:
    """A goal from yaml: 'untargeted', 'targeted', {target: 3} or {ordered_topk: 5}."""
    if isinstance(value, dict) and list(value) == ["target"]:
        return ToClass(value["target"])
    if isinstance(value, dict) and list(value) == ["ordered_topk"]:
        return OrderedTopK(value["ordered_topk"])
    simple: dict[object, Goal] = {"untargeted": Untargeted(), "targeted": Targeted()}
    if not isinstance(value, str) or value not in simple:
        raise UnknownName("goal", str(value), [*map(str, simple), "target: CLASS", "ordered_topk: K"])
    return simple[value]
