"""What playing a cell, or a part of it, yields: columns an example, flags, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.integrity.checks import undefined
from robustsuite.integrity.probes import Flag
from robustsuite.maths.randomness import Rng
from robustsuite.records.pictures import Kept, both
from robustsuite.records.schema import Column, Scoring
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.system import System


class Clean(NamedTuple):
    """What a system answers before it is attacked: which pictures (N,) it gets right, and the class, -1 for none."""

    ok: Tensor
    prediction: Tensor


def unattacked(system: System, split: Split, rng: Rng, *, width: int) -> Clean:
    """What the served system answers before anybody touches the pictures; a tie is not right."""
    judge = Judge(system.net, stochastic=system.stochastic, width=width, under=system.under)
    parts = [judge(x, y, rng[positions]) for positions, x, y in split.batches(width, system.device)]
    return Clean(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("held", "prediction")))


class Record(NamedTuple):
    """Columns (N,) by name, flags, total forwards and backwards in images, and what a reader should know.

    declared: what the columns mean, where that is not what the scenario says. x_adv: the pictures (N, C, H, W) that an
    attack brought, of what is played in one go; never stored. kept: those of them that are (`kept.py`).
    """

    columns: dict[str, Tensor]
    flags: list[Flag]
    forwards: int
    backwards: int
    note: str = ""
    declared: tuple[Column, ...] | None = None
    x_adv: Tensor | None = None
    kept: Kept | None = None

    def pictures(self, rows: Tensor) -> Tensor:
        """What the attack brought (M, C, H, W) of the examples at `rows` (M,). Raises ValueError without any."""
        if self.x_adv is None:
            raise ValueError("expected the pictures of a record that has just been played, got none")
        return self.x_adv[rows.to(self.x_adv.device)]


UNDEFINED = Column(name="undefined", better="less", scores=(Scoring(name="undefined_rate", sparse=True),))
"""Where the judge met NaN or infinite logits that are no rejection; a record has it where there is any."""


def undefined_answers(columns: dict[str, Tensor]) -> list[Flag]:
    """The flag of answers that are no numbers."""
    found = columns.get("undefined")
    return [] if found is None else undefined(int(found.sum()), len(found))


def joined(parts: Sequence[Record]) -> Record:
    """One record of the parts in their order; what their scenario concludes from all columns is still to come.

    A column that a part lacks, since its attack had nothing to do there, is blank in it.
    """
    if len(parts) == 1:
        return parts[0]
    kinds = {name: column.dtype for part in reversed(parts) for name, column in part.columns.items()}
    names = max((part.columns for part in parts), key=len)  # the names that know their series, in the attack's order
    sizes = [len(next(iter(part.columns.values()))) for part in parts]
    columns = {
        name: torch.cat([part.columns.get(name, blank(n, kinds[name])) for part, n in zip(parts, sizes, strict=True)])
        for name in [*names, *(name for name in kinds if name not in names)]
    }
    return Record(columns, [], sum(part.forwards for part in parts), sum(part.backwards for part in parts),
                  kept=both([part.kept for part in parts if part.kept is not None]))  # fmt: skip


def blank(n: int, dtype: torch.dtype) -> Tensor:
    """What stands (N,) for examples that an attack was not played on: NaN among floats, else 0 or False."""
    return torch.full((n,), torch.nan if dtype.is_floating_point else 0, dtype=dtype)
