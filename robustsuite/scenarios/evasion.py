"""Evasion: the adversary changes the picture within a budget; the judge, never the attack, says whether it broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from robustsuite.data import Split
from robustsuite.judge import REPEATS, Judge
from robustsuite.losses import CLEAR
from robustsuite.oracle import Oracle, preserved
from robustsuite.probes import Flag
from robustsuite.randomness import Rng
from robustsuite.registry import Card, carded
from robustsuite.scenarios.record import Record
from robustsuite.system import System
from robustsuite.threats import Access, Ball, Threat


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


def play(
    system: System, attack: Callable[..., Tensor | Found], split: Split, threat: Threat, rng: Rng, *, width: int,
    card: Card, eot: int = 1, clean_ok: Tensor | None = None,
) -> Record:  # fmt: skip
    """Attack every correctly classified example and judge what comes back.

    clean_ok: the verdicts (N,) of `unattacked`, if they are at hand. A system that hides gradients is attacked through
    its surrogate; a random one is asked again by the judge.
    Columns: clean_ok, robust, in_budget, fooled (wrong whatever the budget), distance (in the budget's norm),
    queries (forwards an image), rejected, overturned (a claim the judge does not share), and the attack's own.
    """
    ball = threat.budget
    if ball is None:
        raise ValueError(f"expected a budget in the evasion threat {threat.name!r}, got none")
    x, y = split.images(torch.arange(len(split))).to(system.device), split.y.to(system.device)
    rng = Rng(rng.keys.to(system.device))
    judge = Judge(system.net, stochastic=system.stochastic, width=width)
    clean_ok = (_right(judge, x, y, rng.fold("clean")) if clean_ok is None else clean_ok).to(x.device)
    attacked = torch.arange(len(x), device=x.device) if card.whole else clean_ok.nonzero().flatten()

    net = system.surrogate if system.surrogate is not None and card.needs & system.hides else system.net
    oracle = Oracle.over(
        net, threat.access, rng[attacked].fold("oracle"),
        width=width, eot=eot, clear=torch.inf if system.stochastic or net is not system.net else CLEAR,
        queries=threat.queries, threat=f"the threat {threat.name!r}",
    )  # fmt: skip
    x_adv, claims = x.clone(), {}
    if len(attacked):
        with preserved(net):
            found = attack(oracle, x[attacked].clone(), y[attacked].clone(), ball, rng=rng[attacked].fold("attack"))
        found = found if isinstance(found, Found) else Found(found, {})
        if found.x_adv.shape != x[attacked].shape:
            shapes = f"{tuple(x[attacked].shape)} from {card.name}, got {tuple(found.x_adv.shape)}"
            raise ValueError(f"expected pictures of shape {shapes}")
        x_adv[attacked] = found.x_adv.detach().to(x)
        claims = found.columns

    answers = judge(x_adv, y, rng.fold("judge"))
    in_budget, distance = ball.allows(x, x_adv).cpu(), ball.distance(x, x_adv).cpu()
    inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    fooled = (answers.wrong & inside) | ~clean_ok
    clean_ok, fooled = clean_ok.cpu(), fooled.cpu()
    columns = {
        "clean_ok": clean_ok,
        "robust": clean_ok & ~(fooled & in_budget),
        "in_budget": in_budget,
        "fooled": fooled,
        "distance": torch.where(clean_ok, distance, 0.0),
        "queries": _spread(oracle.counts.billed(), attacked, len(x)),
        "rejected": answers.rejected.cpu(),
        "rechecked": answers.rechecked.cpu(),
    }
    if system.stochastic:
        columns["wrong_share"] = answers.share.cpu()
    for name, claim in claims.items():
        columns[name] = _spread(claim.cpu(), attacked, len(x))
    claimed = columns.pop("claimed", columns["fooled"] & in_budget)
    columns["overturned"] = claimed & columns["robust"]
    note = _note(columns, system, card)
    return Record(columns, _flags(columns, system, card, eot), *oracle.counts.totals(), note)


def unattacked(system: System, split: Split, rng: Rng, *, width: int) -> Tensor:
    """Which pictures (N,) bool the served system gets right before anybody touches them."""
    judge = Judge(system.net, stochastic=system.stochastic, width=width)
    parts = [
        _right(judge, x.to(system.device), y.to(system.device), rng[positions]).cpu()
        for positions, x, y in split.batches(width)
    ]
    return torch.cat(parts)


def _right(judge: Judge, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
    answers = judge(x, y, rng)
    return ~answers.wrong & ~answers.rejected


def _spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Values of the attacked rows in a column of all n; 0 or False elsewhere."""
    column = torch.zeros(n, dtype=values.dtype)
    column[rows.cpu()] = values
    return column


def _flags(columns: dict[str, Tensor], system: System, card: Card, eot: int) -> list[Flag]:
    """What casts doubt on the number itself."""
    n, flags = len(columns["robust"]), []
    outside = int((columns["clean_ok"] & ~columns["in_budget"]).sum())
    if outside and not card.minimum_norm:
        flags.append(Flag("over_budget", f"{outside} of {n} returned pictures are outside the budget or the box"))
    averaged = eot > 1 or system.surrogate is not None
    if system.stochastic and Access.GRADIENTS in card.needs and not averaged:
        flags.append(Flag("randomised", "the system draws noise and the attack averages over none; set eot"))
    return flags


def _note(columns: dict[str, Tensor], system: System, card: Card) -> str:
    """What a reader of the number should know."""
    notes = []
    if system.hides & card.needs:
        notes.append("gradients are hidden: attacked through the defense's surrogate")
    if system.stochastic:
        notes.append(f"each picture was judged {REPEATS} times")
    if overturned := int(columns["overturned"].sum()):
        notes.append(f"the attack claims {overturned} more breaks, which the judge does not share")
    return "; ".join(notes)
