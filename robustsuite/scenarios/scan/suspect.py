"""What a scanner is handed, and what it returns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard, carded
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import ready


@dataclass(frozen=True)
class Suspect:
    """A network that may carry a backdoor, a copy that nobody else uses; pictures: clean ones, where they are granted.

    It is in eval mode and frozen; logits (N, K).
    """

    net: nn.Module = field(repr=False)
    space: InputSpace
    pictures: Split | None = field(default=None, repr=False)
    device: str = "cpu"

    @classmethod
    def of(cls, net: nn.Module, space: InputSpace, pictures: Split | None = None, device: str = "cpu") -> Suspect:
        """A copy of the network, so that no scanner changes the one that is judged."""
        return cls(ready(copy.deepcopy(net), device), space, pictures, device)

    def clean(self, most: int) -> tuple[Tensor, Tensor]:
        """The first clean pictures (N, C, H, W), at the most so many, and their labels. Raises BadValue without any."""
        if self.pictures is None or not len(self.pictures):
            raise BadValue("expected clean pictures to scan with, got none; name a data set with a val split")
        rows = torch.arange(min(most, len(self.pictures)))
        return self.pictures.images(rows).to(self.device), self.pictures.y[rows].to(self.device)


class Finding(NamedTuple):
    """What a scanner makes of a network.

    scores (K,): how suspicious each class is as a backdoor's target, larger is more; suspicion: the same of the
    network, NaN where it could not be measured, and `why`. stamp: pictures (N, C, H, W) -> the same with the
    recovered trigger of the most suspicious class. figures: other numbers of the network, by name.
    """

    scores: Tensor
    suspicion: float
    stamp: Callable[[Tensor], Tensor] | None = None
    figures: Mapping[str, float] = {}
    why: str = ""

    @property
    def target(self) -> int:
        """The most suspicious class; -1 where none could be measured."""
        known = self.scores.nan_to_num(nan=-torch.inf)
        return int(known.argmax()) if bool(self.scores.isfinite().any()) else -1


class Attack(Protocol):
    """A suspect -> what is found; rng: one stream a class."""

    def __call__(self, suspect: Suspect, *, rng: Rng) -> Finding: ...


A = TypeVar("A", bound=Callable[..., Finding])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register a scanner. needs: Access.GRADIENTS or WEIGHTS, and AUX_DATA where it works with clean pictures."""
    return carded("attack", "scan", **facts)


def scanned(suspect: Suspect, function: Callable[..., Finding], card: AttackCard, seed: int) -> Finding:
    """What a scanner (its parameters bound) finds, the same for the same network and seed; raises BadValue for none."""
    classes = suspect.space.classes
    rng = Rng.of(seed, f"scan/{card.name}", torch.arange(classes)).to(suspect.device)
    found = function(suspect, rng=rng)
    scores = found.scores.detach().cpu().double()
    if scores.shape != (classes,):
        raise BadValue(f"expected a score for each of {classes} classes from {card.name}, got {tuple(scores.shape)}")
    return found._replace(scores=scores)
