"""Evasion: the adversary changes the picture within a budget; the judge, never the attack, says whether it broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from robustsuite.oracle import Oracle
from robustsuite.randomness import Rng
from robustsuite.registry import carded
from robustsuite.threats import Ball


class Found(NamedTuple):
    """What an attack may return instead of x_adv alone: claims and stages, one bool an example, for the record.

    columns: 'claimed' (the attack says it broke) and any 'after_<stage>' (it says still robust after that stage).
    """

    x_adv: Tensor
    columns: dict[str, Tensor]


class Attack(Protocol):
    """x (N, C, H, W) in [0, 1] and correctly classified, y (N,) -> x_adv of the same shape."""

    def __call__(self, model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng) -> Tensor | Found: ...


A = TypeVar("A", bound=Callable[..., Any])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an evasion attack.

    needs: Access; norms: names of the budgets it works in; paper; cost: (classes, **parameters) -> Cost;
    differs: sentences on where it departs from the paper; requires: an optional package.
    """
    return carded("attack", "evasion", **facts)
