"""Entries of several sweeps that are called alike and are not the same: told apart by hash, named by what was asked.

A name is a file's or a folder's: `best` of runA/ and of runB/. What is the same is said by hashes: of a model by its
weights or recipe as a record holds them, never by what was trained, on one data set; of a data set by the pictures
judged on; of a shift set by its pictures of one variant. What is called alike gets more of its path, else all that was
asked, else six digits or more of its hash. Words for eyes alone: no id and no record changes. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from robustsuite.records.labels import AXES, called
from robustsuite.records.schema import CellRecord
from robustsuite.records.swept import Entry, Part

Row = dict[str, Any]

LONGEST = 120
"""Characters of a name that is lengthened; what is longer is told by digits."""


class Seen(NamedTuple):
    """What a row says of one entry: whose it is, its name, what was asked, and its hash ('' for unknown) in a place."""

    share: int
    words: str
    asked: str
    place: tuple[object, ...]
    value: str


@dataclass
class Kind:
    """One entry, of whatever sweeps: its hash in each place, what was asked for it, and what it is part of."""

    facts: dict[tuple[object, ...], str] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    into: Kind | None = None

    def fits(self, other: Kind) -> bool:
        """Whether the two agree wherever both are known."""
        return all(self.facts.get(place, value) == value for place, value in other.facts.items())

    def alike(self, other: Kind) -> bool:
        """Whether anything says that they are the same: a hash, the words; or nothing is known of either."""
        hashes = set(self.facts.values()) & set(other.facts.values())
        return bool(hashes or not (self.facts and other.facts) or not (self.asked and other.asked)
                    or self.asked.keys() & other.asked.keys())  # fmt: skip

    def take(self, other: Kind) -> None:
        """Be the other as well."""
        self.facts |= other.facts
        self.asked |= other.asked
        other.into = self

    @property
    def whole(self) -> Kind:
        """What it has become part of, else itself."""
        while self.into is not None:
            self = self.into
        return self

    @property
    def digits(self) -> str:
        """The one hash, else one of all."""
        known = list(dict.fromkeys(self.facts.values()))
        return known[0] if len(known) == 1 else hashlib.sha256("".join(known).encode()).hexdigest()


def model_of(record: CellRecord) -> str:
    """The hash of the model that was asked for: its weights or recipe, and the user's own code that answers for it."""
    own = {
        module: source for module, source in record.model.behaviour.items()
        if module.partition(".")[0] != "robustsuite" and re.fullmatch("[0-9a-f]{16,64}", source)
    }  # fmt: skip
    facts = json.dumps([record.model.sha256, own], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest() if own else record.model.sha256


def tell_apart(rows: Sequence[Row], shares: Sequence[Part]) -> dict[str, dict[str, str]]:
    """Give rows of other entries other words for them, and say by axis what the new words were. row["share"]: whose."""
    was: dict[str, dict[str, str]] = {axis: {} for axis in AXES}
    if len(shares) == 1 and shares[0].entries:  # one plan tells its own entries apart
        return was
    for axis, seen in (("dataset", _data), ("model", _models), ("shift", _shifts)):
        found = list(seen(rows, shares))
        kinds = _kinds(found, strict=axis == "model")
        if len(set(map(id, kinds))) == len({entry.words for entry in found}):
            continue
        by_words: dict[str, list[Kind]] = {}
        for entry, kind in zip(found, kinds, strict=True):
            if not any(kind is known for known in by_words.setdefault(entry.words, [])):
                by_words[entry.words].append(kind)
        taken = set(by_words)
        for words, several in by_words.items():
            if words and len(several) > 1:
                names = longer(words, several, taken)
                taken |= set(names)
                was[axis] |= dict.fromkeys(names, words)
                new = {id(kind): name for kind, name in zip(several, names, strict=True)}
                for row, entry, kind in zip(rows, found, kinds, strict=True):
                    if entry.words == words:
                        row |= called(row, {a: {words: new[id(kind)]} if a == axis else {} for a in AXES})
    return was


def _kinds(found: Sequence[Seen], *, strict: bool) -> list[Kind]:
    """The entry that each row is about. strict: what nothing says is the same is not.

    A hash in a place is of one entry and an entry has one hash in a place, whatever else is known.
    """
    homes: dict[Seen, Kind] = {}
    owned: dict[tuple[int, str], list[Kind]] = {}
    called: dict[str, list[Kind]] = {}
    nodes: dict[tuple[object, ...], Kind] = {}
    for seen in dict.fromkeys(found):
        node = (seen.words, seen.place, seen.value) if seen.value else (seen.words, seen.share)
        if node not in nodes:
            nodes[node] = Kind({seen.place: seen.value} if seen.value else {})
            called.setdefault(seen.words, []).append(nodes[node])
        homes[seen] = kind = nodes[node]
        kind.asked |= {seen.asked: None} if seen.asked else {}
        owned.setdefault((seen.share, seen.words), []).append(kind)
    for kinds in owned.values():  # a folder that was merged before may hold several under one name
        _met(kinds, strict=False)
    for kinds in called.values():
        _met(kinds, strict=strict)
    return [homes[seen].whole for seen in found]


def _met(kinds: Sequence[Kind], *, strict: bool) -> None:
    """Make one of those that can be the same, the first known first."""
    known: dict[int, Kind] = {}
    for kind in (kind.whole for kind in kinds):
        if id(kind) not in known:
            fit = (k for k in known.values() if k.fits(kind) and (not strict or k.alike(kind)))
            if (first := next(fit, None)) is None:
                known[id(kind)] = kind
            else:
                first.take(kind)


def longer(words: str, kinds: Sequence[Kind], taken: set[str]) -> list[str]:
    """A name for each that no other has: with more of its path, else all that was asked, else digits of its hash."""
    asked = [next(iter(kind.asked), "") for kind in kinds]
    for names in (*_tails(words, asked), asked):
        fit = all(name and name.isprintable() and len(name) <= LONGEST for name in names)
        if fit and len(set(names)) == len(kinds) and not taken & set(names):
            return list(names)
    for k in range(6, 65):
        names = [f"{words} #{kind.digits[:k]}" for kind in kinds]
        if len(set(names)) == len(kinds) and not taken & set(names):
            return names
    return [f"{words} #{i}" for i in range(1, len(kinds) + 1)]  # hashes that somebody wrote by hand


def _tails(words: str, asked: Sequence[str]) -> Iterator[list[str]]:
    """The words with one, two ... folders before the file or folder that they name, or with the path's end beside."""
    paths = [_path(words, said) for said in asked]
    if not all(paths) or " + " in words:  # an ensemble is of several files
        return
    for k in range(1, 1 + max(map(len, paths))):
        tails = ["/".join(path[-k:]) for path in paths]
        inside = [_named(path[-1]).search(words) for path in paths]
        yield [
            f"{words}({tail})" if at is None else words[: at.start()] + tail + words[at.end() :]
            for at, tail in zip(inside, tails, strict=True)
        ]


def _path(words: str, asked: str) -> list[str]:
    """The parts of the path that was asked for, of several the one that the words name the end of; or none."""
    found: list[tuple[bool, int, list[str]]] = []
    for path in map(PurePath, re.split(r"[?&,()= ]+|:(?!//)", asked)):
        if len(path.parts) > 1:
            stem = next((stem for stem in (path.name, path.stem) if _named(stem).search(words)), "")
            parts = [*(part for part in path.parts[:-1] if part not in ("/", ".")), stem or path.name]
            found.append((bool(stem), len(parts), parts))
    return max(found, default=(False, 0, []))[2]


def _named(stem: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(stem)}(?!\w)")


def _entry(shares: Sequence[Part], row: Row, axis: str) -> Entry:
    return shares[row["share"]].entries.get(axis, {}).get(str(row["record_words"][axis]), Entry())


def _data(rows: Sequence[Row], shares: Sequence[Part]) -> Iterator[Seen]:
    """By the pictures judged on; of a sweep that does not say which, by those of its clean cells."""
    clean: dict[tuple[int, str], set[str]] = {}
    for row in rows:
        record: CellRecord = row["record"]
        if record.threat is None and record.shift and record.shift.name == "clean" and record.data.stream is None:
            clean.setdefault((row["share"], row["dataset"]), set()).add(record.data.sha256)
    for row in rows:
        entry, own = _entry(shares, row, "dataset"), row["record"].data.sha256
        there = clean.get((row["share"], row["dataset"]), set())
        only = own if own in there else next(iter(there)) if len(there) == 1 else ""
        yield Seen(row["share"], row["dataset"], entry.asked, (), entry.sha256 or only)


def _models(rows: Sequence[Row], shares: Sequence[Part]) -> Iterator[Seen]:
    """By their hash, data set by data set: a network that is made for its pictures is another on others."""
    known: dict[int, str] = {}
    for row in rows:
        facts = row["record"].model
        if id(facts) not in known:  # cells of one model share its facts
            known[id(facts)] = model_of(row["record"])
        asked = _entry(shares, row, "model").asked
        yield Seen(row["share"], row["model"], asked, (row["dataset"],), known[id(facts)])


def _shifts(rows: Sequence[Row], shares: Sequence[Part]) -> Iterator[Seen]:
    """By the pictures of each variant; sets that share none are one, as where sweeps ask for other severities."""
    for row in rows:
        data, place = row["record"].data, (row["dataset"], row["seed"], row["corruption"], row["severity"])
        own = row["shift"] not in (None, "clean")
        stream = data.stream and (data.stream.order, data.stream.batch)
        yield Seen(
            row["share"], row["shift"] or "", _entry(shares, row, "shift").asked if own else "",
            (*place, data.n, data.splits, stream) if own else (), data.sha256 if own else "",
        )  # fmt: skip


def words_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row calls its entries, by axis."""
    return {axis: row[axis] for axis in AXES}
