"""What tables and figures call the entries of a sweep: the user's `as`, else the shortest form that tells them apart.

Names are for eyes: they are kept beside the axes in sweep.json, no number and no id depends on them, and `compare`
matches cells by what was asked. Imports no torch.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from robustsuite.records.schema import CellRecord, Used, used_words

AXES = ("model", "dataset", "defense", "attack", "shift")
"""Columns of a row that name an entry of a sweep."""

LONGEST = 40
"""Characters of a name that still fits a table's column and a figure's legend."""

TAKEN = {"none", "undefended", "clean", "mean", "no attack", "all attacks", "all at once", "index", "label"}
"""Words that tables and files use for something else."""

Labels = dict[str, dict[str, str]]
"""Axis -> the entry's words in full -> its label."""


def sayable(name: str) -> bool:
    """Whether tables can call an entry by this name: short, printable, on one line, no word of theirs, no list."""
    plain = name.isprintable() and " ".join(name.split()) == name and ";" not in name and ": " not in name
    return plain and 0 < len(name) <= LONGEST and read_as(name) not in TAKEN


def read_as(name: str) -> str:
    """What a reader tells names apart by."""
    return unicodedata.normalize("NFKC", name).casefold()


def labels(rows: Iterable[Mapping[Any, Any]], named: Mapping[str, Mapping[str, str]]) -> Labels:
    """The label of every entry of these cells, as rows of words with their record; named: what `as` says, by axis."""
    entries: dict[str, dict[str, tuple[Used, ...]]] = {axis: {} for axis in AXES}
    for row in rows:
        record: CellRecord = row["record"]
        parts = {"defense": record.defenses, "attack": (record.attack,) if record.attack else ()}
        for axis in AXES:
            if row[axis]:
                entries[axis].setdefault(row[axis], parts.get(axis, ()))
    return {axis: _unlike(shortest(found), named.get(axis, {})) for axis, found in entries.items()}


def called(row: Mapping[Any, Any], found: Labels) -> dict[str, Any]:
    """What a row of words is called by, axis by axis; a threat that names the shift it is under does so likewise."""
    new = {axis: found[axis].get(row[axis], row[axis]) for axis in AXES}
    before, on, after = str(row["threat"] or "").rpartition(f" on {row['shift']}")
    return {**new, "threat": f"{before} on {new['shift']}{after}" if on else row["threat"]}


def apart(given: Mapping[str, Any], twins: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of an entry's parameters those that tell it from its twins, among which it may stand itself."""
    others = list(twins)
    return {key: value for key, value in given.items() if any(other.get(key) != value for other in others)}


def shortest(entries: Mapping[str, tuple[Used, ...]]) -> dict[str, str]:
    """The shortest words for each entry: of its parameters those that tell it from one of the same plugins."""
    alike: dict[tuple[str, ...], list[tuple[Used, ...]]] = {}
    for parts in entries.values():
        alike.setdefault(tuple(part.name for part in parts), []).append(parts)
    found = {}
    for words, parts in entries.items():
        twins = alike[tuple(part.name for part in parts)]
        told = (
            used_words(part.name, apart(part.given, (twin[i].given for twin in twins))) for i, part in enumerate(parts)
        )
        found[words] = "+".join(told) or words
    return found


def _unlike(short: Mapping[str, str], named: Mapping[str, str]) -> dict[str, str]:
    """No two labels alike: a name that is taken stands with what it names, a short form that is taken in full."""
    named = {words: name for words, name in named.items() if sayable(name)}  # anybody may have written sweep.json
    wanted = {words: named.get(words) or label for words, label in short.items()}
    times = Counter(wanted.values())
    found: dict[str, str] = {}
    for words, label in wanted.items():
        if words in named and (times[label] > 1 or any(label == other != words for other in short)):
            label = f"{label} = {words}"
        label = words if words not in named and times[label] > 1 else label
        while label in found.values():
            label += " (another)"
        found[words] = label
    return found
