"""Shift: no adversary, other pictures: the same test set corrupted, or another set with the same classes."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.data import Split
from robustsuite.judge import Judge
from robustsuite.randomness import Rng
from robustsuite.scenarios.record import Record
from robustsuite.system import System


def play(system: System, shifted: Split, rng: Rng, *, width: int, clean_ok: Tensor | None = None) -> Record:
    """Ask the served model about every shifted picture.

    clean_ok: the verdicts (N,) on the pictures the shifted ones were made from, None where there is no pairing.
    Columns: robust (right on the shifted picture), rejected, and clean_ok where there is one.
    """
    judge = Judge(system.net, stochastic=system.stochastic, width=width, repeats=1)  # nobody chose among the draws
    wrong, rejected = [], []
    for positions, x, y in shifted.batches(width):
        answers = judge(x.to(system.device), y.to(system.device), rng[positions])
        wrong.append(answers.wrong.cpu())
        rejected.append(answers.rejected.cpu())
    bad = torch.cat(rejected)
    right = ~torch.cat(wrong) & ~bad
    columns = {"robust": right, "rejected": bad}
    if clean_ok is not None:
        columns["clean_ok"] = clean_ok
    return Record(columns, [], len(shifted), 0)
