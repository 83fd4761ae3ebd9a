"""What a person sees while a sweep runs and when it ends: a bar with the remaining time, then one table a threat."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from robustsuite.app.described import label
from robustsuite.engine.estimate import estimate
from robustsuite.engine.execute import Planned, Progress
from robustsuite.engine.store import Store
from robustsuite.records.schema import CellRecord
from robustsuite.scenarios.cell import Cell

LOOK = 2.0
"""Seconds between two looks for what has been trained."""

Kind = tuple[str, ...]
Kinds = tuple[Kind, ...]
"""From the nearest to all."""

BAR, SPACES = 14, 4
"""Columns of the bar on a terminal, and those between the parts of its line."""

PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is no terminal."""


class Clock:
    """Remaining time: what is open at the price that cells of its kind turned out to have, trainings at their own.

    A kind is an attack (or shift set) behind the same serve-stage defenses; one that has not been seen yet goes by its
    attack alone, then as kinds usually do. work: estimated seconds by run_id; workers: how many compute, at the least.
    """

    def __init__(self, cells: list[Planned], work: dict[str, float], workers: int = 1) -> None:
        self.started, self.workers, self.took, self.usual = time.monotonic(), workers, 0.0, 1.0
        self.cells = {cell.run_id: (work[cell.run_id], _kinds(cell)) for cell, _ in cells if cell.run_id in work}
        self.open: Counter[Kinds] = Counter()
        for price, kinds in self.cells.values():
            self.open[kinds] += price  # type: ignore[assignment]
        self.expected: Counter[Kind] = Counter()
        self.spent: Counter[Kind] = Counter()
        self.lives = {id(cell.lifecycle): cell.lifecycle for cell, decision in cells if decision.status == "run"}
        self.trainings = self.missing = self._missing()
        self.looked = self.started

    def finished(self, record: CellRecord) -> None:
        """A cell has ended; what was refused says nothing of its kind."""
        price, kinds = self.cells.get(record.run_id, (0.0, ()))
        self.open[kinds] -= price  # type: ignore[assignment]
        if record.status != "done":
            return
        seconds = record.cost.seconds
        self.took += seconds
        for kind in kinds:
            self.expected[kind] += price  # type: ignore[assignment]
            self.spent[kind] += seconds  # type: ignore[assignment]

    def left(self) -> str:
        """'about 2:05 left', empty before there is a pace to go by."""
        elapsed = time.monotonic() - self.started
        if time.monotonic() - self.looked > LOOK:
            self.looked, self.missing = time.monotonic(), self._missing()
        done = self.trainings - self.missing
        if not self.took or (self.trainings and not done):
            return ""
        self.usual = median([self.spent[kind] / price for kind, price in self.expected.items() if price > 0] or [1.0])
        workers = max(self.workers, self.took / elapsed)
        each = max(0.0, workers * elapsed - self.took) / max(1, done)
        ahead = sum(price * self._ratio(kinds) for kinds, price in self.open.items())
        seconds = (ahead + each * self.missing) / workers
        return f"about {int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def _ratio(self, kinds: Kinds) -> float:
        """Seconds that cells of the nearest kind that was seen took, for one that was expected."""
        for kind in kinds:
            if self.expected[kind] > 0:
                return self.spent[kind] / self.expected[kind]
        return self.usual

    def _missing(self) -> int:
        return len({key for life in self.lives.values() for key in life.trainings()})


def _kinds(cell: Cell) -> Kinds:
    """The kinds that a cell is of."""
    what = cell.attack.name if cell.attack else str(cell.shift)
    return (what, "+".join(map(str, cell.lifecycle.at("serve")))), (what,)


@contextmanager
def progress(cells: list[Planned], store: Store, workers: int, *, screen: Console) -> Iterator[Progress]:
    """A live bar on a terminal, a line every few seconds elsewhere."""
    missing = [(cell, decision) for cell, decision in cells if not store.finished(cell.run_id)]
    clock = Clock(missing, estimate(missing) if missing else {}, workers)
    if screen.is_terminal:
        text = (TextColumn("{task.fields[left]}"), TextColumn("{task.description}"))
        columns = (BarColumn(BAR), MofNCompleteColumn(), *text)
        with Bar(*columns, console=screen, transient=True) as bar:
            task = bar.add_task("", total=len(cells), completed=len(cells) - len(missing), left="")

            def ends(cell: Cell, record: CellRecord) -> None:
                clock.finished(record)
                bar.update(task, advance=1, left=clock.left())

            def room() -> int:
                return max(8, screen.width - BAR - len(f"{len(cells)}/{len(cells)}") - len(clock.left()) - SPACES)

            def starts(cell: Cell, part: int, parts: int) -> None:
                place = f", part {part}/{parts}" if parts > 1 else ""
                bar.update(task, description=escape(shortened(label(cell), room() - len(place)) + place))

            yield Progress(starts, ends, lambda text: bar.update(task, description=escape(text[: room()])))
        return
    yield _plain(len(cells), len(cells) - len(missing), clock, screen)


def shortened(whole: str, width: int) -> str:
    """A cell's label in so many columns: the attack and the defense with their parameters, or without, or cut inside.

    Both halves are cut before either is lost: a line that ends ahead of the defense looks the same for each of them.
    """
    if len(whole) <= width:
        return whole
    what, on, defense = whole.partition(" on ")
    bare = [re.sub(r"\([^()]*\)", "", half) for half in (what, defense)]
    left = max(2, width - len(on))
    first = min(len(bare[0]), max(left - len(bare[1]), left // 2)) if on else left
    return _cut(bare[0], first) + on + (_cut(bare[1], left - first) if on else "")


def _cut(text: str, width: int) -> str:
    """The text without its middle where it is longer."""
    if len(text) <= width:
        return text
    head = max(0, width // 2)
    return f"{text[:head]}…{text[len(text) - max(0, width - head - 1) :]}"


def _plain(total: int, done: int, clock: Clock, screen: Console) -> Progress:
    count, last = done, 0.0

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > PLAIN_EVERY or count == total:
            last = time.monotonic()
            screen.print(f"{count}/{total} {text} {clock.left()}", markup=False, soft_wrap=True)

    def starts(cell: Cell, part: int, parts: int) -> None:
        if parts > 1:
            say(f"{label(cell)}, part {part}/{parts}")

    def ends(cell: Cell, record: CellRecord) -> None:
        nonlocal count
        count += 1
        clock.finished(record)
        say(f"{label(cell)} {record.status}")

    return Progress(starts, ends, lambda text: screen.print(text, markup=False))


def summary(folder: Path, screen: Console) -> int:
    """Print one table a threat: attacks down, defenses across, each rate with its interval; then what it comes to, in
    sentences. Returns failed cells.
    """
    from robustsuite.reports.publish.overview import overview

    tables, failed = overview([folder])
    for title, header, rows in tables:
        screen.print(f"[bold]{escape(title)}[/bold]")
        table = Table(box=None, pad_edge=False, show_header=any(header))
        for i, name in enumerate(header):
            table.add_column(escape(name), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(entry.text) for entry in row))
        if rows:
            screen.print(table)
        screen.print()
    for sentence in failed:
        screen.print(f"failed: {sentence}", markup=False)
    return len(failed)
