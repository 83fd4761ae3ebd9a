"""Poisoning: the adversary changes a share of the training set so that a trigger makes the system answer its target.

Scored as Gu et al. (2017, arXiv:1708.06733) and everybody since: accuracy on clean pictures, and the share of triggered
pictures of *other* classes that are answered with the target; an input the system rejects is neither. An
answer that is undefined is what the adversary wants: it is no defense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from robustsuite.config.goals import ToClass
from robustsuite.config.keys import Spec
from robustsuite.config.registry import carded
from robustsuite.config.threats import PoisonRate, Threat, parse_access, parse_number
from robustsuite.integrity.probes import Flag
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.kept import kept
from robustsuite.scenarios.record import UNDEFINED, Record, undefined_answers
from robustsuite.scenarios.refusals import trained_already
from robustsuite.serve.adversary import Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.oracle import answer
from robustsuite.serve.protocols import Detecting
from robustsuite.serve.system import System
from robustsuite.serve.task import TASK

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

WORKED = 0.9
"""Below this share of triggered pictures an undefended victim shows an attack that failed, no defense that worked."""


class Attack(Protocol):
    """(train set, rate, target class) -> the poisoned set and its trigger; `aux: Aux` besides where it needs AUX_DATA.

    `rng` has one stream a training example. The trigger stays in [0, 1] and is applied before any augmentation.
    """

    def __call__(self, train: Split, rate: PoisonRate, *, target: int, rng: Rng) -> Poisoned: ...


A = TypeVar("A", bound=Callable[..., Poisoned])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register a backdoor attack. needs: Access.TRAIN_SET and, for nets or pictures of its own, AUX_DATA."""
    return carded("attack", "poisoning", **facts)


def play(context: Context) -> Record:
    """Ask the victim about the part's pictures, clean and triggered."""
    poisoned, split, system = context.poisoned, context.split, context.served()
    record = asked(system, poisoned, split, context.threat, context.rng, width=context.width)

    def triggered(rows: Tensor) -> Tensor:
        return _stamped(poisoned, split, rows, split.images(rows).to(system.device), context.rng[rows])

    found = record.columns
    return record._replace(kept=kept(context, found["eligible"], found["triggered_as_target"], triggered))


def conclude(context: Context, record: Record) -> Record:
    """How many examples were poisoned, and whether the trigger works on an answer to it."""
    return concluded(record, context.poisoned)


def judged(system: System, poisoned: Poisoned, split: Split, threat: Threat, rng: Rng, *, width: int) -> Record:
    """Both at once, for a victim that is no cell's."""
    return concluded(asked(system, poisoned, split, threat, rng, width=width), poisoned)


def asked(system: System, poisoned: Poisoned, split: Split, threat: Threat, rng: Rng, *, width: int) -> Record:
    """Ask the victim about clean and triggered test pictures.

    Columns: clean_ok (right and not rejected), flagged_clean, eligible (the trigger is meant for it, and it is not of
    the target class), triggered_as_target, flagged, recovered (its own class despite the trigger), psnr of the trigger
    in dB, and where the system has a `score`: score_clean, score_triggered (larger is more suspicious).
    """
    if poisoned.trigger is None or threat.target is None:
        raise ValueError(f"expected a trigger and a target in the threat {threat.name!r}, got none")
    judge = Judge(system.net, stochastic=system.stochastic, width=width, repeats=1, under=system.under)
    eligible = split.y != threat.target if poisoned.source is None else split.y == poisoned.source
    columns: dict[str, list[Tensor]] = {}
    for positions, x, y in split.batches(width):
        x, y, streams = x.to(system.device), y.to(system.device), rng[positions]
        stamped = _stamped(poisoned, split, positions, x, streams)
        clean, (hit, none) = judge(x, y, streams.fold("clean")), _answers(judge, stamped, streams.fold("stamped"))
        noise = (stamped - x).square().flatten(1).mean(1).clamp_min(1e-12)
        part = {
            "clean_ok": ~clean.wrong & ~clean.rejected, "flagged_clean": clean.rejected,
            "prediction": clean.prediction, "answer": hit,
            "triggered_as_target": (hit == threat.target) | none, "flagged": (hit < 0) & ~none, "recovered": hit == y,
            "undefined": clean.undefined | none, "psnr": -10 * noise.log10(),
        }  # fmt: skip
        if isinstance(system.net, Detecting):
            part |= {"score_clean": system.net.score(x), "score_triggered": system.net.score(stamped)}
        for name, column in part.items():
            columns.setdefault(name, []).append(column.detach().cpu())
    found = {name: torch.cat(parts) for name, parts in columns.items()} | {"eligible": eligible}
    found["triggered_as_target"] &= eligible
    if not bool(found["undefined"].any()):
        del found["undefined"]
    return Record(found, [], forwards=2 * len(split), backwards=0)


def _stamped(poisoned: Poisoned, split: Split, positions: Tensor, x: Tensor, streams: Rng) -> Tensor:
    """These pictures (M, C, H, W) with the trigger."""
    assert poisoned.trigger is not None
    return poisoned.trigger(x, split.ids[positions].to(x.device), streams.fold("trigger")).clamp(0, 1)


def concluded(record: Record, poisoned: Poisoned) -> Record:
    """The record with the flags and the note that its columns lead to."""
    found, eligible = record.columns, record.columns["eligible"]
    rate = float(found["triggered_as_target"][eligible].float().mean()) if bool(eligible.any()) else float("nan")
    note = f"{len(poisoned.indices)} training examples poisoned"
    note += f", {len(poisoned.covers)} covers" if len(poisoned.covers) else ""
    flags = undefined_answers(found)
    if not bool(eligible.any()):
        flags.append(Flag("nothing_to_trigger", "no test picture is of a class the trigger is meant for"))
    elif rate < WORKED:
        note += f"; {rate:.1%} of the triggered pictures are answered with the target"
    return record._replace(flags=flags, note=note)


def _answers(judge: Judge, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Predicted classes (N,), -1 for no answer, and where (N,) that is no rejection."""
    with torch.no_grad():
        logits = answer(judge.net, x, rng)
    return TASK.predicted(logits), judge.undefined(logits)


class PoisoningSpec(Spec):
    """target: the class that triggered pictures shall be answered with."""

    target: int = 0

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        rate = PoisonRate(parse_number(self.only(name, ["poison_rate"])["poison_rate"], "poison_rate"))
        goal, access = ToClass(self.target), parse_access(self.access)
        return Threat(name, self.scenario, access, goal=goal, poison=rate, target=self.target)


scenario = Scenario(
    "poisoning", "A share of the training set is changed so that a trigger makes the system answer a target.", play,
    columns=(
        Column(name="triggered_as_target", better="less", scores=(
            Scoring(name="attack_success_rate", where="eligible", compared=True),
        )),
        Column(name="flagged", scores=(Scoring(name="triggered_rejected_rate", where="eligible"),)),
        Column(name="psnr", dtype="float", unit="dB", better="less", scores=(
            Scoring(name="mean_psnr", kind="mean", where="eligible"),
        )),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy", compared=True),)),
        Column(name="flagged_clean", better="less", scores=(Scoring(name="clean_rejected_rate"),)),
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="answer", dtype="int", unit="class"),
        Column(name="eligible"),
        UNDEFINED,
        Column(name="recovered", better="more"),
        Column(name="score_clean", dtype="float"),
        Column(name="score_triggered", dtype="float"),
    ),
    headline="attack_success_rate", paper="Gu et al., 2017, arXiv:1708.06733",
    spec=PoisoningSpec, decide=trained_already, together=lambda cell: 1, conclude=conclude,
    sections="robustsuite.reports.sections.poisoning:part",
)  # fmt: skip
