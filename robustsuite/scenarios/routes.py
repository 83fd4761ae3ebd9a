"""The routes into a defended system: directly, through its surrogate, and directly from the surrogate's point.

Every published break of an aggregating defense went through the network it aggregates, and a gradient that exists may
still be masked. So whatever the attack, a system with a surrogate or with noise is attacked each route that is open,
and an example counts as broken if one route breaks it (Zhang et al., 2024, arXiv:2411.14834; Tramer et al., 2020,
arXiv:2002.08347).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import BALLS, Access, Ball, Threat
from robustsuite.config.transforms import Allowed, Transformation
from robustsuite.errors import Unsupported
from robustsuite.integrity.tampering import untampered
from robustsuite.integrity.witness import Recalled, recalled
from robustsuite.maths.losses import CONFIDENCE_MARGIN
from robustsuite.maths.projections import levels
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.record import blank
from robustsuite.serve.judge import Answers, Judge
from robustsuite.serve.models import differentiable
from robustsuite.serve.oracle import Desk, answer, preserved
from robustsuite.serve.system import System

ROUTES = ("direct", "surrogate", "continued")
"""In the order in which they are tried. Besides there is 'own': through a network that the adversary brings along."""

NEARBY = 0.5
"""How far the search around the surrogate's point reaches: its steps and starts in the ball, times this."""


@dataclass(frozen=True)
class AttackContext:
    """One attack against one system on pictures x (N, C, H, W) with labels y (N,) and targets (N, K).

    meant: which (N,) the goal is about; no other can be broken.
    """

    system: System
    attack: Callable[..., Any]
    threat: Threat
    ball: Allowed
    card: AttackCard
    rng: Rng
    width: int
    eot: int | None
    handed: dict[str, Any]
    x: Tensor
    y: Tensor
    targets: Tensor
    meant: Tensor

    @property
    def draws(self) -> int:
        """Gradient draws averaged."""
        return draws(self.system, self.eot)


def draws(system: System, eot: int | None) -> int:
    """Gradient draws averaged, as the user says or else as the defense asks."""
    return eot or (system.eot if system.stochastic else 1)


class Try(NamedTuple):
    """What one route brought: pictures (N, C, H, W), the judge's answers, columns (N,), queries (N,), totals.

    inside (N,) bool: in the threat's set. distance (N,) float64: by the set's own measure. recalled: what its last
    question brings when it is asked again, by picture (N,) bool.
    """

    route: str
    x_adv: Tensor
    inside: Tensor
    distance: Tensor
    answers: Answers
    columns: dict[str, Tensor]
    queries: Tensor
    totals: tuple[int, int]
    recalled: Recalled


def every_route(context: AttackContext, rows: Tensor, judge: Judge) -> list[Try]:
    """The attack on `rows` (M,) each route that is open. Raises Unsupported where none is."""
    system, card = context.system, context.card
    if transfers(card, context.threat, system) and system.surrogate is not None:
        return [_try("own", system.surrogate, context, rows, judge)]
    if not card.needs & (Access.GRADIENTS | Access.WEIGHTS):
        return [_try("direct", system.net, context, rows, judge)]
    tries = []
    if not system.hides & card.needs or _differentiable(system):
        tries.append(_try("direct", system.net, context, rows, judge))
    if system.surrogate is not None:
        tries.append(_try("surrogate", system.surrogate, context, rows, judge))
    if not tries:
        raise Unsupported(f"expected a route for {card.name} into a system that hides its gradients, got none")
    around = context.ball.norm in BALLS and not card.minimum_norm  # a ball has points half way to its middle
    if len(tries) == 2 and around and not (card.whole or Access.WEIGHTS in card.needs):
        standing = rows[~broken(tries[1])[rows]]
        tries.append(_try("continued", system.net, context, standing, judge, around=tries[1].x_adv))
    return tries


def transfers(card: AttackCard, threat: Threat, system: System) -> bool:
    """Whether the adversary must play this attack on a network of its own, and take what it finds to the system."""
    return bool(threat.surrogate and card.needs & Access.WHITE_BOX & ~(threat.access & system.shows))


def least(tries: list[Try]) -> Try:
    """The tries joined: each picture from the route that the judge finds wrong most often within the budget.

    Among equals the nearest wrong one, then one without a right answer, among those the first.
    """
    if len(tries) == 1:
        return tries[0]

    def rank(one: Try) -> Tensor:
        near = one.answers.wrong / (1 + one.distance)  # below one vote of REPEATS
        return (one.answers.share + 1e-4 * ~one.answers.held) * one.inside + 1e-3 * near

    route = torch.stack([rank(one) for one in tries]).max(0).indices
    pick = torch.arange(len(route), device=route.device)

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts)[route.to(parts[0].device), pick.to(parts[0].device)]

    answers = Answers(*(joined(list(column)) for column in zip(*(t.answers for t in tries), strict=True)))
    told = [t.columns for t in tries if t.columns]  # a route that had nothing left to attack tells of none
    first, names = (told[0], set.intersection(*map(set, told))) if told else ({}, set())
    columns = {
        name: joined([t.columns.get(name, blank(len(pick), first[name].dtype)) for t in tries])
        for name in first if name in names
    }  # fmt: skip
    x_adv, inside, distance = (joined([getattr(t, name) for t in tries]) for name in ("x_adv", "inside", "distance"))
    again = Recalled(*(torch.stack(list(column)).any(0) for column in zip(*(t.recalled for t in tries), strict=True)))
    return Try("least", x_adv, inside, distance, answers, columns, tries[0].queries, (0, 0), again)


def on_grid(home: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Pictures as they are sent in 8 bits: the nearest levels, or where those leave the ball, the next ones inwards."""
    near = levels(x)
    inwards = (home + ((x - home) * 255).trunc() / 255).clamp(0, 1)
    return torch.where(ball.allows(home, near)[:, None, None, None], near, levels(inwards))


def broken(one: Try) -> Tensor:
    """Which pictures (N,) this route broke within the budget."""
    return one.answers.wrong & one.inside


def _try(
    route: str, net: nn.Module, context: AttackContext, rows: Tensor, judge: Judge, *, around: Tensor | None = None
) -> Try:
    """Play the attack on `rows` against `net` and have the served system judge what comes back."""
    system, threat, ball, x = context.system, context.threat, context.ball, context.x
    granted, limits = threat.access, {"queries": threat.queries, "queries_total": threat.queries_total}
    if route == "own":  # nobody counts what an adversary asks of its own network
        granted, limits = granted | threat.lends, {}
    home = x[rows]
    recentred: Callable[[Tensor, Tensor], Tensor] | None = None
    if around is not None and not isinstance(ball, Transformation):
        centre = around[rows]

        def recentred(asked: Tensor, u: Tensor) -> Tensor:
            return ball.project(home[asked], centre[asked] + NEARBY * (u - home[asked]))

    desk = Desk(
        net, granted, context.rng[rows].fold("oracle"), width=context.width, eot=context.draws,
        confidence_margin=torch.inf if system.stochastic or net is not system.net else CONFIDENCE_MARGIN,
        threat=f"the threat {threat.name!r}", recentred=recentred,
        # of a stand-in's, nobody knows what the served network makes of it
        shown=_reached(context, rows, judge) if net is system.net else None, **limits,
    )  # fmt: skip
    x_adv, columns = (x if around is None else around).clone(), {}
    inside, distance = _measured(ball, x, x_adv)
    if len(rows):
        handed = dict(context.handed)
        if context.card.goals != ("untargeted",):
            handed["targets"] = None if threat.goal.name == "untargeted" else context.targets[rows].clone()
        judging = [one for one in (net, system.net, system.under) if one is not None]
        who, data = f"the attack {context.card.name}", {"pictures": x, "labels": context.y, "targets": context.targets}
        with untampered(judging, who, lambda: answer(net, home[:1], context.rng[rows[:1]]), **data):
            found = context.attack(
                desk.oracle(), home.clone(), context.y[rows].clone(), copy.copy(ball),
                rng=context.rng[rows].fold("attack"), **handed,
            )  # fmt: skip
        at, columns = (found.x_adv, found.columns) if hasattr(found, "columns") else (found, {})
        if at.shape != home.shape:
            shapes = f"{tuple(home.shape)} from {context.card.name}, got {tuple(at.shape)}"
            raise ValueError(f"expected pictures of shape {shapes}")
        at = at.detach().to(x)
        at = at if recentred is None else recentred(torch.arange(len(rows), device=x.device), at)
        x_adv[rows], inside[rows], distance[rows] = _returned(context, home, at, getattr(found, "theta", None))
    spread = {name: _spread(claim, rows, len(x)) for name, claim in columns.items()}
    queries = _spread(desk.counts.billed(), rows, len(x))
    answers = judge(x_adv, context.targets, context.rng.fold("judge"))
    answers = answers._replace(wrong=answers.wrong & context.meant, share=answers.share * context.meant,
                               held=answers.held | ~context.meant)  # fmt: skip
    again = Recalled(*(_spread(column, rows, len(x)) for column in recalled(desk, net is system.net)))
    return Try(route, x_adv, inside, distance, answers, spread, queries, desk.counts.totals(), again)


def _measured(ball: Allowed, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Which pictures (N,) are in the set, and how far they are from x by its measure; of a rendered set x itself."""
    if isinstance(ball, Transformation):
        return torch.ones(len(x), dtype=torch.bool, device=x.device), x.new_zeros(len(x), dtype=torch.float64)
    return ball.allows(x, x_adv), ball.distance(x, x_adv)


def _returned(context: AttackContext, home: Tensor, at: Tensor, theta: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The pictures that are judged of what an attack returned, whether each is in the set, and its distance.

    Of a set of renderings they are the judge's own, of theta: what the attack says they look like does not count.
    Raises ValueError where it says nothing of theta.
    """
    ball, grid = context.ball, context.system.grid
    if not isinstance(ball, Transformation):
        at = on_grid(home, at, ball) if grid else at
        return at, *_measured(ball, home, at)
    if not isinstance(theta, Tensor):
        raise ValueError(f"expected Found(..., theta=...) from {context.card.name} in {ball}, got no theta; return it")
    pictures, inside, size = ball.rendered(home, theta)
    return levels(pictures) if grid else pictures, inside, size


def _reached(context: AttackContext, rows: Tensor, judge: Judge) -> Callable[[Tensor, Tensor], Tensor]:
    """What stands for an undefined answer when an attack asks: its goal, reached by 1 and more.

    So every attack takes the point for the success that it is, by whatever loss it goes.
    """
    classes, targets = context.system.space.classes, context.targets[rows]
    ramp = -torch.arange(classes, device=targets.device) / classes  # no ties: some losses divide by differences
    places = torch.arange(targets.shape[1], 0, -1, device=targets.device).to(ramp).expand(targets.shape)
    left = context.threat.goal.name == "untargeted"
    goal = ramp.expand(len(rows), -1).scatter(1, targets, -2 * places if left else places)

    def shown(asked: Tensor, logits: Tensor) -> Tensor:
        return torch.where(judge.undefined(logits)[:, None], goal[asked].to(logits), logits)

    return shown


def _differentiable(system: System) -> bool:
    with preserved(system.net):
        return differentiable(system.net, system.space, system.device)


def _spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Values of the attacked rows in a column of all n, on the CPU; elsewhere 0, False, or NaN among floats."""
    values = values.cpu()
    column = blank(n, values.dtype)
    column[rows.cpu()] = values
    return column
