"""The attack once more on a few pictures: with twice the steps on what it left standing, and with no limit but the box.

An attack that has not converged, or fails where any picture is allowed, says little of a system (Carlini et al., 2019,
arXiv:1902.06705). An audit asks of many; every run of as many as a thirtieth of the attack's own cost pays for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustsuite.config.threats import Access, Ball, Threat, parse_ball
from robustsuite.config.transforms import Allowed
from robustsuite.integrity.checks import LARGE, PUBLISHED, SMALL, Flag
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.context import Context
from robustsuite.scenarios.record import Record
from robustsuite.scenarios.routes import transfers
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import services

LONGER, WHOLE = 100, 80
"""One picture in so many is attacked with twice the steps, and in the whole box: 2 % and 1.25 % of the cost at most."""

FROM = PUBLISHED
"""Pictures of a cell: of fewer, a hundredth shows nothing, and steps of a few pictures cost more than they say."""

COLUMNS = ("longer", "longer_fell", "unbounded", "unbounded_stood")

Again = Callable[[Callable[..., Any], Threat, Tensor], Record]
"""Plays (attack, threat, rows) on these pictures of the cell."""


def whole(ball: Allowed | None, space: InputSpace, share: float = 1.0) -> Ball | None:
    """The ball that holds every picture, or this share of its radius; None for a set without one."""
    values = math.prod(space.shape)
    radius = {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}.get(ball.norm if ball else "")
    return None if radius is None or ball is None else parse_ball(ball.norm, share * radius)


def looked_again(context: Context, record: Record, again: Again) -> dict[str, Tensor]:
    """The COLUMNS (N,) bool: asked with twice the steps, fell then; asked in the whole box, stood then. Or none."""
    card, threat, system = context.card, context.threat, context.served()
    given = {**card.parameters, **getattr(context.attack, "keywords", {})}
    limited = threat.queries is not None or threat.queries_total is not None
    plainly = Access.GRADIENTS in card.needs and threat.goal.name == "untargeted" and "steps" in given
    hidden = system.hides or system.stochastic or transfers(card, threat, system) or services(system.net)
    other = card.minimum_norm or card.whole or Access.AUX_DATA in card.needs
    if not plainly or hidden or limited or other or len(context.split) < FROM:
        return {}
    robust, right = (record.columns[name] for name in ("robust", "clean_ok"))
    found = {name: torch.zeros(len(context.split), dtype=torch.bool) for name in COLUMNS}
    rows = (robust & _drawn(context.rng, "longer", LONGER)).nonzero().flatten()
    if len(rows):
        found["longer"][rows] = True
        twice = partial(context.attack, steps=2 * given["steps"])
        found["longer_fell"][rows] = ~again(twice, threat, rows).columns["robust"]
    rows, box = (right & _drawn(context.rng, "whole", WHOLE)).nonzero().flatten(), whole(threat.budget, system.space)
    if len(rows) and box is not None:
        found["unbounded"][rows] = True
        found["unbounded_stood"][rows] = again(context.attack, replace(threat, budget=box), rows).columns["robust"]
    return found


def _drawn(rng: Rng, name: str, one_in: int) -> Tensor:
    """Which pictures (N,), by each one's stream, whatever stands beside it."""
    return (rng.fold(name).uniform() < 1 / one_in).cpu()


def flags(columns: dict[str, Tensor]) -> list[Flag]:
    """What the columns of all pictures say."""
    if not set(columns) >= set(COLUMNS):
        return []
    asked, fell, unbounded, stood = (int(columns[name].sum()) for name in COLUMNS)
    robust = float(columns["robust"].double().mean())
    raised = not_converged("twice the steps break", fell, asked, fell / max(asked, 1) * robust)
    if stood > 1:
        words = f"{stood} of {unbounded} images stand though any picture is allowed"
        raised.append(Flag("unbounded_fails", words))
    return raised


def not_converged(what: str, fell: int, asked: int, share: float) -> list[Flag]:
    """The flag of E7: `fell` of the `asked` standing images, this share of all, fall to what is said."""
    if fell <= 1 or share <= SMALL:
        return []
    level = "fail" if fell > 2 and share > LARGE else "warn"
    return [Flag("not_converged", f"{what} {fell} of {asked} standing images more", level)]
