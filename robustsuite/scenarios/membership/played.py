"""The judge's side: the coins are known, the answers counted, and each example's score stands beside its coin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.config.decision import Decision
from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Threat
from robustsuite.errors import BadValue
from robustsuite.integrity.probes import Flag
from robustsuite.integrity.tampering import untampered
from robustsuite.maths.losses import CONFIDENCE_MARGIN
from robustsuite.methods.membership import Shadows
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.membership.asked import MembershipSpec, MembershipThreat
from robustsuite.scenarios.membership.owned import owned
from robustsuite.scenarios.record import Record, unattacked
from robustsuite.serve.adversary import Membership
from robustsuite.serve.data import Dataset, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.oracle import Desk, answer

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context
    from robustsuite.serve.models import Fit

APART = 0.01
"""Accuracy by which shadows may differ from the victim before a reader is told."""


def play(context: Context) -> Record:
    """Hand the adversary the victim, the pictures and what it owns; take its scores."""
    threat, system, split = _asked(context.threat), context.served(), context.split
    member = context.members()
    clean = context.unattacked() or unattacked(system, split, context.rng.fold("clean"), width=context.width)
    shadows = owned(context, threat.shadows) if Access.AUX_DATA in context.card.needs else None
    handed = {} if shadows is None else {"shadows": shadows}
    x, y = split.images(torch.arange(len(split))).to(system.device), split.y.to(system.device)
    desk = Desk(
        system.net, threat.access, context.rng.fold("oracle"), width=context.width, queries=threat.queries,
        queries_total=threat.queries_total, threat=f"the threat {threat.name!r}",
        confidence_margin=torch.inf if system.stochastic else CONFIDENCE_MARGIN,
    )  # fmt: skip
    who = f"the attack {context.card.name}"
    with untampered([system.net], who, lambda: answer(system.net, x[:1], context.rng[:1]), pictures=x, labels=y):
        score = context.attack(desk.oracle(), x.clone(), y.clone(), rng=context.rng.fold("attack"), **handed)
    columns = {"score": checked(score, len(split), context.card), "member": member, "other": ~member,
               "clean_ok": clean.ok.cpu(), "queries": desk.counts.billed().cpu()}  # fmt: skip
    own = None if shadows is None else shadows_right(shadows, x, y)
    return judged(columns, own)._replace(forwards=desk.counts.totals()[0], backwards=desk.counts.totals()[1])


def checked(score: Tensor, n: int, card: AttackCard) -> Tensor:
    """The scores (n,) on the CPU, float64; raises BadValue for what are none."""
    found = score.detach().double().cpu()
    if found.shape != (n,) or bool(found.isnan().any()):
        raise BadValue(f"expected a score for each of {n} examples and no NaN from {card.name}, got shape "
                       f"{tuple(found.shape)} with {int(found.isnan().sum())} NaN; mend it")  # fmt: skip
    return found


def shadows_right(shadows: Shadows, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which shadows (M, N) are right, and which were trained on it."""
    return (shadows.answers(x).argmax(-1) == y).cpu(), shadows.inside.cpu()


def judged(columns: dict[str, Tensor], own: tuple[Tensor, Tensor] | None = None) -> Record:
    """Columns with the flags and the note that they lead to. own: of `shadows_right`.

    Columns besides: shadow_member and shadow_other, the share of an example's shadows that are right, of those trained
    on it and of the others. Flags: nothing_to_tell (members or others are missing), shadows_unlike (the victim's
    accuracy is another than theirs by more than APART and twice their spread).
    """
    member = columns["member"]
    inside, outside = int(member.sum()), int((~member).sum())
    note = [f"{inside} members, {outside} others"]
    if not inside or not outside:
        return Record(columns, [Flag("nothing_to_tell", f"{note[0]}: there are no two sides to tell apart")], 0, 0)
    train, test = (float(columns["clean_ok"][side].float().mean()) for side in (member, ~member))
    note.append(f"right on {train:.1%} of members and {test:.1%} of others")
    flags = []
    if own is not None:
        right, trained_on = own
        told = []
        for name, side, mine in (("member", trained_on, train), ("other", ~trained_on, test)):
            columns[f"shadow_{name}"] = (right & side).sum(0).float() / side.sum(0)
            each = (right & side).sum(1).double() / side.sum(1)
            mean, spread = float(each.mean()), float(each.std(correction=0))
            told.append(f"{mean:.1%}")
            if abs(mine - mean) > max(APART, 2 * spread):
                flags.append(Flag("shadows_unlike", f"the victim is right on {mine:.1%} of {name}s, its shadows on "
                                  f"{mean:.1%} (deviation {spread:.1%}): they were trained otherwise"))  # fmt: skip
        note.append(f"its shadows on {' and '.join(told)}")
    return Record(columns, flags[:1], 0, 0, "; ".join(note))


def _asked(threat: Threat) -> MembershipThreat:
    if not isinstance(threat, MembershipThreat):
        raise ValueError(f"expected a threat of the scenario membership, got {threat.name!r} without a pool")
    return threat


def subjects(judged: Split, data: Dataset, threat: Threat) -> Subjects:
    """Of the pool as many as are asked about, whichever split the sweep judges on."""
    asked = _asked(threat)
    return Membership(asked.pool, 0).subjects(data, asked.subjects)


def trained(cycle: Lifecycle, threat: Threat) -> Lifecycle:
    """The same lifecycle, trained on what the coins of its seed say."""
    return replace(cycle, members=Membership(_asked(threat).pool, cycle.seed), findings={})


def owns(cell: Cell) -> tuple[Fit, int] | None:
    """The shadows, each trained as the victim is."""
    if cell.attack is None or cell.threat is None or not cell.attack.needs & Access.AUX_DATA:
        return None
    recipes = cell.lifecycle.recipes()
    return (recipes[-1][1], _asked(cell.threat).shadows) if recipes else None


def decide(cell: Cell) -> Decision | None:
    """Why nobody can be told apart here: the model comes with its weights, and who they were made of is not known."""
    model = cell.lifecycle.model
    if model.pretrained:
        return Decision("refused", "recipe", f"{model.name} comes trained, on nobody knows which examples; name a "
                        f"model that brings a recipe, which is trained on members that are drawn")  # fmt: skip
    if "val" not in cell.lifecycle.data.splits:
        return Decision("refused", "split", f"{cell.lifecycle.data.name} has no val split, which a training selects by")
    return None


scenario = Scenario(
    "membership", "An adversary tells which examples a network was trained on.", play,
    columns=(
        Column(name="score", dtype="float", better="less", scores=(
            Scoring(name="membership_auc", kind="auc", by="member", compared=True),
            Scoring(name="balanced_accuracy", kind="balanced_accuracy", by="member"),
            Scoring(name="tpr_at_fpr_1_percent", kind="tpr_at", by="member", at=0.01),
            Scoring(name="tpr_at_fpr_0.1_percent", kind="tpr_at", by="member", at=0.001),
            Scoring(name="epsilon_at_least", kind="epsilon", by="member", at=0.1),
        )),
        Column(name="clean_ok", scores=(
            Scoring(name="train_accuracy", where="member"), Scoring(name="test_accuracy", where="other"),
        )),
        Column(name="shadow_member", dtype="float", unit="share", scores=(
            Scoring(name="shadow_train_accuracy", kind="mean"),
        )),
        Column(name="shadow_other", dtype="float", unit="share", scores=(
            Scoring(name="shadow_test_accuracy", kind="mean"),
        )),
        Column(name="member"),
        Column(name="other"),
        Column(name="queries", dtype="int"),
    ),
    headline="membership_auc", paper="Shokri et al., 2017, arXiv:1610.05820", spec=MembershipSpec, subjects=subjects,
    trained=trained, decide=decide, owns=owns, sections="robustsuite.reports.sections.membership:part",
)  # fmt: skip
