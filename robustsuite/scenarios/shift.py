"""Shift: no adversary, other pictures: the same test set corrupted, or another set with the same classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.errors import Unsupported
from robustsuite.integrity.class_order import at_chance
from robustsuite.integrity.probes import Flag
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring, Stream
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.record import UNDEFINED, Record, undefined_answers
from robustsuite.serve.data import Reading, Split
from robustsuite.serve.judge import Answers, Judge
from robustsuite.serve.subset import restricted
from robustsuite.serve.system import NOTE, System

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context

FEW = 20
"""Pictures below which answers at chance say nothing."""


def play(context: Context) -> Record:
    """Ask the served model about every shifted picture of the part."""
    system, split, stream = context.served(), context.split, context.subjects.stream
    if stream is not None:
        return streamed(context, stream)
    clean = None if context.control else context.unattacked()
    return asked(system, split, context.rng, width=context.width, clean_ok=clean and clean.ok, reading=context.reading)


def conclude(context: Context, record: Record) -> Record:
    """Whether the answers are a guesser's, and how the pictures were put to the model."""
    record = concluded(record, context.served().space.classes, context.reading)
    if (stream := context.subjects.stream) is not None:
        note = "; ".join(filter(None, (record.note, NOTE.format(order=stream.order, batch=stream.batch))))
        record = record._replace(note=note)
    return record._replace(declared=CONTROL) if context.control else record


def together(cell: Cell) -> int:
    """One by one; a system that adapts sees its whole stream."""
    return 1 if cell.subjects.stream is None else len(cell.split)


def streamed(context: Context, stream: Stream) -> Record:
    """Let a system that adapts answer the pictures in their order, and read what it answered."""
    session, split, reading = context.session(), context.split, context.reading
    if reading.head is not None:
        raise Unsupported("expected a whole head of a system that adapts, got one cut to some classes")
    judge = Judge(session.net, stochastic=False, width=stream.batch, watch=reading.watch, under=session.under)
    parts = []
    for positions, x, y in split.batches(stream.batch, context.served().device):
        parts.append(judge.read(session.answer(x, context.rng[positions]), y))
    return _recorded(parts, split.texture, reading, None)


def judged(
    system: System, shifted: Split, rng: Rng, *, width: int, clean_ok: Tensor | None = None,
    reading: Reading | None = None,
) -> Record:  # fmt: skip
    """Both at once, for a system that is no cell's."""
    reading = reading or Reading()
    record = asked(system, shifted, rng, width=width, clean_ok=clean_ok, reading=reading)
    return concluded(record, system.space.classes, reading)


def asked(
    system: System, shifted: Split, rng: Rng, *, width: int, clean_ok: Tensor | None, reading: Reading
) -> Record:
    """Ask the served model about every shifted picture.

    clean_ok: the verdicts (N,) on the pictures the shifted ones were made from, None where there is no pairing.
    reading: the head to cut to and the class to watch. Columns: robust (right on the shifted picture; a tie is not),
    rejected, prediction (a class of the data set), confidence (softmax within the head), watched (the watched class's
    probability), clean_ok and undefined where there are such; of pictures whose texture is another class's than their
    shape by_shape, by_texture and by_either, what the answer goes by.
    """
    classes, head = torch.arange(system.space.classes), reading.head
    if head is not None:
        system, shifted, classes = *restricted(system, shifted, head), head
    watch = None if reading.watch is None else int((classes == reading.watch).nonzero()[0])
    # nobody chose among the draws of a random system: one is asked
    judge = Judge(system.net, stochastic=system.stochastic, width=width, repeats=1, watch=watch,
                  under=system.under)  # fmt: skip
    parts = [judge(x, y, rng[positions]) for positions, x, y in shifted.batches(width, system.device)]
    return _recorded(parts, shifted.texture, reading, clean_ok)


def _recorded(
    parts: list[Answers], texture: Tensor | None, reading: Reading, clean_ok: Tensor | None
) -> Record:  # fmt: skip
    held, bad, prediction, confidence, watched, none = (
        torch.cat([getattr(part, name) for part in parts]).cpu()
        for name in ("held", "rejected", "prediction", "confidence", "watched", "undefined")
    )
    columns = {"robust": held, "rejected": bad, "prediction": reading.named(prediction),
               "confidence": confidence}  # fmt: skip
    if bool(none.any()):
        columns["undefined"] = none
    if reading.watch is not None:
        columns["watched"] = watched
    if texture is not None:
        by_texture = prediction == texture
        columns |= {"by_shape": held, "by_texture": by_texture, "by_either": held | by_texture}
    if clean_ok is not None:
        columns["clean_ok"] = clean_ok
    return Record(columns, [], len(held), 0)


def concluded(record: Record, classes: int, reading: Reading) -> Record:
    """The record with its note; flag clean_at_chance: no better than guessing, on a set not hard by its making.

    classes: of the whole head.
    """
    classes = classes if reading.head is None else len(reading.head)
    flags = [] if reading.hard else _at_chance(record.columns["robust"], classes)
    return record._replace(flags=flags + undefined_answers(record.columns), note=reading.note)


def _at_chance(right: Tensor, classes: int) -> list[Flag]:
    """As many right as a guesser has: folders mapped to the wrong classes, or pixels in another range."""
    found = at_chance(int(right.sum()), len(right), classes, "the class mapping") if len(right) >= FEW else None
    return [found] if found else []


CONTROL = (
    Column(name="robust", better="more", scores=(Scoring(name="clean_accuracy", compared=True),)),
    Column(name="rejected"),
    UNDEFINED,
)
"""What the columns of the clean pictures' own cell mean."""

scenario = Scenario(
    "shift", "No adversary, other pictures: the test set corrupted, or another set with the same classes.", play,
    columns=(
        Column(name="robust", better="more", scores=(Scoring(name="accuracy", compared=True),)),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy"),)),
        Column(name="rejected"),
        UNDEFINED,
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="confidence", dtype="float", unit="probability", scores=(
            Scoring(name="rms_calibration_error", kind="rms_calibration", by="robust"),
            Scoring(name="expected_calibration_error", kind="ece", by="robust"),
        )),
        Column(name="watched", dtype="float", unit="probability"),
        Column(name="by_shape", scores=(Scoring(name="shape_bias", where="by_either"),)),
        Column(name="by_texture"),
        Column(name="by_either", scores=(Scoring(name="cue_rate"),)),
    ),
    headline="accuracy", paper="Hendrycks and Dietterich, 2019, arXiv:1903.12261",
    sections="robustsuite.reports.sections.shifts:part", streams=True, together=together, conclude=conclude,
)  # fmt: skip
