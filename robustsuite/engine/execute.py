"""Compute what is missing of the planned cells, beside whoever else does: what shares a training side by side.

Every worker runs this over the whole plan. Cells of one system are a group: a worker is at home in a group that nobody
else is at home in, and when there is none left it helps where most is to be done. A unit is a part of a cell; a lease
keeps two workers from the same one. Each is stored as it ends, so that nothing but the units in hand is ever lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from robustsuite.config.threats import Access
from robustsuite.engine import provenance
from robustsuite.engine.parts import Played, divided
from robustsuite.engine.plan import Decision
from robustsuite.engine.runner import Done, Runner, recorded
from robustsuite.engine.store import Store
from robustsuite.errors import OF_THE_RUN, BadOutput
from robustsuite.maths.numerics import float32, threads
from robustsuite.records.leases import PAUSE, Lease
from robustsuite.records.schema import CellRecord, Made
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import fitting
from robustsuite.serve.kept import wanted
from robustsuite.serve.models import services
from robustsuite.serve.protocols import Billed

Planned = tuple[Cell, Decision]
"""A cell with what the plan says of it."""

DEATHS = 3
"""Processes of one run that may die over a unit before its cell has failed."""


@dataclass
class Progress:
    """What a display is told: the cell of which a part starts, with that part's place among how many, from 1; and each
    cell that ended with its record.
    """

    starts: Callable[[Cell, int, int], None] = field(default=lambda cell, part, parts: None)
    ends: Callable[[Cell, CellRecord], None] = field(default=lambda cell, record: None)
    tell: Callable[[str], None] = field(default=lambda text: None)


@float32()
@threads()
def execute(cells: list[Planned], store: Store, progress: Progress | None = None, *, width: int | None = None) -> int:
    """Compute every cell the store does not hold yet, and wait for those that others compute. Returns how many it did.

    A cell that raises becomes a `failed` row with its sentence and the sweep goes on; only what is no cell's own (a
    full disk, a service that must not be asked further) ends it, and what is stored stays.
    """
    with asking(cells, store):
        return _execute(cells, store, progress or Progress(), width)


def billed(cells: Iterable[Planned]) -> list[Billed]:
    """The services that these cells' models ask, each once."""
    nets = {id(cell.lifecycle.model): cell.lifecycle.model.net for cell, _ in cells}
    return list({id(one): one for net in nets.values() for one in services(net)}.values())


def overdrawn(cells: Iterable[Planned]) -> Iterator[str]:
    """A sentence for each service that may be asked more, by the plan, than it allows in total."""
    planned = [cell for cell, decision in cells if decision.status == "run" and not _at_home(cell)]
    for service in billed((cell, Decision()) for cell in planned):
        asked = sum(cell.cost().forwards for cell in planned if service in services(cell.lifecycle.model.net))
        allowed = service.allowed()
        if allowed is not None and asked > allowed:
            yield (
                f"the plan asks at most {asked:,.0f} pictures of a service that allows {allowed:,} (queries_total): "
                f"the run may end before it is done; judge on fewer pictures, or raise it"
            )


def _at_home(cell: Cell) -> bool:
    """Whether the attack asks nets of the adversary's own alone."""
    return cell.attack is not None and cell.attack.needs == Access.AUX_DATA


@contextmanager
def asking(cells: list[Planned], store: Store) -> Iterator[None]:
    """While it lasts, what services answer is kept with the run, and nobody else asks them for it: one bill, one rate.

    Raises BadOutput where another process is at it.
    """
    asked = billed(cells)
    if not asked:
        yield
        return
    with store.lease("services") as lease:
        if lease is None:
            raise BadOutput("expected nobody else to ask a service for this run, got another process; wait for it")
        for service in asked:
            service.begin(store.folder / "ledger")
        try:
            store.billed([service.bill() for service in asked])  # of the runs before, should this one be killed
            yield
        finally:
            store.billed([service.bill() for service in asked])


def _execute(cells: list[Planned], store: Store, progress: Progress, width: int | None) -> int:
    before = {cell.run_id for cell, _ in cells if store.finished(cell.run_id)}  # of which no display is told again
    worker = _Worker(store, progress, width, ended=before)
    groups = [list(members) for _, members in groupby(cells, key=lambda pair: id(pair[0].lifecycle))]
    names = {id(members): f"home-{members[0][0].run_id}" for members in groups}
    while groups := worker.unfinished(groups):
        units = worker.units
        for group in _first_free(groups):
            with store.lease(names[id(group)]) as home:
                if home is not None:
                    worker.serve(group)
        for group in sorted(worker.unfinished(groups), key=len, reverse=True):
            if not group[0][0].lifecycle.trainings():  # whoever is at home there is training
                worker.serve(group)
        if worker.units == units:
            time.sleep(PAUSE)
    return worker.computed


def _first_free(groups: list[list[Planned]]) -> Iterator[list[Planned]]:
    """Each group once, first those that wait for no training which another process is at."""
    later = []
    for group in groups:
        if any(map(wanted, group[0][0].lifecycle.trainings())):
            later.append(group)
        else:
            yield group
    yield from later


@dataclass
class _Worker:
    """One process at work on the store. units: what it has computed, parts and cells; width: images in flight."""

    store: Store
    progress: Progress
    width: int | None
    about: Made = field(default_factory=provenance.collect)
    ended: set[str] = field(default_factory=set)
    units: int = 0
    computed: int = 0

    def unfinished(self, groups: Iterable[list[Planned]]) -> list[list[Planned]]:
        """The groups that have a cell to be computed."""
        for group in groups:
            group[:] = [pair for pair in group if not self._done(pair[0])]
        return [group for group in groups if group]

    def serve(self, group: list[Planned]) -> None:
        """Compute what is free of these cells of one system."""
        runner: Runner | None = None
        for cell, decision in list(group):
            if self._done(cell):
                continue
            runner = runner or Runner(self.width or fitting(cell), self.progress.tell, self.store.keep)
            before = runner.width
            if decision.status == "run":
                self._play(cell, decision, runner)
            else:
                self._end(cell, decision, _nothing)
            self.width = runner.width if runner.width < before else self.width

    def _play(self, cell: Cell, decision: Decision, runner: Runner) -> None:
        """The cell's free parts, and the cell from its parts where the last one is there; one part needs no file."""
        rows, parts, name = divided(cell), self.store.parts(cell.run_id), cell.run_id
        for place, part in enumerate(rows if len(rows) > 1 else (), 1):
            if parts.there(part):
                continue
            with self.store.lease(f"{name}-{part.start}") as lease:
                if lease is None or parts.there(part) or self._done(cell):
                    continue
                self.progress.starts(cell, place, len(rows))
                try:
                    parts.write(part, _part(runner, cell, part, lease))
                except OF_THE_RUN:
                    raise
                except (Exception, SystemExit) as error:  # the cell has failed; its other parts stay for the next run
                    self._end(cell, decision, _raiser(error))
                    break
                self.units += 1
        with self.store.lease(name) as lease:
            if lease is None or self._done(cell):
                return
            if len(rows) == 1:
                self.progress.starts(cell, 1, 1)
                self._end(cell, decision, lambda: runner.joined(cell, [_part(runner, cell, rows[0], lease)]))
            elif all(map(parts.there, rows)):
                found = [part for part in map(parts.read, rows) if part is not None]
                if len(found) == len(rows):  # else one was damaged, and is played again
                    self._end(cell, decision, lambda: runner.joined(cell, found))

    def _end(self, cell: Cell, decision: Decision, made: Callable[[], Done]) -> None:
        """Store the cell as `made` says it ended."""
        record, examples, pictures = recorded(cell, decision, self.about, made)
        self.store.write(record, examples, pictures)
        self._ends(cell, record)
        self.units += 1
        self.computed += 1

    def _done(self, cell: Cell) -> bool:
        """Whether the cell needs no more work in this run, whoever did it."""
        if cell.run_id not in self.ended:
            if (record := self.store.ended(cell.run_id)) is not None:
                self._ends(cell, record)
            elif self.store.finished(cell.run_id):  # and packed meanwhile
                self.ended.add(cell.run_id)
        return cell.run_id in self.ended

    def _ends(self, cell: Cell, record: CellRecord) -> None:
        self.ended.add(cell.run_id)
        self.progress.ends(cell, record)


def _part(runner: Runner, cell: Cell, rows: range, lease: Lease) -> Played:
    """A part; raises RuntimeError where it has killed one process after the other."""
    if lease.died >= DEATHS:
        raise RuntimeError(f"expected the process that plays it to live, got {lease.died} that died; out of memory?")
    return runner.part(cell, rows)


def _nothing() -> Done:
    return {}, None, ()


def _raiser(error: BaseException) -> Callable[[], Done]:
    def made() -> Done:
        raise error

    return made


def ordered(cells: list[Planned]) -> Iterator[Planned]:
    """Each cell once, in the order of the plan."""
    seen: set[str] = set()
    for cell, decision in cells:
        if cell.run_id not in seen:
            seen.add(cell.run_id)
            yield cell, decision
