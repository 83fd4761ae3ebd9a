"""Whose pictures break whom: kept pictures of every system, put to the others of its threat and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustsuite.integrity.strength import called
from robustsuite.maths.stats import clopper_pearson
from robustsuite.records.findings import Transfer

from ..measure.worst import GROUP, Survival, survivals
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, words
from ..render.text import number
from ..sections.figures import NAMED
from ..sections.generic import titled

WITHIN = ("threat", "budget", "goal", "dataset", "seed")
System = tuple[str, str]
"""Model and defense."""


def transfers_section(run: Results) -> Section:
    """A matrix a threat, data set and seed; none with more systems than anybody reads, which the csv file has."""
    met: dict[tuple[Any, ...], dict[tuple[System, System], list[Transfer]]] = {}
    for pair in run.transfers:
        source, target = run.known[pair.source], run.known[pair.target]
        key = tuple(target[name] for name in WITHIN)
        met.setdefault(key, {}).setdefault((_system(source), _system(target)), []).append(pair)
    unions = {(*(s.group[GROUP.index(name)] for name in WITHIN), _of(s)): s for s in survivals(run)}
    found = []
    for i, (key, title) in enumerate(zip(met, titled(list(met), WITHIN), strict=True)):
        sources, targets = (list(dict.fromkeys(pair[side] for pair in met[key])) for side in (0, 1))
        if max(len(sources), len(targets)) > NAMED:
            continue
        own = {target: unions.get((*key, target)) for target in targets}
        rows = [
            (words(_called(source)), *(_share(met[key].get((source, target), ())) for target in targets))
            for source in sources
        ]
        rows += [(words(name), *(_left(own[target], fallen) for target in targets))
                 for name, fallen in (("left by its own attacks", False), ("with foreign pictures", True))]  # fmt: skip
        columns = ("pictures made against", *map(_called, targets))
        found.append(Table(f"transfers-{i + 1}", f"{title} · whose pictures break whom", "", columns, tuple(rows)))
    lead = (
        "Each kept picture was put to the other systems of its threat and data, and judged; nothing was attacked anew. "
        "A share is of the images that the system answers right and that a picture made against the other is kept of, "
        "with its exact 95 % interval; of several attacks' pictures one that breaks it is enough. Where a foreign "
        "picture breaks what a system's own attacks leave, these were too weak, or its gradients are masked.",
    )
    return Section("transfers", "Foreign pictures", lead if found else (), tuple(found), order=12)


def _system(cell: Mapping[str, Any]) -> System:
    return str(cell["model"]), str(cell["defense"])


def _of(survival: Survival) -> System:
    return str(survival.group[GROUP.index("model")]), survival.defense


def _called(system: System) -> str:
    return called(dict(zip(("model", "defense"), system, strict=True)))


def _share(pairs: Sequence[Transfer]) -> Entry:
    asked = {example for pair in pairs for example in pair.asked}
    broken = {example for pair in pairs for example in pair.broken}
    return _rate(len(broken), len(asked)) if asked else Entry("–", -1.0)


def _left(union: Survival | None, fallen: bool) -> Entry:
    """What stands of all images under a system's own attacks, and what of that under foreign pictures as well."""
    if union is None:
        return Entry("–", -1.0)
    return _rate(int(union.robust.sum()) + (0 if fallen else union.foreign), len(union.robust))


def _rate(k: int, n: int) -> Entry:
    entry = accuracy(k / n, *clopper_pearson(k, n))
    return Entry(f"{entry.text}, n {number(n)}", entry.key, bar=entry.bar)
