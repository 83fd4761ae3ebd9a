"""Shift: no adversary, other pictures: the same test set corrupted, or another set with the same classes."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.data import Reading, Split
from robustsuite.judge import Judge
from robustsuite.probes import Flag
from robustsuite.randomness import Rng
from robustsuite.scenarios.record import Record
from robustsuite.subset import restricted
from robustsuite.system import System

FEW = 20
"""Pictures below which answers at chance say nothing."""


def play(
    system: System, shifted: Split, rng: Rng, *, width: int, clean_ok: Tensor | None = None,
    reading: Reading | None = None,
) -> Record:  # fmt: skip
    """Ask the served model about every shifted picture.

    clean_ok: the verdicts (N,) on the pictures the shifted ones were made from, None where there is no pairing.
    reading: the head to cut to and the class to watch. Columns: robust (right on the shifted picture; a tie is not),
    rejected, prediction (a class of the data set), confidence (softmax within the head), watched (the watched class's
    probability) and clean_ok where there are such. Flag clean_at_chance: no better than guessing, on a set that is not
    hard by its making.
    """
    reading = reading or Reading()
    classes, head = torch.arange(system.space.classes), reading.head
    if head is not None:
        system, shifted, classes = *restricted(system, shifted, head), head
    watch = None if reading.watch is None else int((classes == reading.watch).nonzero()[0])
    # nobody chose among the draws of a random system: one is asked
    judge = Judge(system.net, stochastic=system.stochastic, width=width, repeats=1, ties=True, watch=watch)
    parts = [judge(x, y, rng[positions]) for positions, x, y in shifted.batches(width, system.device)]
    wrong, bad, prediction, confidence, watched = (
        torch.cat([getattr(part, name) for part in parts]).cpu()
        for name in ("wrong", "rejected", "prediction", "confidence", "watched")
    )
    columns = {"robust": ~wrong & ~bad, "rejected": bad, "prediction": classes[prediction], "confidence": confidence}
    if reading.watch is not None:
        columns["watched"] = watched
    if clean_ok is not None:
        columns["clean_ok"] = clean_ok
    flags = [] if reading.hard else _at_chance(columns["robust"], len(classes))
    return Record(columns, flags, len(shifted), 0, reading.note)


def _at_chance(right: Tensor, classes: int) -> list[Flag]:
    """As many right as a guesser has: folders mapped to the wrong classes, or pixels in another range."""
    from scipy.stats import binom

    k, n = int(right.sum()), len(right)
    if n < FEW or binom.sf(k - 1, n, 1 / classes) < 0.05:
        return []
    return [Flag("clean_at_chance", f"{k} of {n} right among {classes} classes; check the class mapping")]
