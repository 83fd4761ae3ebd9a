"""Boards of any scenario: systems by the headline its records declare, each under the attack that hurts it most.

Whether one score is really better than another is a paired test on the examples both met: the exact McNemar test where
each example has a verdict, else the paired bootstrap, from FEWEST examples on; Holm-corrected over the board.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.maths import stats
from robustsuite.records.schema import Column, Scoring

from ..read.runs import Results
from .compare import LEVEL, defended, resampled_difference
from .grades import DOUBTED
from .kinds import SEED, Score, measured, statistic
from .scores import flag_names, measured_as

Cell = Mapping[Any, Any]

FEWEST = 30
"""Examples below which the bootstrap ranks nothing: at 5 % it calls 20 % of equal means different of 4, 7 % of 30."""


@dataclass(frozen=True)
class Contest:
    """One system's deciding cell: its score, its rows, every attack with what it reached, and why it has no rank."""

    system: tuple[Any, ...]
    cell: Cell
    source: Cell
    score: Score
    rows: pd.DataFrame
    attacks: tuple[tuple[str, str, float], ...]
    unranked: str


def declared(record: Any) -> tuple[Column, Scoring] | None:
    """The column and scoring of a record's headline; None where it declares none with a direction."""
    for column in record.columns:
        for scoring in column.scores:
            if scoring.name == record.scenario.headline and column.better != "neither" and scoring.kind != "beyond":
                return column, scoring
    return None


def contests(run: Results, cells: pd.DataFrame, names: Sequence[str]) -> Iterator[Contest]:
    """The deciding cell of every system (a value for each of `names`) of one board, in order."""
    faced = {cell["attack"] for cell in cells.to_dict("records") if measured_as(cell, run.known)}
    for system, mine in cells.groupby(list(names), sort=False):
        found = []
        for cell in mine.to_dict("records"):
            source = measured_as(cell, run.known)
            about = declared(source["record"]) if source else None
            if source is None or about is None:
                continue
            rows = run.examples(source["run_id"])
            score = next((s for s in measured(source, rows) if s.metric == about[1].name), None)
            if score is not None:
                found.append((score.value if about[0].better == "less" else -score.value, cell, source, score, rows))
        if not found:
            continue
        _, cell, source, score, rows = max(found, key=lambda entry: entry[0])
        met = {entry[1]["attack"] for entry in found}
        why = f"not ranked: without {', '.join(sorted(faced - met))}" if faced - met else ""
        if cell["grade"] in DOUBTED:
            why = f"not ranked: {flag_names(cell)}"
        attacks = tuple((str(e[1]["attack"]), str(e[2]["run_id"]), e[3].value) for e in found)
        yield Contest(tuple(system), cell, source, score, rows, attacks, why)


def ranges(members: Sequence[Contest]) -> list[tuple[int, int]]:
    """The rank range of each member, (0, 0) where it is not ranked."""
    ranked = [i for i, member in enumerate(members) if not member.unranked]
    tests = [(i, j, *_tested(members[i], members[j])) for i, j in combinations(ranked, 2)]
    adjusted = stats.holm([p for *_, p in tests])
    place = {i: k for k, i in enumerate(ranked)}
    better = np.zeros((len(ranked), len(ranked)), dtype=bool)
    for (i, j, ahead, _), p in zip(tests, adjusted, strict=True):
        if p < LEVEL and ahead:
            winner, loser = (i, j) if ahead > 0 else (j, i)
            better[place[winner], place[loser]] = True
    found = stats.rank_ranges(better.tolist())
    return [found[place[i]] if i in place else (0, 0) for i in range(len(members))]


def _tested(a: Contest, b: Contest) -> tuple[float, float]:
    """How far a is ahead of b for the defender, and the p-value of that; 1 where too few examples tell nothing."""
    about = declared(a.source["record"])
    first, second = a.rows.set_index("index"), b.rows.set_index("index")
    both = first.index.intersection(second.index)
    if about is None or not len(both):
        return 0.0, 1.0
    column, scoring = about
    if scoring.kind == "rate":
        stands = [defended(c.source, rows.loc[both])[scoring.name] for c, rows in ((a, first), (b, second))]
        meant = stands[0].index.intersection(stands[1].index)
        test = stats.mcnemar_exact(*(s.loc[meant].to_numpy(bool) for s in stands))
        return test.difference, test.pvalue
    if len(both) < FEWEST:
        return 0.0, 1.0
    value, old, new = statistic(column, scoring), second.loc[both], first.loc[both]
    ahead = (value(new) - value(old)) * (1 if column.better == "more" else -1)
    return ahead, stats.resampled_test(resampled_difference(value, old, new), len(both), SEED) if ahead else 1.0
