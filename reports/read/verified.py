"""What was done to a run's folder since it was computed: seals, arithmetic and kept pictures, read as untrusted.

A seal finds what its author did not mean to be changed; the arithmetic of the rows finds what contradicts itself,
whoever sealed it; the kept pictures are measured anew. What only the model can say is asked by `app/rejudged.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.errors import BadData, BadValue, cause
from robustsuite.records.cells import read_sweep
from robustsuite.records.examples import Examples
from robustsuite.records.folder import Found, cells_of
from robustsuite.records.packed import SOME
from robustsuite.records.pictures import FOLDER, digest_of, read_pictures
from robustsuite.records.schema import Audit, CellRecord
from robustsuite.records.seal import (
    Finding,
    Seal,
    digest_of_audit,
    digest_of_cell,
    digest_of_sweep,
    digests_of_artefacts,
    named,
    read_seal,
)
from robustsuite.records.swept import SweepFacts
from robustsuite.records.untrusted import object_of, text_of

from .arithmetic import Columns, Flags, Sentence, arithmetic, asked, measured


@dataclass
class Verified:
    """What was looked at, what is wrong, and what a reader may want to know. root: of the seal, as computed anew."""

    root: str = ""
    cells: int = 0
    rows: int = 0
    pictures: int = 0
    found: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Note a finding."""
        self.found.append(Finding(where, what))


def verify(folder: Path, root: str | None = None) -> Verified:
    """Look at every cell of a run's folder. root: what the seal's is known to be, None for unknown.

    Raises BadData where there is no run at all, BadValue for a root that is none.
    """
    if root is not None and (len(root) != 64 or not set(root.lower()) <= set("0123456789abcdef")):
        raise BadValue(f"expected a root of 64 hex digits, as a report prints it, got {root!r}; leave it out")
    sweep, seen = read_sweep(folder), Verified()
    seal = _seal(folder, sweep, seen, root and root.lower())
    looking = _Looking(folder, sweep, seal, seen, Examples(folder, SOME))
    there = set[str]()
    for cell in cells_of(folder, looking.examples):
        there.add(cell.name)
        looking.at(cell)
    planned, sealed = set(sweep.cells or ()), set(seal.cells if seal else ())
    for name in sorted((planned | sealed) - there):
        said = "sealed, and not there any more" if name in sealed else "planned, and not there: not run yet"
        seen.add(looking.called(name), said)
    for file in sorted((folder / FOLDER).glob("*.parquet")):
        if file.stem not in there:
            seen.add(f"{FOLDER}/{file.name}", "pictures of a cell that is not there")
    return seen


def _seal(folder: Path, sweep: SweepFacts, seen: Verified, root: str | None) -> Seal | None:
    """The seal, if it is one, held against what is no cell's."""
    try:
        seal = read_seal(folder)
    except BadData as error:
        seen.add("seal.json", str(error))
        return None
    if seal is None:
        seen.add("seal.json", "missing: the run has not ended, or is older than seals; run the sweep again")
        return None
    seen.root = seal.under()
    if not seal.whole():
        seen.add("seal.json", "its root is not that of what it lists: it was edited")
    if seal.sweep != digest_of_sweep(sweep):
        seen.add("sweep.json", "changed since the run was sealed: what was swept, or what tables call it")
    if root and root != seen.root:
        seen.add("seal.json", f"expected the root {root}, got {seen.root}: another run, or one that was sealed anew")
    there = digests_of_artefacts(folder)
    for name in sorted(there.keys() | seal.artefacts.keys()):
        if there.get(name) != seal.artefacts.get(name):
            seen.add(f"artefacts/{name}", "not the one that was sealed" if name in there else "not there any more")
    for name in there:
        if said := _artefact(folder / "artefacts" / name):
            seen.add(f"artefacts/{name}", said)
    return seal


def _artefact(file: Path) -> str:
    """What is wrong with what a training found out, whose name ends with a digest of it."""
    try:
        value = object_of(text_of(file), file.name)
    except BadData as error:
        return str(error)
    digest = sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
    return "" if file.stem.endswith(digest) else "changed after it was kept"


@dataclass
class _Looking:
    """At every cell in turn; what cells say of the same pictures and systems is kept, by example."""

    folder: Path
    sweep: SweepFacts
    seal: Seal | None
    seen: Verified
    examples: Examples
    labels: dict[str, pd.Series] = field(default_factory=dict)
    answers: dict[tuple[Any, ...], pd.Series] = field(default_factory=dict)
    clean: dict[tuple[Any, ...], pd.Series] = field(default_factory=dict)

    def called(self, name: str) -> str:
        """A cell as a line begins with it."""
        words = self.sweep.planned.get(name, "")
        said = f"{name} ({words})" if words else name
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)

    def at(self, cell: Found) -> None:
        """All that one cell says without its model."""
        where, seen, record = self.called(cell.name), self.seen, cell.record
        if record is None:
            seen.add(where, cell.reason)
            return
        rows = self.examples.frame(cell.name, cell.place) if cell.place is not None else cell.frame
        columns = None if rows is None else {str(name): rows[name].to_numpy() for name in rows.columns}
        seen.cells += 1
        seen.rows += 0 if rows is None else len(rows)
        for what in (*self._sealed(cell, record, columns, where), *self._audit(cell.name, cell.audit), *asked(record)):
            seen.add(where, what)
        if self.sweep.cells is None or cell.name in self.sweep.cells:
            for what in _planned(record, self.sweep):
                seen.add(where, what)
        if columns is None:
            return
        try:
            for what, wrong in (*arithmetic(record, columns), *self._contradicted(record, columns)):
                if wrong.any():
                    seen.add(where, f"{what}: {named(columns['index'][wrong])}")
            self._of_pictures(record, columns, where)
        except Exception as error:  # anybody's record of anybody's columns
            seen.add(where, f"its columns are not those of {record.scenario.name}: {cause(error)}")

    def _sealed(self, cell: Found, record: CellRecord, columns: Columns | None, where: str) -> Iterator[str]:
        """Whether it is as it was computed, and one that the run was sealed with."""
        planned = self.sweep.cells is None or cell.name in self.sweep.cells
        if not record.digest:
            yield "no digest: made before cells had one; nothing says whether it was edited"
        elif record.digest != digest_of_cell(record, columns):
            yield "its record or its rows were changed after they were computed"
        elif self.seal is not None:
            known = self.seal.cells if planned else self.seal.earlier
            if cell.name not in known:
                yield "is not in the seal: computed since, or of another run"
            elif known[cell.name] != record.digest:
                yield "is another one than was sealed"
            elif not planned:
                self.seen.notes.append(Finding(where, "of an earlier plan in this folder; reports leave it out"))
        if not planned and self.seal is None:
            yield "no cell of this sweep: of another run, or of an earlier plan"

    def _audit(self, name: str, audit: Audit | None) -> Iterator[str]:
        """Whether its audit is the one that was made."""
        sealed = self.seal.audits.get(name) if self.seal is not None else None
        if audit is None:
            if sealed is not None:
                yield "its audit is not there any more"
        elif not audit.digest:
            yield "its audit has no digest: made before audits had one, or by hand"
        elif audit.digest != digest_of_audit(audit):
            yield "its audit was changed after it was made"
        elif self.seal is not None and name in self.seal.cells and sealed != audit.digest:
            yield "its audit is not the one that was sealed"

    def _contradicted(self, record: CellRecord, columns: Columns) -> Iterator[Sentence]:
        """Where this cell says another thing than the first that spoke of the same pictures, or the same system."""
        shift = record.shift
        clean = shift is not None and shift.name == "clean" and shift.head.startswith("all ")
        plain = record.scenario.name != "shift" or clean  # others' pictures stand under the same name
        if "label" not in columns or not record.data.sha256 or not plain:
            return
        index = columns["index"]
        first = self.labels.setdefault(record.data.sha256, pd.Series(columns["label"], index=index))
        yield "another label than other cells have", _differs(first, index, columns["label"])
        if "prediction" not in columns or "wrong_share" in columns or not (clean or record.scenario.name == "evasion"):
            return
        on = "" if clean or shift is None else shift.model_dump_json()
        made = tuple(sorted(record.made.packages.items(), key=str))
        defenses = tuple((d.name, json.dumps(d.parameters, sort_keys=True)) for d in record.defenses)
        key = (record.data.sha256, record.weights_sha256, defenses, record.seed, on, record.made.device, made)
        mine = pd.Series(columns["prediction"], index=index)
        known = [self.answers] if clean else [self.answers, self.clean]  # of a random system, clean ones are one draw's
        for said in known:
            yield "answered unattacked with another class than in other cells", _differs(
                said.get(key, mine), index, columns["prediction"])  # fmt: skip
        (self.clean if clean else self.answers).setdefault(key, mine)

    def _of_pictures(self, record: CellRecord, columns: Columns, where: str) -> None:
        """Whether the pictures that are kept are those that were, and say what their rows say."""
        seen, file = self.seen, self.folder / FOLDER / f"{record.run_id}.parquet"
        if not record.pictures:
            if file.exists():
                seen.add(where, "pictures are there, and its record knows of none")
            return
        try:
            n, digest = digest_of(read_pictures(file))
            seen.pictures += n
            if (n, digest) != (record.pictures, record.pictures_sha256):
                said = f"its {n} pictures are not the {record.pictures} that were kept: changed, or saved anew"
                seen.add(where, said)
            for part in read_pictures(file):
                for what in measured(record, columns, part):
                    seen.add(where, what)
        except BadData as error:
            seen.add(where, str(error))


def _differs(other: pd.Series, index: Any, values: Any) -> Flags:
    said = other.reindex(index).to_numpy()
    return np.asarray(~pd.isna(said) & (said != values))


def _planned(record: CellRecord, sweep: SweepFacts) -> Iterator[str]:
    """What a record says it was asked and its sweep did not ask."""
    entries = [share.entries for share in sweep.shares()]
    words = {"model": record.model.name, "dataset": record.data.name, "defense": record.defense_words()}
    if record.threat and record.attack:
        words["attack"] = f"{record.threat.name}: {record.attack.words()}"
    for axis, said in words.items():
        known: Mapping[str, Any] = {name: None for found in entries for name in found.get(axis, {})}
        if known and said not in known:
            yield f"{'an' if axis == 'attack' else 'a'} {axis} that the sweep did not ask for: {said}"
    if record.threat is None or record.threat.budget.eps is None:
        return
    budget, threats = record.threat.budget, [share.sweep.threats for share in sweep.shares() if share.sweep]
    asked_for = [found[record.threat.name].get("budget") for found in threats if record.threat.name in found]
    radii = [spec[budget.norm] for spec in asked_for if isinstance(spec, dict) and budget.norm in spec]
    if radii and not any(abs(_number(eps) - record.threat.budget.eps) < 1e-12 for eps in radii):
        yield f"a budget that the sweep did not ask for: {budget.words()}, where it says {budget.norm}: {radii[0]}"


def _number(eps: Any) -> float:
    """8/255 of '8/255'."""
    over, _, under = str(eps).partition("/")
    try:
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        return float("nan")
