"""The judge's side: clones and a stranger are held against the victim on pictures that nobody asked about."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite import __version__
from robustsuite.config.decision import Decision
from robustsuite.config.threats import Access, Ball, Threat
from robustsuite.integrity.probes import Flag
from robustsuite.integrity.tampering import untampered
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import clopper_pearson
from robustsuite.methods.evasion.apgd import apgd
from robustsuite.records.schema import At, Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.extraction.asked import ExtractionSpec, ExtractionThreat
from robustsuite.scenarios.extraction.prada import watched
from robustsuite.scenarios.extraction.thief import (
    Stolen,
    Thief,
    Victim,
    Watcher,
    checked,
    fresh_from,
    marks,
    victim,
)
from robustsuite.scenarios.record import Clean, Record, unattacked
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.kept import kept, key_of
from robustsuite.serve.models import Training, load_model, ready
from robustsuite.serve.oracle import Desk, answer
from robustsuite.serve.system import System

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context

STEPS = 50
"""Of the Auto-PGD that is taken from the clone to the victim."""


def play(context: Context) -> Record:
    """Let the thief ask and train, and judge its clones and a stranger beside them."""
    threat, system, control = _asked(context.threat), context.served(), context.apart()
    model = load_model(threat.clone, system.space)
    streams = Rng.of(control.seed, f"{threat.name}/queries", torch.arange(threat.asks)).to(system.device)
    desk = Desk(system.net, threat.access, streams, width=context.width, queries_total=threat.asks,
                threat=f"the threat {threat.name!r}")  # fmt: skip
    watcher = Watcher()
    pool = context.aux().pictures if Access.AUX_DATA in threat.access else None
    own = Thief(fresh_from(model.net, control.seed), pool, system.space, marks(threat.asks), control.seed,
                system.device)  # fmt: skip
    stolen = _stolen(context, victim(desk, watcher, system.space.classes), own)
    stolen = checked(stolen, desk.counts.totals()[0], own, context.card)
    stranger = _stranger(own, control, model.identity())
    clean = context.unattacked() or unattacked(system, context.split, context.rng, width=context.width)
    columns = judged(system, stolen, stranger, context.split, clean, threat.ball, context.rng, context.width)
    columns |= _watched(watcher, context.split, clean, desk.counts.totals()[0])
    note = _note(columns, own, context)
    return Record(columns, _flags(columns), *desk.counts.totals(), note)


def _stolen(context: Context, asked: Victim, own: Thief) -> object:
    """What the attack brings, while nobody touches what it is judged by."""
    importlib.import_module("torch._dynamo")  # an optimiser's first step loads it, and it wraps torch.manual_seed
    system, x = context.served(), context.split.images(torch.arange(min(1, len(context.split))))
    ask = lambda: answer(system.net, x.to(system.device), context.rng[: len(x)])  # noqa: E731
    with untampered([system.net], f"the attack {context.card.name}", ask):
        return context.attack(asked, own)


def _stranger(own: Thief, control: Training, clone: str) -> nn.Module:
    """The clone's architecture trained as a clone is, on the control's pictures with their own labels; kept."""

    def fit(net: nn.Module, training: Training) -> nn.Module:
        x, y = training.train.images(torch.arange(len(training.train))), training.train.y
        return own.learnt(x, torch.eye(own.space.classes)[y])

    key = key_of([clone, control.train.sha256, str(control.seed), control.device, __version__, "stranger"])
    return ready(kept(fit, key)(own.fresh(0), control), own.device)


class Taken(NamedTuple):
    """A network beside the victim (N,): its classes, right or not, and whether an attack on it broke the victim too.

    tried: where both are right, which is where an attack is tried.
    """

    classes: Tensor
    ok: Tensor
    tried: Tensor
    transferred: Tensor


def judged(
    system: System, stolen: Stolen, stranger: nn.Module, split: Split, clean: Clean, ball: Ball, rng: Rng, width: int
) -> dict[str, Tensor]:
    """Columns (N,) of the last clone, of the stranger, and agree_at_<queries>, clone_ok_at_<queries> of every clone."""
    x, y = split.images(torch.arange(len(split))).to(system.device), split.y.to(system.device)
    right, said = clean.ok.to(system.device), clean.prediction.to(system.device)
    clone, other = (taken(net, system, x, y, right, ball, rng, width) for net in (stolen.clones[-1][1], stranger))
    found = {
        "agree": clone.classes == said, "clone_ok": clone.ok, "clean_ok": right, "answered": said >= 0,
        "both_ok": clone.tried, "transferred": clone.transferred,
        "stranger_agree": other.classes == said, "stranger_ok": other.ok,
        "stranger_both_ok": other.tried, "stranger_transferred": other.transferred,
        "prediction": said, "clone": clone.classes,
    }  # fmt: skip
    for n, net in stolen.clones:
        classes = answered(net, x, width)
        found |= {At.of("agree_at", n): classes == said, At.of("clone_ok_at", n): classes == y}
    return {name: column.cpu() for name, column in found.items()}


def taken(
    net: nn.Module, system: System, x: Tensor, y: Tensor, right: Tensor, ball: Ball, rng: Rng, width: int
) -> Taken:
    """A network's classes on x, and what becomes of Auto-PGD on it where it and the victim are right."""
    classes = answered(net, x, width)
    ok = classes == y
    rows = (ok & right).nonzero().flatten()
    broke = torch.zeros_like(ok)
    if len(rows):
        # its own errors decide nothing: it goes on to its last step and brings its point of highest loss
        own = Desk(net, Access.WHITE_BOX, rng[rows].fold("transfer"), width=width, confidence_margin=math.inf)
        x_adv, _ = apgd(own.oracle(), x[rows], y[rows], ball, rng=rng[rows].fold("attack"), steps=STEPS)
        judge = Judge(system.net, stochastic=system.stochastic, width=width, margin=margin, under=system.under)
        broke[rows] = judge(x_adv, y[rows], rng[rows].fold("judge")).wrong & ball.allows(x[rows], x_adv)
    return Taken(classes, ok, ok & right, broke)


def answered(net: nn.Module, x: Tensor, width: int) -> Tensor:
    """The classes (N,) that a clone says of pictures (N, C, H, W)."""
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(width)])


def _watched(watcher: Watcher, split: Split, clean: Clean, asked: int) -> dict[str, Tensor]:
    """What a detector says of the queries and of the judged pictures in their order; the same in each row."""
    n = len(split)
    thief, benign = watched(*watcher.stream()), watched(split.images(torch.arange(n)), clean.prediction.cpu())
    told = {"prada_after": thief.after, "prada_w": thief.w, "benign_after": benign.after, "benign_w": benign.w}
    return {name: torch.full((n,), value) for name, value in told.items()} | {"asked": torch.full((n,), asked)}


def _flags(columns: dict[str, Tensor]) -> list[Flag]:
    """What makes these numbers say nothing of how well the system keeps itself."""
    of = columns["answered"]
    n, agree = int(of.sum()), int(columns["agree"][of].sum())
    if not n:
        return [Flag("nothing_answered", "the system answers none of the judged pictures: nothing can agree with it")]
    common = int(columns["prediction"][of].bincount().max())
    if clopper_pearson(agree, n)[0] <= common / n:
        words = f"the clone agrees on {agree / n:.1%}, whoever always says one class on {common / n:.1%}"
        return [Flag("clone_at_chance", f"{words}: nothing was stolen by this attack, which shows nothing of others")]
    return []


def _note(columns: dict[str, Tensor], own: Thief, context: Context) -> str:
    """What a reader of the number should know."""
    after = float(columns["prada_after"][0]) if len(columns["prada_after"]) else math.nan
    words = [f"{int(columns['asked'][0]) if len(columns['asked']) else 0} of {own.marks[-1]} queries asked"]
    words += [] if after != after else [f"PRADA raises an alarm after {after:.0f}"]
    agree, other = (int((columns[name] & columns["answered"]).sum()) for name in ("agree", "stranger_agree"))
    if other >= agree:
        words.append("a stranger that asked nothing agrees as often: what is stolen is not more than labels give")
    if own.pool is not None and context.pretrained:
        words.append("whether the system was trained on the thief's pictures is not known: it came trained")
    return "; ".join(words)


def _asked(threat: Threat) -> ExtractionThreat:
    if not isinstance(threat, ExtractionThreat):
        raise ValueError(f"expected a threat of the scenario extraction, got {threat.name!r} without a clone")
    return threat


def decide(cell: Cell) -> Decision | None:
    """What cannot be played: a clone that comes trained, or no pictures apart from those that are judged."""
    if cell.threat is None or cell.threat.scenario != "extraction":
        return None
    data = cell.lifecycle.data
    if "val" not in data.splits or cell.subjects.splits == ("val",):
        return Decision("refused", "pool", f"{data.name} has no val split apart from what is judged, for the thief's "
                        f"pictures and the stranger's")  # fmt: skip
    model = cell.memo.of(load_model, _asked(cell.threat).clone, cell.lifecycle.model.space)
    if model.pretrained:
        return Decision("refused", "clone", f"{model.name} comes trained; a clone is an architecture with a recipe")
    return None


def _rate(name: str, where: str = "answered", *, sparse: bool = False, compared: bool = False) -> tuple[Scoring, ...]:
    return (Scoring(name=name, where=where, sparse=sparse, compared=compared),)


scenario = Scenario(
    "extraction", "A thief asks a limited number of questions and trains a clone on the answers.", play,
    columns=(
        Column(name="agree", better="less", scores=_rate("agreement", compared=True)),
        Column(name="clone_ok", better="less", scores=(Scoring(name="clone_accuracy"),)),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy"),)),
        Column(name="transferred", better="less", scores=_rate("transfer_rate", "both_ok")),
        Column(name="stranger_agree", scores=_rate("stranger_agreement")),
        Column(name="stranger_ok", scores=(Scoring(name="stranger_accuracy"),)),
        Column(name="stranger_transferred", scores=_rate("stranger_transfer_rate", "stranger_both_ok")),
        *(Column(name=name) for name in ("answered", "both_ok", "stranger_both_ok")),
        *(Column(name=name, dtype="int", unit="class") for name in ("prediction", "clone")),
        Column(name="asked", dtype="int", unit="answers"),
        *(Column(name=f"{who}_after", dtype="float", unit="answers") for who in ("prada", "benign")),
        *(Column(name=f"{who}_w", dtype="float") for who in ("prada", "benign")),
    ),
    headline="agreement", paper="Tramer et al., 2016, arXiv:1609.02943; Orekondy et al., 2019, arXiv:1812.02766",
    spec=ExtractionSpec, decide=decide, sections="robustsuite.reports.sections.extracted:part",
)  # fmt: skip
