"""Evasion: the adversary changes the picture within a budget; the judge, never the attack, says whether it broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from robustsuite.config.decision import Decision
from robustsuite.config.keys import BallSpec, Entries
from robustsuite.config.registry import AttackCard, carded
from robustsuite.config.threats import Access, Threat
from robustsuite.config.transforms import Allowed
from robustsuite.errors import BadValue
from robustsuite.integrity.witness import EVERY, drawn, searched, witnessed
from robustsuite.maths import projections
from robustsuite.maths.projections import levels
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.conclusions import flags_of, note_of
from robustsuite.scenarios.kept import kept
from robustsuite.scenarios.record import UNDEFINED, Record
from robustsuite.scenarios.refusals import unfit
from robustsuite.scenarios.routes import AttackContext, Try, broken, draws, every_route, least, transfers
from robustsuite.scenarios.second_looks import COLUMNS, looked_again
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import services
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.system import System

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context


class Found(NamedTuple):
    """What an attack may return instead of x_adv alone: columns (N,) for the record.

    'claimed' (bool: the attack says it got there) and 'after_<stage>' (bool: it says still robust after that stage)
    are read by the report; any other column is stored as it is. theta (N, ...): of a set of renderings, what is judged.
    """

    x_adv: Tensor
    columns: dict[str, Tensor]
    theta: Tensor | None = None


class Attack(Protocol):
    """x (N, C, H, W) in [0, 1] and correctly classified, y (N,) -> x_adv of the same shape.

    An attack whose card lists a goal besides 'untargeted' also takes `targets`: the classes (N, K) to reach, None where
    any mistake will do. One that needs AUX_DATA also takes `aux: Aux`.
    """

    def __call__(self, model: Oracle, x: Tensor, y: Tensor, budget: Allowed, *, rng: Rng) -> Tensor | Found: ...


NORMS = ("l1", "l2", "linf")
"""The norms a nearest adversarial's size is stored in."""

BESIDE = (
    "rechecked", "robust_direct", "robust_surrogate", "robust_continued", "robust_own", "below_a_bit", "witnessed",
    "two_faced", "bent", "noise_rejected", "slopes", "misled", "searched", *COLUMNS,
)  # fmt: skip
"""Yes or no, of which no score is made."""

SEARCHED = 0.05
"""Of what an attack by gradients cost, how much goes into random points around what it left standing."""

A = TypeVar("A", bound=Callable[..., Any])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an evasion attack.

    needs: Access; norms: names of the budgets it works in; goals: what it works towards; paper;
    cost: (classes, **parameters) -> Cost; differs: where it departs from the paper; requires: an optional package.
    """
    return carded("attack", "evasion", **facts)


def play(context: Context) -> Record:
    """Attack every correctly classified example of the part, and judge what comes back."""
    card, common, clean = context.card, context.common, context.unattacked()
    record = attacked(
        _met(context), context.attack, context.split, context.threat, context.rng, width=context.width, card=card,
        clean_ok=clean and clean.ok, aux=context.aux() if Access.AUX_DATA in card.needs else None, **common,
    )  # fmt: skip
    columns, named = record.columns, context.reading.named
    broken = columns["clean_ok"] & columns["fooled"] & columns["in_budget"]
    said = {"prediction": named(clean.prediction)} if clean else {}
    return record._replace(
        columns=columns | said | {"answer": named(columns["answer"])},
        kept=kept(context, columns["clean_ok"], broken, record.pictures),
    )


def conclude(context: Context, record: Record) -> Record:
    """What the columns of all examples say of the number, with a second look at a few."""

    def again(attack: Callable[..., Any], threat: Threat, rows: Tensor) -> Record:
        right, some = record.columns["clean_ok"][rows], context.split.at(rows)
        return attacked(context.served(), attack, some, threat, context.rng[rows], width=context.width,
                        card=context.card, clean_ok=right, **context.common)  # fmt: skip

    record = record._replace(columns=record.columns | looked_again(context, record, again))
    return concluded(record, context.served(), context.card, own=_own(context), **context.common)


def _own(context: Context) -> str:
    """The network of its own that this adversary plays on, '' where it plays on the system."""
    return context.threat.surrogate if transfers(context.card, context.threat, context.served()) else ""


def _met(context: Context) -> System:
    """The system as this adversary meets it: through a network of its own where it must."""
    own, system = _own(context), context.served()
    return replace(system, surrogate=context.aux().net(own)) if own else system


def together(cell: Cell) -> int:
    """What is learnt, a peer's batches and a limit on all questions are of the whole cell; else one by one."""
    card, threat = cell.attack, cell.threat
    one = card is not None and not (card.whole or card.learns) and threat is not None and threat.queries_total is None
    return 1 if one else len(cell.split)


def judged(
    system: System, attack: Callable[..., Tensor | Found], split: Split, threat: Threat, rng: Rng, *, width: int,
    card: AttackCard, eot: int | None = None, **more: Any,
) -> Record:  # fmt: skip
    """Both at once, for a system that is no cell's; `attacked` says what is recorded, and takes the same."""
    return concluded(attacked(system, attack, split, threat, rng, width=width, card=card, eot=eot, **more),
                     system, card, eot)  # fmt: skip


def attacked(
    system: System, attack: Callable[..., Tensor | Found], split: Split, threat: Threat, rng: Rng, *, width: int,
    card: AttackCard, eot: int | None = None, clean_ok: Tensor | None = None, aux: Aux | None = None,
) -> Record:  # fmt: skip
    """Attack every correctly classified example, by every route the system leaves open, and judge what comes back.

    clean_ok: the verdicts (N,) of `unattacked`, if they are at hand. A system that hides gradients or draws noise is
    attacked directly, through its surrogate, and directly again from the surrogate's point; the row is the least.
    Columns: clean_ok, robust (right, and still answered right), answer (a class, -1 for none), in_budget, fooled (the
    goal reached whatever the budget), distance (in its norm), queries (forwards an image), rejected, overturned (a
    claim the judge does not share), undefined and unsettled where any answer is, unanswered (the right answer is gone,
    no wrong one came) where any is, robust_<route> where there are several, and the attack's own. Raises Unsupported
    where no route is open.
    """
    ball = threat.budget
    if ball is None:
        raise ValueError(f"expected a budget in the evasion threat {threat.name!r}, got none")
    x, y = split.images(torch.arange(len(split))).to(system.device), split.y.to(system.device)
    x = levels(x) if system.grid else x
    judge = Judge(system.net, stochastic=system.stochastic, width=width, under=system.under)
    clean_ok = (judge(x, y, rng.fold("clean")).held if clean_ok is None else clean_ok).to(x.device)
    targets = threat.goal.targets(y, system.space.classes, rng.fold("targets"))
    # a picture that is of the class to reach cannot be brought there
    meant = torch.ones_like(clean_ok) if threat.goal.name == "untargeted" else (targets != y[:, None]).all(1)
    rows = torch.arange(len(x), device=x.device) if card.whole else (clean_ok & meant).nonzero().flatten()
    judge.margin = threat.goal.margin

    handed: dict[str, Any] = {"aux": aux} if Access.AUX_DATA in card.needs else {}
    context = AttackContext(system, attack, threat, ball, card, rng, width, eot, handed, x, y, targets, meant)
    tries = every_route(context, rows, judge)
    forwards, backwards = (sum(t.totals[i] for t in tries) for i in (0, 1))
    best = least(tries)
    return Record(_verdicts(context, tries, best, judge, clean_ok), [], forwards, backwards, x_adv=best.x_adv)


def _verdicts(
    context: AttackContext, tries: list[Try], best: Try, judge: Judge, clean_ok: Tensor
) -> dict[str, Tensor]:  # fmt: skip
    """The columns (N,) of the best of what the tries brought, all of them the judge's but the attack's own."""
    system, card, x = context.system, context.card, context.x
    answers, x_adv = best.answers, best.x_adv
    in_budget, distance = best.inside.cpu(), best.distance.cpu()
    inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    fooled, clean_ok = ((answers.wrong & inside) | ~clean_ok).cpu(), clean_ok.cpu()
    counts = in_budget & inside.cpu()  # what came back from elsewhere says nothing of the system
    unbroken = clean_ok & ~(fooled & in_budget)
    columns = {
        "clean_ok": clean_ok,
        "robust": clean_ok & (answers.held.cpu() | ~counts),
        "in_budget": in_budget,
        "fooled": fooled,
        "distance": torch.where(clean_ok, distance, 0.0),
        "queries": sum((t.queries for t in tries if t.route != "own"), torch.zeros(len(x), dtype=torch.int64)),
        "rejected": answers.rejected.cpu(),
        "rechecked": answers.rechecked.cpu(),
        "answer": answers.prediction.cpu(),
    }
    some = {"undefined": answers.undefined.cpu() & counts, "unsettled": answers.unsettled.cpu() & counts,
            "unanswered": unbroken & ~columns["robust"]}  # fmt: skip
    some |= _asked_again(context, judge, best, clean_ok & counts, columns["robust"], columns["queries"])
    columns |= {name: column for name, column in some.items() if bool(column.any())}
    if system.stochastic:
        columns["wrong_share"] = answers.share.cpu()
    if card.minimum_norm:
        columns |= {norm: projections.norm((x_adv.double() - x.double()).flatten(1), norm).cpu() for norm in NORMS}
    columns |= _own_columns(card, best.columns)
    claimed = best.columns.get("claimed", columns["fooled"] & in_budget)
    columns["overturned"] = claimed & unbroken
    if not system.stochastic and not card.minimum_norm:
        fell = (clean_ok & ~unbroken).nonzero().flatten().to(x.device)
        bits = judge(levels(x_adv[fell]), context.targets[fell], context.rng.fold("bits")[fell])
        columns["below_a_bit"] = torch.zeros_like(columns["robust"]).index_put((fell.cpu(),), ~bits.wrong.cpu())
    if len(tries) > 1:
        columns |= {f"robust_{t.route}": clean_ok & ~broken(t).cpu() for t in tries}
    return columns


def _asked_again(
    context: AttackContext, judge: Judge, best: Try, of: Tensor, stands: Tensor, queries: Tensor
) -> dict[str, Tensor]:
    """What a few of these pictures (N,) say when they are asked about in other ways; nothing of what is paid for.

    stands, queries (N,): what the attack left, and what it asked.
    """
    again, x_adv = best.recalled, best.x_adv
    system, x, streams = context.system, context.x, context.rng.fold("judge")
    if services(system.net):
        return {}
    rows = (of.to(x.device) & drawn(context.rng)).nonzero().flatten()
    own = transfers(context.card, context.threat, system)
    direct = Access.GRADIENTS in context.card.needs and not system.hides and not own
    found = witnessed(system, judge, x, context.targets, x_adv, rows, streams, ball=context.ball, gradients=direct)
    columns = {name: column.cpu() for name, column in found._asdict().items()}
    columns["two_faced"] |= again.odd
    if bool(again.misled.any()):  # which question is the last is the batch's doing: nothing is stored of honest ones
        columns |= {"slopes": again.slopes, "misled": again.misled}
    fitted = not (context.card.minimum_norm or context.card.learns)
    if direct and fitted and not system.stochastic and context.threat.goal.name == "untargeted":
        # a gradient costs two forwards, a point that is drawn and asked about nearly as much
        draws = (SEARCHED * EVERY * queries).long().clamp(max=1000).to(x.device)
        left = rows[stands.to(x.device)[rows]]
        columns["searched"] = searched(judge, x, context.targets, left, streams, context.ball, draws).cpu()
    return columns


def _own_columns(card: AttackCard, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an attack stores beside the verdict; raises BadValue for a name of the judge's."""
    if clash := next((name for name in columns if name in JUDGED or name.startswith("robust")), None):
        raise BadValue(f"expected own columns from {card.name}, got {clash!r}, which the judge writes; rename it")
    return {name: column for name, column in columns.items() if name != "claimed"}


def concluded(record: Record, system: System, card: AttackCard, eot: int | None = None, own: str = "") -> Record:
    """The record with the flags and the note that its columns lead to. own: whose pictures were taken to the system."""
    flags = flags_of(record.columns, system, card, draws(system, eot), own)
    return record._replace(flags=flags, note="" if own else note_of(record.columns, system, card))


def decide(cell: Cell) -> Decision | None:
    """What no attack of this kind can do: reach the goal, work in the ball, own nets under a head that is cut."""
    card, threat = cell.attack, cell.threat
    if card is None or threat is None or threat.budget is None:
        return None
    if cell.reading.head is not None and Access.AUX_DATA in card.needs:
        return Decision("refused", "head", f"{card.name} asks nets of its own, whose heads are whole")
    if threat.goal.name not in card.goals:
        goals = ", ".join(card.goals)
        return Decision("refused", "goal", f"{card.name} works towards {goals}; the threat's goal is {threat.goal}")
    return unfit(card, threat.budget)


class EvasionSpec(BallSpec):
    """shifts: sets of the sweep whose pictures are attacked as well.

    surrogate: a model of the adversary's own, through which attacks that need more than the threat grants are played.
    """

    shifts: Entries = Field(default_factory=list)
    surrogate: str = ""

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        threat = replace(super().threat(name), surrogate=self.surrogate)
        if self.surrogate and Access.AUX_DATA not in threat.access:
            raise BadValue(
                f"expected aux_data in the access of {name!r}, whose surrogate is a network of the adversary's own, "
                f"got {threat.access.words()}; add it, or leave the surrogate out"
            )
        return threat


scenario = Scenario(
    "evasion", "The picture is changed within a budget; the judge says whether it broke.", play,
    columns=(
        Column(name="robust", better="more", scores=(Scoring(name="robust_accuracy", compared=True),)),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy"),)),
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="answer", dtype="int", unit="class"),
        Column(name="in_budget"),
        Column(name="fooled", better="less"),
        Column(name="distance", dtype="float", unit="norm of the budget", better="more"),
        Column(name="queries", dtype="int", unit="answers", better="more"),
        Column(name="rejected", scores=(Scoring(name="rejected_rate", sparse=True),)),
        UNDEFINED,
        Column(name="unsettled", better="less", scores=(Scoring(name="unsettled_rate", sparse=True),)),
        Column(name="unanswered", better="less", scores=(Scoring(name="unanswered_rate", sparse=True),)),
        Column(name="overturned", scores=(Scoring(name="overturned_rate", sparse=True),)),
        *(Column(name=name) for name in BESIDE),
        *(Column(name=name, dtype="float") for name in ("wrong_share", *NORMS)),
    ),
    headline="robust_accuracy", paper="Biggio et al., 2013, arXiv:1708.06131; Szegedy et al., 2014, arXiv:1312.6199",
    spec=EvasionSpec, decide=decide, together=together, conclude=conclude, joins="all",
    sections="robustsuite.reports.sections.evasion.attacked:part", asks=True,
)  # fmt: skip

JUDGED = frozenset({"index", "label", *(column.name for column in scenario.columns)})
"""Columns that no attack may write, and every name that begins with robust."""
