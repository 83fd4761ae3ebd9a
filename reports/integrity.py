"""Verdicts and flags in a report: what cells say of one another, what an audit added, how a doubted number looks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from robustsuite.checks import VERDICTS, check_of, level_of

from .document import Entry, Section, Table, counted, words
from .read import Run

MEANING = {
    "CERTIFIED": "no flag, and a proof agrees within the interval", "SOUND": "no flag",
    "PROVISIONAL": "a warning: the number is an upper bound and is not ranked",
    "INVALID": "a failed check: the number is struck through",
}  # fmt: skip


DOUBTED = ("PROVISIONAL", "INVALID")
"""What keeps a number out of rankings."""


def shown(entry: Entry, verdict: str, note: str = "") -> Entry:
    """A number as its verdict lets it stand: struck through, or as an upper bound, or as it is."""
    entry = replace(entry, struck=verdict == "INVALID", note=note or entry.note)
    return replace(entry, text=f"≤ {entry.text}") if verdict == "PROVISIONAL" and entry.bar is not None else entry


def integrity_section(run: Run) -> Section:
    """How many cells ended with which verdict, and every flag with the number of cells that carry it."""
    verdicts = run.cells["verdict"]
    if not len(run.cells) or not verdicts.isin(VERDICTS).any():
        return Section("integrity", "Integrity")
    rows = tuple(
        (Entry(name, VERDICTS.index(name), kind=name.lower()), counted(count, str(count)), words(MEANING[name]))
        for name in VERDICTS if (count := int((verdicts == name).sum()))
    )  # fmt: skip
    found = [Table("verdicts", "Verdicts", "", ("verdict", "cells", "meaning"), rows)]
    flags = tuple(_flag_rows(run))
    if flags:
        columns = ("check", "flag", "level", "cells", "defenses", "for example")
        found.append(Table("raised", "Flags", "", columns, flags))
    lead = ("Each cell is held against the battery of checks in docs/integrity.md; the worst flag is its verdict.",)
    return Section("integrity", "Integrity", lead, tuple(found), place=80)


def _flag_rows(run: Run) -> Iterator[tuple[Entry, ...]]:
    groups: dict[tuple[str, str], list[tuple[Mapping[Any, Any], Mapping[Any, Any]]]] = {}
    for cell in run.known.values():
        for flag in cell["flags"]:
            groups.setdefault((level_of(flag), str(flag.get("name", "flag"))), []).append((cell, flag))
    for (level, name), members in sorted(groups.items()):
        defenses = dict.fromkeys(cell["defense"] for cell, _ in members)
        count = len({cell["run_id"] for cell, _ in members})
        yield (
            words(check_of(name)), words(name), Entry(level, kind=level), counted(count, str(count)),
            words(", ".join(defenses)), Entry(str(members[0][1].get("detail") or "")),
        )  # fmt: skip


def to_json(run: Run) -> str:
    """Every cell's verdict and flags by run_id, as text."""
    cells = {cell["run_id"]: {"verdict": cell["verdict"], "flags": cell["flags"]} for cell in run.known.values()}
    return json.dumps(cells, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def worst_of(verdicts: Mapping[str, str], deciding: str, white: Collection[str]) -> str:
    """A union's verdict: the deciding attack's, but PROVISIONAL where all on gradients (`white`) are in doubt."""
    own = verdicts.get(deciding, "")
    if set(verdicts.values()) == {"INVALID"}:
        return "INVALID"
    blind = bool(white) and all(verdicts[attack] in DOUBTED for attack in white)
    return "PROVISIONAL" if blind and own not in DOUBTED else own
