"""The served system asked again where nothing was ever asked of it: in a process that plans, trains and serves anew.

What a system answers must not hang on its past: an answer kept for whatever comes near it, a counter, a clock stand
outside of what can be compared. `python -m robustsuite.engine.afresh <file descriptor>` answers until the line is
closed, each question in a fork of its own that lives for it alone.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustsuite.engine.execute import Planned, ordered
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import cause
from robustsuite.integrity.apart import Line, NotReplayed
from robustsuite.integrity.wire import Garbled, received, sent
from robustsuite.maths.numerics import float32, threads
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import Context
from robustsuite.serve.judge import Answers, Judge
from robustsuite.serve.system import System


@dataclass(frozen=True)
class Recipe:
    """What another process plans the same cells from: a sweep as yaml has it, and where relative names are found."""

    sweep: dict[str, Any]
    device: str = "cpu"
    first: int | None = None
    place: str = ""
    path: tuple[str, ...] = ()

    def planned(self) -> list[Planned]:
        """The cells, in the order in which they are computed. Moves to the place; raises UsageError."""
        if self.place and Path(self.place).is_dir():
            os.chdir(self.place)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        return list(ordered(plan(sweep_of(self.sweep, "the sweep"), self.device, self.first)))


def answers(cell: Cell, system: System, rows: Tensor, x: Tensor, width: int) -> Answers:
    """What the judge reads of the system on these pictures (M, C, H, W), made of the cell's examples `rows` (M,)."""
    context = Context(replace(cell, subjects=cell.subjects.on(cell.split.at(rows))), system, width)
    served = context.served()
    judge = Judge(served.net, stochastic=served.stochastic, width=width, under=served.under)
    return judge(x.to(served.device), context.split.y.to(served.device), context.rng.fold("afresh"))


class Afresh(Line):
    """A process that serves the systems of a recipe's cells anew."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__("robustsuite.engine.afresh")
        self.recipe = recipe

    def answered(self, cell: Cell, rows: Tensor, x: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Which pictures (M,) the system, served anew, answers wrong, and which it holds.

        Raises NotReplayed where it cannot be served there, Strayed or Overdue where no answer comes.
        """
        with self.asked(f"the system of {cell.run_id}") as line:
            sent(line, "ask", rows.cpu(), x.cpu(), recipe=asdict(self.recipe), run_id=cell.run_id, width=width)
            frame = received(line)
            if frame.word == "failed":
                raise NotReplayed(str(frame.facts.get("said")))
            if [(t.dtype, t.shape) for t in frame.tensors] != 2 * [(torch.bool, rows.shape)]:
                raise Garbled("other answers than were asked for")
        return frame.tensors[0], frame.tensors[1]


@float32()
@threads()
def _answer(line: Connection, facts: dict[str, Any], rows: Tensor, x: Tensor) -> None:
    """One question: plan, serve, ask."""
    warnings.simplefilter("ignore")  # they were shown where the cell was played
    recipe = Recipe(**{**facts["recipe"], "path": tuple(facts["recipe"]["path"])})
    cell = next(cell for cell, _ in recipe.planned() if cell.run_id == facts["run_id"])
    found = answers(cell, cell.lifecycle.served(), rows, x, facts["width"])
    sent(line, "answered", found.wrong.cpu(), found.held.cpu())


def _forked(work: Callable[[], None]) -> bool:
    """Whether a fork did it; this process itself has never asked a network anything, nor started CUDA."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def main(descriptor: int) -> None:
    """Answer until the line is closed."""
    line = Connection(descriptor)

    def answer() -> None:
        try:
            _answer(line, frame.facts, *frame.tensors)
        except Exception as error:  # anybody's model
            sent(line, "failed", said=cause(error))

    while True:
        try:
            frame = received(line)
        except EOFError:
            return
        if not _forked(answer):
            sent(line, "failed", said="the process ended without an answer")


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(int(sys.argv[1]))
