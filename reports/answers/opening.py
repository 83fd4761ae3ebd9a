"""How a report opens: every short answer in its place, and what to know before trusting the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pandas as pd

from robustsuite.integrity.checks import PUBLISHED, level_of

from ..read.runs import Results
from ..render.document import Answer
from .attacked import attacked
from .cards import OTHER, VERDICT
from .contested import contested
from .proven import proven
from .shifted import corrupted, natural

MEANT = {"weak_alone": "no attack of sufficient strength", "one_family": "one kind of attack alone"}
"""The flags that most runs raise, in words."""

NAMED = 5
"""Of cells that are not there so many are named."""


def short_answers(run: Results, table: pd.DataFrame, others: Iterable[Answer] = ()) -> tuple[Answer, ...]:
    """The answers of a run: of several models each one's strongest adversary, then the strongest adversary first and
    what is no verdict after every verdict.

    `table` is what `scores(run)` returned; `others` are those of plugins' own scenarios.
    """
    found = [*attacked(run), *proven(run, table), *corrupted(run), *natural(run), *contested(run), *others]
    return tuple(sorted(found, key=lambda answer: answer.order or (VERDICT, OTHER)))


def said(answers: Iterable[Answer]) -> list[str]:
    """What a report opens with, a line a threat."""
    return [" ".join(answer.said) for answer in answers if answer.said]


def cautions(run: Results, worst: pd.DataFrame) -> Iterator[str]:
    """What a reader must know before trusting the numbers; `worst` is what `worst_case(run)` returned."""
    for grade, level, words in (
        ("INVALID", "fail", "failed a check, struck through"),
        ("PROVISIONAL", "warn", "raised a warning, upper bounds"),
    ):  # fmt: skip
        doubted = run.cells[run.cells["grade"] == grade]
        if len(doubted):
            raised = sorted({f["name"] for row in doubted["flags"] for f in row if level_of(f) == level})
            names = [f"{name} ({MEANT[name]})" if name in MEANT else name for name in raised]
            yield f"{len(doubted)} of {len(run.cells)} cells {words}: {', '.join(names)}."
    if len(worst) and worst["n"].min() < PUBLISHED:
        yield f"A screening: {_images(run)}; publish from {PUBLISHED} on."
    if run.skipped:
        yield f"{len(run.skipped)} cell folder{'s were' if len(run.skipped) > 1 else ' was'} unreadable and left out."
    if run.absent:
        yield f"Unfinished: {run.absent} of {run.absent + len(run.cells)} planned cells are not there yet{_named(run)}."
    if run.foreign:
        yield f"{run.foreign} cell(s) of an earlier plan in the same folder were left out."
    if run.cells["dirty"].map(bool).any():
        yield "Some cells were measured from a source tree with uncommitted changes."


def _images(run: Results) -> str:
    """'80 images', and of which threats fewer were judged: '(bounds: 10)'."""
    done = run.cells[(run.cells["status"] == "done") & run.cells["scenario"].isin(["evasion", "certification"])]
    usual = Counter(int(n) for n in done["n"]).most_common(1)[0][0]
    fewer = {str(threat): int(n) for threat, n in done.groupby("threat", sort=False)["n"].min().items() if n < usual}
    apart = f" ({', '.join(f'{threat}: {n}' for threat, n in fewer.items())})" if fewer else ""
    return f"{usual} images{apart}"


def _named(run: Results) -> str:
    """Which cells are not there, the first few by name; nothing of a run that does not say."""
    some = run.unfinished[:NAMED]
    more = f" and {run.absent - len(some)} more" if run.absent > len(some) else ""
    return f": {', '.join(some)}{more}" if some else ""
