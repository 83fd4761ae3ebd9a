"""Verdicts and flags in a report: what cells say of one another, what an audit added, how a doubted number looks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from robustsuite.integrity.checks import GRADES, check_of, level_of

from ...read.runs import Results
from ...render.document import Entry, Section, Table, counted, words

MEANING = {
    "CERTIFIED": "no flag, and a proof agrees within the interval", "SOUND": "no flag",
    "PROVISIONAL": "a warning: the number is an upper bound and is not ranked",
    "INVALID": "a failed check: the number is struck through",
}  # fmt: skip


def integrity_section(run: Results) -> Section:
    """How many cells ended with which grade, and every flag with the number of cells that carry it."""
    grades = run.cells["grade"]
    if not len(run.cells) or not grades.isin(GRADES).any():
        return Section("integrity", "Integrity")
    rows = tuple(
        (Entry(name, GRADES.index(name), kind=name.lower()), counted(count, str(count)), words(MEANING[name]))
        for name in GRADES if (count := int((grades == name).sum()))
    )  # fmt: skip
    found = [Table("grades", "Grades", "", ("grade", "cells", "meaning"), rows, "")]
    flags = tuple(_flag_rows(run))
    if flags:
        columns = ("check", "flag", "level", "cells", "defenses", "for example")
        found.append(Table("raised", "Flags", "", columns, flags, "flags.csv"))
    lead = ("Each cell is held against the battery of checks in docs/integrity.md; the worst flag is its grade.",)
    return Section("integrity", "Integrity", lead, tuple(found), order=80)


def _flag_rows(run: Results) -> Iterator[tuple[Entry, ...]]:
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


def to_json(run: Results) -> str:
    """Every cell's grade and flags by run_id, as text."""
    cells = {cell["run_id"]: {"grade": cell["grade"], "flags": cell["flags"]} for cell in run.known.values()}
    return json.dumps(cells, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
