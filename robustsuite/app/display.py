"""What a person sees while a sweep runs and when it ends: a bar with the remaining time, then one table a threat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from robustsuite.engine.estimate import estimate
from robustsuite.engine.execute import Progress
from robustsuite.engine.plan import Decision
from robustsuite.engine.store import Store
from robustsuite.records.schema import CellRecord
from robustsuite.scenarios.cell import Cell

PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is no terminal."""


class Clock:
    """Remaining time: the work left at the pace of the work done, both from the plan's estimate."""

    def __init__(self, work: dict[str, float]) -> None:
        self.work, self.done, self.started = work, 0.0, time.monotonic()
        self.total = sum(work.values())

    def finished(self, run_id: str) -> None:
        self.done += self.work.get(run_id, 0.0)

    def left(self) -> str:
        """'about 2:05 left', empty before there is a pace to go by."""
        if self.done <= 0.02 * self.total:
            return ""
        seconds = (time.monotonic() - self.started) * (self.total - self.done) / self.done
        return f"about {int(seconds) // 60}:{int(seconds) % 60:02d} left"


@contextmanager
def progress(cells: list[tuple[Cell, Decision]], store: Store, screen: Console) -> Iterator[Progress]:
    """A live bar on a terminal, a line every few seconds elsewhere."""
    missing = [(cell, decision) for cell, decision in cells if not store.finished(cell.run_id)]
    clock = Clock(estimate(missing) if missing else {})
    if screen.is_terminal:
        text = (TextColumn("{task.fields[left]}"), TextColumn("{task.description}"))
        columns = (BarColumn(20), MofNCompleteColumn(), *text)
        with Bar(*columns, console=screen, transient=True) as bar:
            task = bar.add_task("", total=len(cells), completed=len(cells) - len(missing), left="")

            def ends(cell: Cell, record: CellRecord) -> None:
                clock.finished(cell.run_id)
                bar.update(task, advance=1, left=clock.left())

            yield Progress(
                lambda cell: bar.update(task, description=escape(label(cell))[:40]), ends,
                lambda text: bar.update(task, description=escape(text)[:40]),
            )  # fmt: skip
        return
    yield _plain(len(cells), len(cells) - len(missing), clock, screen)


def _plain(total: int, done: int, clock: Clock, screen: Console) -> Progress:
    count, last = done, 0.0

    def ends(cell: Cell, record: CellRecord) -> None:
        nonlocal count, last
        count += 1
        clock.finished(cell.run_id)
        if time.monotonic() - last > PLAIN_EVERY or count == total:
            last = time.monotonic()
            screen.print(f"{count}/{total} {label(cell)} {record.status} {clock.left()}", markup=False, soft_wrap=True)

    return Progress(ends=ends, tell=lambda text: screen.print(text, markup=False))


def label(cell: Cell) -> str:
    """'pgd on rift', 'fog 3 on none'."""
    facts = cell.facts() | {axis: name for axis, name in cell.names.items() if name}
    what = facts["attack"] or f"{facts['corruption'] or facts['shift']} {facts['severity'] or ''}".strip()
    return f"{what} on {facts['defense']}"


def summary(folder: Path, screen: Console) -> int:
    """Print one table a threat: attacks down, defenses across, each rate with its interval. Returns failed cells."""
    from robustsuite.reports.publish.overview import overview

    tables, failed = overview([folder])
    for title, header, rows in tables:
        screen.print(f"[bold]{escape(title)}[/bold]")
        table = Table(box=None, pad_edge=False, show_header=bool(header))
        for i, name in enumerate(header):
            table.add_column(escape(name), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(entry.text) for entry in row))
        screen.print(table)
        screen.print()
    for sentence in failed:
        screen.print(f"failed: {sentence}", markup=False)
    return len(failed)
