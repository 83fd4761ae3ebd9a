"""What was done to a run's folder since it was computed: seals, arithmetic and kept pictures, read as untrusted.

A seal finds what its author did not mean to be changed; the arithmetic of the rows finds what contradicts itself,
whoever sealed it; the kept pictures are measured anew. What only the model can say is asked by `app/rejudged.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.errors import BadData
from robustsuite.records.cells import read_sweep
from robustsuite.records.examples import Examples
from robustsuite.records.folder import Found, cells_of
from robustsuite.records.packed import SOME
from robustsuite.records.pictures import FOLDER, Kept, digest_of, read_pictures
from robustsuite.records.schema import CellRecord
from robustsuite.records.seal import (
    Finding,
    Seal,
    digest_of_audit,
    digest_of_cell,
    digest_of_sweep,
    named,
    read_seal,
)
from robustsuite.records.swept import SweepFacts

SLACK = 1e-4
"""Relative difference of a distance that is measured anew."""

Sentence = tuple[str, NDArray[np.bool_]]
"""What is wrong, and with which rows (N,)."""


@dataclass
class Verified:
    """What was looked at, and what is wrong. root: of the seal, as computed anew; '' where there is none."""

    root: str = ""
    cells: int = 0
    rows: int = 0
    pictures: int = 0
    found: list[Finding] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Note a finding."""
        self.found.append(Finding(where, what))


def verify(folder: Path, root: str = "") -> Verified:
    """Look at every cell of a run's folder. root: what the seal's is known to be, '' for unknown.

    Raises BadData where there is no run at all.
    """
    sweep, seen = read_sweep(folder), Verified()
    seal = _seal(folder, sweep, seen, root)
    planned, there, known = set(sweep.cells or ()), set[str](), _Known()
    examples = Examples(folder, SOME)
    for cell in cells_of(folder, examples):
        there.add(cell.name)
        where = sweep.planned.get(cell.name, "")
        where = f"{cell.name} ({where})" if where else cell.name
        if cell.record is None:
            seen.add(where, cell.reason)
            continue
        seen.cells += 1
        if planned and cell.name not in planned:
            seen.add(where, "no cell of this sweep: of another run, or of an earlier plan")
        _of_cell(folder, cell, examples, seal, known, where, seen)
    sealed = set(seal.cells if seal else ())
    for name in sorted((planned | sealed) - there):
        where = f"{name} ({sweep.planned.get(name, 'a planned cell')})"
        seen.add(where, "sealed, and not there any more" if name in sealed else "planned, and not there: not run yet")
    for file in sorted((folder / FOLDER).glob("*.parquet")):
        if file.stem not in there:
            seen.add(f"{FOLDER}/{file.name}", "pictures of a cell that is not there")
    return seen


def _seal(folder: Path, sweep: SweepFacts, seen: Verified, root: str) -> Seal | None:
    """The seal, if it is one."""
    try:
        seal = read_seal(folder)
    except BadData as error:
        seen.add("seal.json", str(error))
        return None
    if seal is None:
        seen.add("seal.json", "missing: the run has not ended, or is older than seals; run the sweep again")
        return None
    seen.root = Seal.of(sweep, seal.cells, seal.audits).root
    if not seal.whole():
        seen.add("seal.json", "its root is not that of what it lists: it was edited")
    if seal.sweep != digest_of_sweep(sweep):
        seen.add("sweep.json", "changed since the run was sealed: what was swept, or what tables call it")
    if root and root != seal.root:
        seen.add("seal.json", f"expected the root {root}, got {seal.root}: another run, or one that was sealed anew")
    return seal


def _of_cell(
    folder: Path, cell: Found, examples: Examples, seal: Seal | None, known: _Known, where: str, seen: Verified
) -> None:
    """All that one cell says without its model."""
    record = cell.record
    assert record is not None
    rows = cell.frame
    if rows is None and cell.place is not None:
        rows = examples.frame(cell.name, cell.place)
    columns = None if rows is None else {str(name): rows[name].to_numpy() for name in rows.columns}
    seen.rows += 0 if rows is None else len(rows)
    if not record.digest:
        seen.add(where, "no digest: made before cells had one; nothing says whether it was edited")
    elif record.digest != digest_of_cell(record, columns):
        seen.add(where, "its record or its rows were changed after they were computed")
    elif seal is not None and seal.cells.get(cell.name) != record.digest:
        said = "is not in the seal: computed since, or of another run" if cell.name not in seal.cells else (
            "is another one than was sealed")  # fmt: skip
        seen.add(where, said)
    if cell.audit is not None:
        if cell.audit.digest and cell.audit.digest != digest_of_audit(cell.audit):
            seen.add(where, "its audit was changed after it was made")
        elif seal is not None and seal.audits.get(cell.name, "") != cell.audit.digest:
            seen.add(where, "its audit is not the one that was sealed")
    elif seal is not None and cell.name in seal.audits:
        seen.add(where, "its audit is not there any more")
    for what in _asked(record):
        seen.add(where, what)
    if columns is not None:
        for what, wrong in (*_arithmetic(record, columns), *known.contradicted(record, columns)):
            if wrong.any():
                seen.add(where, f"{what}: {named(columns['index'][wrong])}")
        _of_pictures(folder, record, columns, where, seen)


def _asked(record: CellRecord) -> Iterator[str]:
    """Where a record says two things of what was asked, or of how much there is."""
    for used in (*record.defenses, *((record.attack,) if record.attack else ())):
        for name, value in used.given.items():
            if used.parameters and used.parameters.get(name, value) != value:
                yield f"{used.name} was given {name}={value!r}, and ran with {used.parameters[name]!r}"
    if record.status == "done" and record.data.n and record.rows != record.data.n:
        yield f"{record.rows} rows of {record.data.n} examples: rows were taken away, or added"


def _arithmetic(record: CellRecord, columns: Mapping[str, NDArray[Any]]) -> Iterator[Sentence]:
    """What cannot be, of the rows of a scenario of ours."""
    scenario, label = record.scenario.name, columns.get("label")
    yes = {name: column.astype(bool) for name, column in columns.items() if column.dtype.kind == "b"}
    if "robust" in yes and "clean_ok" in yes:
        yield "robust, and not right unattacked", yes["robust"] & ~yes["clean_ok"] & (scenario != "shift")
    if label is None:
        return
    said = columns.get("prediction")
    if said is not None and "clean_ok" in yes and scenario != "shift":
        yield "right unattacked, and answered with another class than the label", yes["clean_ok"] & (said != label)
    if scenario == "shift" and said is not None:
        yield "right, and answered with another class than the label", yes["robust"] & (said != label)
    if scenario == "evasion" and {"fooled", "in_budget"} <= yes.keys():
        yield from _evasion(record, columns, yes)
    if scenario == "certification":
        wrong = (columns["radius"] > 0) & ~yes["clean_ok"]
        yield "proven, and not right", wrong
        eps = record.threat.budget.eps if record.threat else None
        if eps is not None:
            yield "robust without a proof that reaches so far, or the other way round", yes["robust"] != (
                yes["clean_ok"] & (columns["radius"] >= eps * (1 - 1e-6)))  # fmt: skip
    if scenario == "poisoning" and "eligible" in yes:
        yield "a success where the trigger is not meant", yes["triggered_as_target"] & ~yes["eligible"]


def _evasion(
    record: CellRecord, columns: Mapping[str, NDArray[Any]], yes: Mapping[str, NDArray[np.bool_]]
) -> Iterator[Sentence]:
    none = np.zeros(len(columns["index"]), dtype=bool)
    right, fell = yes["clean_ok"], yes["clean_ok"] & yes["fooled"] & yes["in_budget"]
    gone = yes.get("unanswered", none)
    yield "the verdict is not what the other columns lead to", yes["robust"] != (right & ~fell & ~gone)
    budget = record.threat.budget if record.threat else None
    if budget is not None and budget.eps is not None and "distance" in columns:
        far = columns["distance"] > budget.eps * (1 + SLACK) + SLACK
        yield "inside the budget, and farther away than it reaches", right & yes["in_budget"] & far
    answer, goal = columns.get("answer"), record.threat.goal.name if record.threat else ""
    if answer is not None and goal == "untargeted":
        same = answer == columns["label"]
        yield "broken, and still answered with its label", fell & same
        held = right & yes["in_budget"] & ~yes["fooled"] & ~gone & (answer >= 0)
        yield "standing, and answered with another class than its label", held & ~same


@dataclass
class _Known:
    """What cells say of the same pictures and systems, by example: labels, and answers unattacked."""

    labels: dict[str, pd.Series] = field(default_factory=dict)
    answers: dict[tuple[Any, ...], pd.Series] = field(default_factory=dict)

    def contradicted(self, record: CellRecord, columns: Mapping[str, NDArray[Any]]) -> Iterator[Sentence]:
        """Where this cell says another thing than the first that spoke."""
        if "label" not in columns or not record.data.sha256:
            return
        if record.scenario.name != "shift":  # whose pictures are others, under the same name
            yield "another label than other cells have", self._differs(
                self.labels, record.data.sha256, columns["index"], columns["label"])  # fmt: skip
        if record.scenario.name == "evasion" and "prediction" in columns:
            made = tuple(sorted(record.made.packages.items(), key=str))
            shift = record.shift.model_dump_json() if record.shift else ""
            system = record.data.sha256, record.weights_sha256, record.defense_words(), record.seed, shift
            key = (*system, record.made.device, made)
            yield "answered unattacked with another class than in other cells", self._differs(
                self.answers, key, columns["index"], columns["prediction"])  # fmt: skip

    @staticmethod
    def _differs(known: dict[Any, pd.Series], key: Any, index: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
        mine = pd.Series(values, index=index)
        first = known.setdefault(key, mine)
        other = first.reindex(mine.index)
        return np.asarray(other.notna() & (other != mine))


def _of_pictures(
    folder: Path, record: CellRecord, columns: Mapping[str, NDArray[Any]], where: str, seen: Verified
) -> None:
    """Whether the pictures that are kept are those that were, and say what their rows say."""
    file = folder / FOLDER / f"{record.run_id}.parquet"
    if not record.pictures:
        if file.exists():
            seen.add(where, "pictures are there, and its record knows of none")
        return
    try:
        n, sha256 = digest_of(read_pictures(file))
        seen.pictures += n
        if (n, sha256) != (record.pictures, record.pictures_sha256):
            seen.add(where, f"its {n} pictures are not the {record.pictures} that were kept: changed, or saved anew")
        for part in read_pictures(file):
            for what in _measured(record, columns, part):
                seen.add(where, what)
    except BadData as error:
        seen.add(where, str(error))


def _measured(record: CellRecord, columns: Mapping[str, NDArray[Any]], part: Kept) -> Iterator[str]:
    """What a picture is against what its row says."""
    places = {int(example): i for i, example in enumerate(columns["index"])}
    rows = np.array([places.get(int(example), -1) for example in part.ids])
    if (rows < 0).any():
        yield f"pictures of examples that it has no rows of: {named(part.ids[rows < 0])}"
        return
    if record.scenario.name != "evasion" or record.threat is None:
        return
    budget, moved = record.threat.budget, _distance(part, record.threat.budget.norm)
    said = columns["distance"][rows]
    off = columns["clean_ok"][rows] & (np.abs(moved - said) > SLACK * np.maximum(1, np.abs(said)))
    if off.any():
        yield f"pictures at another distance than their rows say: {named(part.ids[off])}"
    if budget.eps is not None:
        outside = (moved > budget.eps * (1 + SLACK) + SLACK) & columns["in_budget"][rows]
        if outside.any():
            yield f"pictures outside of the budget that their rows say they keep: {named(part.ids[outside])}"


def _distance(part: Kept, norm: str) -> NDArray[np.float64]:
    """How far (M,) each picture was moved, in this norm."""
    moved = np.abs(part.adversarial.astype(np.float64) - part.clean.astype(np.float64)).reshape(len(part.ids), -1)
    if norm == "linf":
        return np.asarray(moved.max(1))
    if norm == "l2":
        return np.asarray(np.sqrt(np.square(moved).sum(1)))
    return np.asarray(moved.sum(1) if norm == "l1" else (moved > 0).sum(1).astype(np.float64))
