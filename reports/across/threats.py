"""What stands under every threat of a run at once: an image counts where no adversary that was played broke it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.integrity.cross_cell import Verdicts, standing

from ..measure.grades import DOUBTED
from ..measure.scores import rate
from ..measure.tables import SYSTEM
from ..measure.worst import Survival, survivals
from ..read.runs import Results, once
from ..render.document import Entry, Section, Table, accuracy, counted, words
from ..render.text import number, percent, plain
from ..sections.figures import NAMED, against, knowing
from ..sections.generic import groups, titled

GOAL_AND_SYSTEM = ("goal", *SYSTEM)
COLUMNS = (*GOAL_AND_SYSTEM, "threats", "robust_accuracy", "lo", "hi", "k", "n", "of", "clean_accuracy", "strongest",
           "missing", "doubted", "bound")  # fmt: skip
CSV = "all_threats.csv"


@once
def over_threats(run: Results) -> pd.DataFrame:
    """One row a system that met two threats or more, with its exact 95 % interval, on the images that all of them met.

    Attacks on pictures of a shift set are left out. of: the most images that one of them met. bound: whether it is an
    upper bound, since a threat that was planned has no number (`missing`), a threat lacks an attack, or its number is
    in doubt (`doubted`).
    """
    met: dict[tuple[Any, ...], list[Survival]] = {}
    for one in _plain(run):
        _, _, goal, *where = one.group
        met.setdefault((goal, *where, one.defense), []).append(one)
    planned = _planned(run)
    rows = [_row(key, members, planned[key[:3]]) for key, members in met.items() if len(members) > 1]
    return pd.DataFrame([row for row in rows if row["n"]], columns=list(COLUMNS))


def _plain(run: Results) -> list[Survival]:
    """Those whose pictures come from no shift set: others are not of the same pictures."""
    shifted = run.cells[run.cells["shift"].map(bool)]
    left_out = set(zip(shifted["threat"], shifted["budget"], strict=True))
    return [one for one in survivals(run) if one.group[:2] not in left_out]


def _planned(run: Results) -> dict[tuple[Any, ...], list[tuple[str, str]]]:
    """The (threat, budget) of each goal, data set and model, whoever has a number for it."""
    cells = run.cells[(run.cells["scenario"] == "evasion") & ~run.cells["shift"].map(bool)]
    cells = cells[["goal", "dataset", "model", "threat", "budget"]].drop_duplicates()
    found: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    for goal, dataset, model, *threat in cells.itertuples(index=False):
        found.setdefault((goal, dataset, model), []).append((str(threat[0]), str(threat[1])))
    return found


def _row(key: tuple[Any, ...], members: list[Survival], planned: list[tuple[str, str]]) -> dict[str, Any]:
    index, value = standing([Verdicts(m.robust.index.to_numpy(), m.robust.to_numpy()) for m in members])
    clean = members[0].clean.reindex(index).fillna(False).astype(bool)
    robust = rate("robust_accuracy", pd.Series(value, index=pd.Index(index, name="index")))
    least = min(members, key=lambda member: float(member.robust.reindex(index).astype(float).mean()))
    known = {member.group[:2] for member in members}
    missing = [threat for threat, budget in planned if (threat, budget) not in known]
    doubted = [str(m.group[0]) for m in members if m.grade in DOUBTED or (m.missing and not m.inert)]
    return {
        **dict(zip(GOAL_AND_SYSTEM, key, strict=True)), "threats": ";".join(str(m.group[0]) for m in members),
        "robust_accuracy": robust.value, "lo": robust.lo, "hi": robust.hi, "k": robust.k, "n": robust.n,
        "of": max(m.met for m in members), "clean_accuracy": float(np.mean(clean)) if len(clean) else np.nan,
        "strongest": str(least.group[0]), "missing": ";".join(missing), "doubted": ";".join(doubted),
        "bound": bool(robust.k and (missing or doubted)),
    }  # fmt: skip


def threats_section(run: Results) -> Section:
    """A table a model: systems across, and down what stands under all threats at once, then under each.

    Of several seeds the first stands in it, all of them in the csv file; none with more systems than anybody reads.
    """
    table = over_threats(run)
    first = table[table["seed"] == table.groupby(list(GOAL_AND_SYSTEM[:3]))["seed"].transform("min")]
    parts = [(key, part) for key, part in groups(first, GOAL_AND_SYSTEM[:-1]) if len(part) <= NAMED]
    alone = {(*one.group, one.defense): one for one in _plain(run)} if parts else {}
    found = []
    titles = titled([("Every threat at once", *key) for key, _ in parts], ("", *GOAL_AND_SYSTEM[:-1]))
    for i, ((key, part), title) in enumerate(zip(parts, titles, strict=True)):
        systems = part.to_dict("records")
        met = [name[:2] for name in alone if name[2:-1] == key]
        threats = sorted(dict.fromkeys(met), key=lambda threat: -knowing(run, *threat))
        rows = [
            (words("all at once"), Entry("Any of these"), *map(_united, systems)),
            (words("no attack"), Entry("Nobody"),
             *(counted(row["clean_accuracy"], percent(row["clean_accuracy"])) for row in systems)),
            *((words(threat), Entry(against(run, threat, budget)),
               *(_single(alone.get((threat, budget, *key, row["defense"]))) for row in systems))
              for threat, budget in threats),
        ]  # fmt: skip
        heads = (plain(str(row["defense"])) for row in systems)
        caption = ", ".join(f"{name} {value}" for name, value in zip(GOAL_AND_SYSTEM, key, strict=False) if str(value))
        caption += f", {number(min(row['n'] for row in systems))} images"
        found.append(Table(f"threats-{i + 1}", title, caption, ("threat", "adversary", *heads), tuple(rows), CSV))
    lead = (
        "Robust accuracy under each threat, and the share of images that stand under every one of them, with exact 95 "
        "% intervals. Behind a ≤ stands an upper bound: a threat has no number, or one in doubt.",
    )
    return Section("threats", "All threats at once", lead if found else (), tuple(found), order=10)


def _united(row: Mapping[Any, Any]) -> Entry:
    notes = [f"without {row['missing'].replace(';', ', ')}" if row["missing"] else "",
             f"in doubt: {row['doubted'].replace(';', ', ')}" if row["doubted"] else "",
             f"on the {row['n']} of {row['of']} images that all met" if row["n"] < row["of"] else ""]  # fmt: skip
    note = "; ".join(note for note in notes if note)
    return _bounded(accuracy(row["robust_accuracy"], row["lo"], row["hi"], note=note), row["bound"])


def _single(one: Survival | None) -> Entry:
    """One threat's own number, on the images that it met."""
    if one is None:
        return Entry("–", -1.0)
    found = rate("robust_accuracy", one.robust)
    entry = accuracy(found.value, found.lo, found.hi, struck=one.struck)
    return entry if one.struck else _bounded(entry, one.grade in DOUBTED or bool(one.missing and not one.inert))


def _bounded(entry: Entry, bound: bool) -> Entry:
    return replace(entry, text=f"≤ {entry.text}", note=entry.note or "an upper bound") if bound else entry
