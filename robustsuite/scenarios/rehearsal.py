"""An attack tried on one blank picture before anything is computed, so that a plan can say what will not be played.

A stand-in of as many classes answers its first questions; what the attack, its loss or the goal says of parameters,
classes and shape is then said at plan time. Anything else that it raises is left for the cell itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustsuite.config.decision import Decision
from robustsuite.config.goals import Goal
from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access
from robustsuite.config.transforms import Allowed
from robustsuite.errors import BadValue, UnknownName, cause
from robustsuite.maths.randomness import Rng, untouched
from robustsuite.scenarios.cell import COMMON
from robustsuite.serve.data import InputSpace
from robustsuite.serve.oracle import Desk

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell

QUESTIONS = 2
"""Batches that the stand-in answers: the first is enough for a loss that does not fit the classes."""

WIDTH = 64
"""Pictures in a batch that it answers."""

DEAREST = 10**9
"""Forwards an example beyond which no attack is played."""

VALUES = 10**7
"""Values of a picture beyond which nothing is rehearsed."""


PLAYED = ("evasion", "certification")
"""The scenarios whose attacks are called here as there; what others are handed takes a training."""


class _Enough(BaseException):
    """Ends a rehearsal; no plugin catches it by an `except Exception`."""


class _StandIn(nn.Module):
    """Logits (N, K) from the mean of a picture, for a few batches."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 1, classes), requires_grad=False)
        self.left = QUESTIONS

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0 or len(x) > WIDTH:
            raise _Enough
        return x.flatten(1).mean(1, keepdim=True) * self.weight


class _Nothing:
    """What an adversary owns, out of reach in a rehearsal."""

    def __getattr__(self, name: str) -> Any:
        raise _Enough


def rehearsed(cell: Cell) -> Decision | None:
    """Why the attack's parameters, its loss or the threat's goal do not fit this data; None where nothing says so."""
    card, threat = cell.attack, cell.threat
    if card is None or threat is None or threat.budget is None or card.place not in PLAYED:
        return None
    space, of = cell.lifecycle.model.space, cell.memo.of
    said = of(_said, card, cell.given, threat.budget, threat.goal, threat.access, space)
    return Decision("refused", "parameters", said) if said else None


def _own(card: AttackCard, given: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Of what is given the attack's own parameters."""
    return {key: value for key, value in given if key not in COMMON or key in card.parameters}


def _said(
    card: AttackCard, given: tuple[tuple[str, Any], ...], ball: Allowed, goal: Goal, access: Access, space: InputSpace
) -> str:
    """The sentence of what does not fit; '' where nothing is said."""
    own = _own(card, given)
    if card.requires or math.prod(space.shape) > VALUES:
        return ""
    y, rng = torch.full((1,), space.classes - 1), Rng.of(0, "rehearsal", torch.zeros(1, dtype=torch.int64))
    try:
        with untouched(), torch.enable_grad(), torch.inference_mode(False):
            targets = goal.targets(y, space.classes, rng)
            aim = None if goal.name == "untargeted" else targets
            x, desk = torch.full((1, *space.shape), 0.5), Desk(_StandIn(space.classes), access, rng, width=1)
            _play(partial(card.function, **own), card, aim, x, y, ball, desk)
    except (BadValue, UnknownName) as error:
        return str(error)
    except (_Enough, Exception):  # as far as it goes; what it says of a real network, the cell says
        pass
    return ""


def _play(
    attack: Callable[..., Any], card: AttackCard, targets: Tensor | None, x: Tensor, y: Tensor, ball: Allowed,
    desk: Desk,
) -> None:  # fmt: skip
    rng = desk.rng
    if card.place == "certification":
        extra = {"rng": rng} if "rng" in inspect.signature(attack).parameters else {}
        attack(desk.net, x, y, ball, **extra)
        return
    handed: dict[str, Any] = {"aux": _Nothing()} if Access.AUX_DATA in card.needs else {}
    if card.goals != ("untargeted",):
        handed["targets"] = targets
    attack(desk.oracle(), x, y, ball, rng=rng, **handed)


def priced(cell: Cell) -> Decision | None:
    """Why an attack of any scenario costs too much to end, or its cost cannot be told; None where neither is so."""
    if cell.attack is None:
        return None
    said = cell.memo.of(_dear, cell.attack, cell.given, cell.lifecycle.model.space)
    return Decision("refused", "parameters", said) if said else None


def _dear(card: AttackCard, given: tuple[tuple[str, Any], ...], space: InputSpace) -> str:
    own, draws = _own(card, given), dict(given).get("eot") or 1
    try:
        forwards = card.priced(space.classes, **own).forwards * draws
        dear = not forwards <= DEAREST
    except BadValue as error:
        return str(error)
    except Exception as error:  # a plugin's own function
        return f"expected a cost of {card.name} with these parameters, got {cause(error)}; mend them"
    return f"expected at most {DEAREST:.0e} forwards an example, got {forwards:.0e}; lower its numbers" if dear else ""
