"""The judge's side: a session is asked batch by batch, with and without the adversary's pictures, and read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.config.threats import Access, Threat
from robustsuite.config.transforms import Transformation
from robustsuite.errors import AccessRefused, BadValue, Unsupported
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.adaptation.asked import AdaptationSpec, AdaptationThreat, View
from robustsuite.scenarios.adaptation.streams import Batch, Stages, batches, draws, stages
from robustsuite.scenarios.record import UNDEFINED, Record, undefined_answers
from robustsuite.serve.data import Dataset, Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.protocols import Adapting, Telling
from robustsuite.serve.system import NOTE, Session, System

if TYPE_CHECKING:
    from robustsuite.maths.randomness import Rng
    from robustsuite.scenarios.context import Context


def play(context: Context) -> Record:
    """Ask the whole stream, then the clean pictures; where there is an adversary, once more without it.

    Columns: right, prediction, rejected, undefined; clean (asked after the stream), before (right on the clean picture
    in a session that saw no other), counts (of the stream, and nobody's), place in the stream; with an adversary
    malicious and right_without; and what the system tells.
    """
    threat, subjects = _asked(context.threat), context.subjects
    assert isinstance(subjects, Stages)
    assert subjects.member is not None
    stream, clean = batches(subjects, threat, context.seed)
    rng = draws(subjects, context.seed).to(context.device)
    invaded = Invaded(context, threat, rng) if threat.share else None
    asked = Asked(context, subjects.examples, rng)
    columns = asked.through([*stream, *clean], invaded)
    before = asked.through(clean)
    columns["clean"] = subjects.member == len(subjects.variants) - 1
    columns["before"] = before["right"] & columns["clean"]
    columns["counts"] = ~columns["clean"]
    if invaded:
        without = asked.through([*stream, *clean])
        columns |= {"malicious": invaded.own, "right_without": without["right"]}
        columns["counts"] &= ~invaded.own
    columns |= _places(subjects, [*stream, *clean])
    if not bool(columns["undefined"].any()):
        del columns["undefined"]
    forwards, backwards = invaded.count if invaded else (0, 0)
    note = NOTE.format(order=threat.order, batch=threat.batch) if context.served().adapts else ""
    return Record(columns, undefined_answers(columns), asked.pictures + forwards, backwards, note)


class Asked:
    """The system, asked in sessions; pictures: how many it was asked about."""

    def __init__(self, context: Context, split: Split, rng: Rng) -> None:
        self.context, self.split, self.rng, self.pictures = context, split, rng, 0

    def through(self, stream: list[Batch], invaded: Invaded | None = None) -> dict[str, Tensor]:
        """What a fresh session answers, batch by batch: right, prediction, rejected, undefined, what it tells; (N,)."""
        device, found, session = self.context.device, dict[str, Tensor](), self.context.session()
        for i, batch in enumerate(stream):
            session = self.context.session() if batch.anew and i else session
            x, y = self.split.images(batch.positions).to(device), self.split.y[batch.positions].to(device)
            if invaded and not batch.clean:
                x = invaded(session, x, y, batch.positions)
            for name, values in self._answered(session, x, y, batch.positions).items():
                column = found.setdefault(name, torch.zeros(len(self.split), dtype=values.dtype))
                column[batch.positions] = values.cpu()
            self.pictures += len(x)
        return found

    def _answered(self, session: Session, x: Tensor, y: Tensor, positions: Tensor) -> dict[str, Tensor]:
        judge = Judge(session.net, stochastic=False, width=len(x), under=session.under)
        found = judge.read(session.answer(x, self.rng[positions]), y)
        told = session.net.of_last() if isinstance(session.net, Telling) else {}
        return told | {"right": found.held, "prediction": found.prediction, "rejected": found.rejected,
                       "undefined": found.undefined}  # fmt: skip


class Invaded:
    """The adversary's share of each batch, moved. own: which pictures (N,) are its; count: what it asked."""

    def __init__(self, context: Context, threat: AdaptationThreat, rng: Rng) -> None:
        self.context, self.threat, self.rng, self.count = context, threat, rng, (0, 0)
        self.own = torch.zeros(len(context.split), dtype=torch.bool)
        self.before = context.session()

    def __call__(self, session: Session, x: Tensor, y: Tensor, positions: Tensor) -> Tensor:
        """The batch with its own pictures as the attack moves them. Raises BadValue for what it may not do."""
        few, ball, card = int(self.threat.share * len(positions) + 1e-9), self.threat.budget, self.context.card
        if not few:
            return x
        assert ball is not None
        assert not isinstance(ball, Transformation)
        rng = self.rng[positions]
        drawn = rng.fold("malicious").uniform(1).flatten().argsort()[:few]
        own = torch.zeros(len(positions), dtype=torch.bool, device=x.device)
        own[drawn] = True
        self.own[positions[drawn.cpu()]] = True
        view = self.view(self.before if self.threat.sees == "snapshot" else session)
        moved: Tensor = self.context.attack(view, x.clone(), y, own, ball, rng=rng.fold("attack")).detach()
        self.count = self.count[0] + view.count[0], self.count[1] + view.count[1]
        if moved.shape != x.shape or not torch.equal(moved[~own], x[~own]):
            raise BadValue(f"expected {card.name} to move its own pictures alone, got others that moved; mend it")
        if not bool(ball.allows(x[own], moved[own]).all()):
            raise BadValue(f"expected {card.name} to keep to {ball}, got pictures outside; mend it")
        return moved

    def view(self, session: Session) -> View:
        """What the attack sees of a session: nothing of it where its card asks for nothing."""
        needs = self.context.card.needs
        asks = bool(needs & (Access.SCORES | Access.GRADIENTS))
        return View(standing(self.context.served(), session) if asks else _unseen, needs)


def _unseen(x: Tensor) -> Tensor:
    raise AccessRefused("expected an attack that asks for nothing, got one that asks; name it in its needs")


def standing(system: System, session: Session) -> Callable[[Tensor], Tensor]:
    """What a session would answer to a batch as it stands now, of a copy: it goes on, and the copy stays.

    Raises Unsupported for a system that adapts and cannot say so.
    """
    held = copy.deepcopy(session.net)
    if isinstance(held, Adapting):
        return held.standing
    if system.adapts:
        raise Unsupported("expected a system that says what it would answer without adapting (`standing`), got one "
                          "that does not: no adversary can differentiate it")  # fmt: skip
    return held


def _places(subjects: Stages, stream: list[Batch]) -> dict[str, Tensor]:
    """Where each picture (N,) stood: its place in the stream, its batch and stage, and the severity of the latter."""
    member = subjects.member
    assert member is not None
    position, batch = torch.zeros_like(member), torch.zeros_like(member)
    order = torch.cat([positions for positions, *_ in stream])
    position[order] = torch.arange(len(order))
    batch[order] = torch.arange(len(stream)).repeat_interleave(torch.tensor([len(b.positions) for b in stream]))
    severity = torch.tensor([v.severity or 0 for v in subjects.variants])[member]
    return {"position": position, "batch": batch, "stage": member, "severity": severity}


def _asked(threat: Threat) -> AdaptationThreat:
    if not isinstance(threat, AdaptationThreat):
        raise ValueError(f"expected a threat of the scenario adaptation, got {threat.name!r} without a stream")
    return threat


def subjects(judged: Split, data: Dataset, threat: Threat) -> Stages:
    """All pictures that a cell is about: the stream's, and the clean ones."""
    return stages(judged, data, _asked(threat))


scenario = Scenario(
    "adaptation", "A stream of corrupted pictures, asked batch by batch, of which an adversary may own a few.", play,
    columns=(
        Column(name="right", better="more", scores=(
            Scoring(name="accuracy", where="counts", compared=True),
            Scoring(name="clean_accuracy_after", where="clean"),
        )),
        Column(name="before", better="more", scores=(Scoring(name="clean_accuracy_before", where="clean"),)),
        Column(name="right_without", better="more", scores=(Scoring(name="accuracy_without", where="counts"),)),
        Column(name="counts"),
        Column(name="clean"),
        Column(name="malicious", scores=(Scoring(name="malicious_rate"),)),
        Column(name="uploaded", scores=(Scoring(name="upload_rate", where="counts"),)),
        Column(name="selected", scores=(Scoring(name="selected_rate", where="counts"),)),
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="rejected"),
        UNDEFINED,
        Column(name="position", dtype="int", unit="place in the stream"),
        Column(name="batch", dtype="int", unit="place in the stream"),
        Column(name="stage", dtype="int", unit="place in the stream"),
        Column(name="severity", dtype="int", unit="severity, 0 of clean pictures"),
    ),
    headline="accuracy", paper="Döbler et al., 2023, arXiv:2211.13081; Wu et al., 2023, arXiv:2301.12576",
    spec=AdaptationSpec, subjects=subjects, streams=True,
    sections="robustsuite.reports.sections.adapted:part",
)  # fmt: skip
