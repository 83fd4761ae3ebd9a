"""One worker's share of a run: it plans again from what was asked and computes what nobody else is at.

A job is small and holds words and numbers alone, so that any engine can hand it to any machine that sees the folder;
nothing comes back through the engine, the store is the truth.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from robustsuite.engine.afresh import Recipe
from robustsuite.engine.audit import audit
from robustsuite.engine.execute import Planned, Progress, execute
from robustsuite.engine.parts import divided, work_of
from robustsuite.engine.store import Store
from robustsuite.errors import BadValue, UsageError, quoted
from robustsuite.maths.numerics import threads


@dataclass(frozen=True)
class Shard:
    """The i-th of n shares of a plan, from 1; n machines that know nothing of one another agree on them."""

    i: int
    n: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """From '2/3'; raises BadValue."""
        i, _, n = text.partition("/")
        short = len(text) < 16 and i.isdecimal() and n.isdecimal()
        if not (short and 1 <= int(i) <= int(n)):
            raise BadValue(f"expected a share such as 2/3, got {quoted(text)}; write 1/3, 2/3, 3/3 on three machines")
        return cls(int(i), int(n))

    def cells(self, cells: list[Planned]) -> list[Planned]:
        """Those whose middle lies in this share of all work, in the order of the plan, so that trainings stay together.

        The work is what cells say they cost, never what was measured: that would differ between machines.
        """
        work = [1 + work_of(cell) if decision.status == "run" else 0 for cell, decision in cells]
        total, ends = max(1, sum(work)), accumulate(work)
        share = [min(self.n - 1, (2 * end - own) * self.n // (2 * total)) for own, end in zip(work, ends, strict=True)]
        return [pair for pair, place in zip(cells, share, strict=True) if place == self.i - 1]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know. run: the same for all workers of a command."""

    recipe: Recipe
    folder: str
    run: str
    width: int | None = None
    audited: bool = False
    shard: Shard | None = None


@threads()
def work(job: Job) -> None:
    """Compute what is missing of the job's run, beside its other workers; raises UsageError for the user's input."""
    planned = job.recipe.planned()
    cells = job.shard.cells(planned) if job.shard else planned
    store = Store(Path(job.folder), job.run)
    execute(cells, store, width=job.width)
    if job.audited:
        audit(cells, store, width=job.width, recipe=job.recipe)


def told(job: Job) -> str | None:
    """The same; the user's own input comes back as a sentence, since not every exception travels."""
    warnings.simplefilter("ignore")  # what bears on a number becomes a flag
    try:
        work(job)
    except UsageError as error:
        return str(error)
    return None


def follower(cells: Iterable[Planned], store: Store, progress: Progress) -> Callable[[], int]:
    """A look at the folder: it tells the display what ended since the last one, and returns how many cells are open.

    Of cells in several parts also how many are there; which of the others are being played, leases alone would say.
    """
    played: dict[str, int] = {}
    waiting = {cell.run_id: cell for cell, _ in cells if not store.finished(cell.run_id)}
    failed = {run_id for run_id in waiting if (store.cells / run_id).exists()}  # of an earlier run

    def look() -> int:
        there = {entry.name for entry in os.scandir(store.cells)}
        for run_id in [run_id for run_id in waiting if run_id in there]:
            if (run_id not in failed or store.failed(run_id)) and (record := store.ended(run_id)) is not None:
                progress.ends(waiting.pop(run_id), record)
        for run_id in [run_id for run_id in waiting if run_id in store.packed and store.finished(run_id)]:
            waiting.pop(run_id)  # packed by another command
        for run_id, there_now in store.halfway().items():
            if run_id in waiting and played.get(run_id) != there_now:
                played[run_id], parts = there_now, len(divided(waiting[run_id]))
                progress.starts(waiting[run_id], min(there_now + 1, parts), parts)
        return len(waiting)

    return look
