"""Whose pictures break whom: kept pictures of every system, put to the others of its threat and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustsuite.integrity.strength import called
from robustsuite.maths.stats import clopper_pearson
from robustsuite.records.findings import Transfer

from ..measure.worst import GROUP, survivals
from ..read.runs import Results, once
from ..render.document import Entry, Section, Table, accuracy, words
from ..render.text import number
from ..sections.figures import NAMED
from ..sections.generic import groups, titled

WITHIN = ("threat", "budget", "goal", "dataset", "seed")
COLUMNS = (*WITHIN, "source_model", "source_defense", "model", "defense", "broken", "n", "share", "lo", "hi")

System = tuple[str, str]
"""Model and defense."""


@once
def transfers(run: Results) -> pd.DataFrame:
    """Every two systems of a threat, data set and seed: how many of n images the source's pictures break on the other.

    An image counts that the other answers right and that a picture is kept of; of several attacks' pictures one that
    breaks it is enough.
    """
    met: dict[tuple[Any, ...], list[Transfer]] = {}
    for pair in run.transfers:
        source, target = run.known[pair.source], run.known[pair.target]
        key = *(target[name] for name in WITHIN), *_system(source), *_system(target)
        met.setdefault(key, []).append(pair)
    rows = []
    for key, pairs in met.items():
        n, k = len({i for pair in pairs for i in pair.asked}), len({i for pair in pairs for i in pair.broken})
        if n:
            rows.append((*key, k, n, k / n, *clopper_pearson(k, n)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def transfers_section(run: Results) -> Section:
    """A matrix a threat, data set and seed; where more systems meet than anybody reads, the csv file alone has it."""
    found, every = [], list(dict.fromkeys(map(_system, run.known.values())))
    parts = [(key, part) for key, part in groups(transfers(run), WITHIN) if _most(part) <= NAMED]
    for i, ((key, part), title) in enumerate(zip(parts, titled([key for key, _ in parts], WITHIN), strict=True)):
        rates = {((row["source_model"], row["source_defense"]), _system(row)): _rate(row["broken"], row["n"])
                 for row in part.to_dict("records")}  # fmt: skip
        sources, targets = ([s for s in every if s in {pair[side] for pair in rates}] for side in (0, 1))
        left = _left(run, key)
        none = Entry("–", -1.0)
        rows = [(words(_called(s)), *(rates.get((s, target), none) for target in targets)) for s in sources]
        rows += [(words(name), *(left[target][place] if target in left else none for target in targets))
                 for place, name in enumerate(("left by its own attacks", "with foreign pictures"))]  # fmt: skip
        columns = ("pictures made against", *map(_called, targets))
        name = f"{title} · whose pictures break whom"
        found.append(Table(f"transfers-{i + 1}", name, "", columns, tuple(rows), "transfers.csv"))
    lead = (
        "Each kept picture was put to the other systems of its threat and data, and judged; nothing was attacked anew. "
        "A share is of the images that the system answers right and that a picture made against the other is kept of, "
        "with its exact 95 % interval; of several attacks' pictures one that breaks it is enough. Where a foreign "
        "picture breaks what a system's own attacks leave, these were too weak, or its gradients are masked.",
    )
    return Section("transfers", "Foreign pictures", lead if found else (), tuple(found), order=12)


def _most(part: pd.DataFrame) -> int:
    """How many systems a matrix has along its longer side."""
    sides = ["source_model", "source_defense"], ["model", "defense"]
    return max(len(part[names].drop_duplicates()) for names in sides)


def _left(run: Results, key: tuple[Any, ...]) -> dict[System, tuple[Entry, Entry]]:
    """What stands of all images under each system's own attacks, and what of that under foreign pictures as well."""
    found = {}
    for survival in survivals(run):
        said = dict(zip(GROUP, survival.group, strict=True))
        if tuple(said[name] for name in WITHIN) == key:
            stands, n = int(survival.robust.sum()), len(survival.robust)
            found[str(said["model"]), survival.defense] = _rate(stands + survival.foreign, n), _rate(stands, n)
    return found


def _system(cell: Mapping[Any, Any]) -> System:
    return str(cell["model"]), str(cell["defense"])


def _called(system: System) -> str:
    return called(dict(zip(("model", "defense"), system, strict=True)))


def _rate(k: int, n: int) -> Entry:
    entry = accuracy(k / n, *clopper_pearson(k, n))
    return Entry(f"{entry.text}, n {number(n)}", entry.key, bar=entry.bar)
