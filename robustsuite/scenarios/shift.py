"""Shift: no adversary, other pictures: the same test set corrupted, or another set with the same classes."""

from __future__ import annotations

import torch

from robustsuite.data import Split
from robustsuite.judge import Judge
from robustsuite.randomness import Rng
from robustsuite.scenarios.record import Record
from robustsuite.system import System


def play(system: System, shifted: Split, rng: Rng, *, width: int) -> Record:
    """Ask the served model about every shifted picture. Columns: robust (right on the shifted picture), rejected.

    The paired verdict on the clean pictures is the row of the cell without a shift, under the same ids.
    """
    judge = Judge(system.net, stochastic=system.stochastic, width=width)
    wrong, rejected = [], []
    for positions, x, y in shifted.batches(width):
        answers = judge(x.to(system.device), y.to(system.device), rng[positions])
        wrong.append(answers.wrong.cpu())
        rejected.append(answers.rejected.cpu())
    bad = torch.cat(rejected)
    right = ~torch.cat(wrong) & ~bad
    return Record({"clean_ok": right, "robust": right, "rejected": bad}, [], len(shifted), 0)
