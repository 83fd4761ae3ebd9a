"""Read finished cells back from what a sweep wrote: `runs/<name>/{sweep.json, cells/<run_id>/…, packed/…}`.

A cell that is unfinished, truncated or contradicts itself is skipped and counted: a report is made from what stands,
and says what it left out.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from robustsuite.errors import BadData
from robustsuite.integrity.cross_cell import grades
from robustsuite.records.cells import read_sweep
from robustsuite.records.examples import Columns, Examples
from robustsuite.records.findings import Artefact, Transfer
from robustsuite.records.flat import flat
from robustsuite.records.folder import Found, cells_of
from robustsuite.records.labels import AXES as LABELLED
from robustsuite.records.labels import called, labels
from robustsuite.records.pictures import Kept
from robustsuite.records.schema import STATUSES as STATUSES
from robustsuite.records.seal import read_seal
from robustsuite.records.swept import Part, SweepFacts, class_names
from robustsuite.records.twins import tell_apart, words_of

from .artefacts import read_artefacts
from .held import HOLDS, Held, arrays_of, nothing

T = TypeVar("T")
AXES = ("threat", "dataset", "model", "seed", "defense", "attack", "shift", "corruption", "severity")
_TEXT = (
    "run_id", "sweep", "threat", "scenario", "access", "budget", "goal", "model", "defense", "attack", "dataset",
    "shift", "corruption", "status", "code", "sentence", "same_as", "traceback", "suite_version", "commit", "device",
    "dtype", "weights_sha256", "data_sha256", "started", "needs", "head", "transform", "norm",
)  # fmt: skip
_NUMBERS = ("severity", "n", "seed", "seconds", "peak_bytes", "forwards", "backwards", "queries", "eps")
_LISTED = {"model": "models", "defense": "defenses", "dataset": "data", "shift": "shifts"}


@dataclass(frozen=True)
class Results:
    """The cells of one or several sweeps: one row each in `cells`, their per-example rows on demand.

    `skipped` names unreadable folders, `absent` counts planned cells that are not there, `unfinished` says what they
    are where the run does, `foreign` counts those that an earlier sweep left in the same folder. `artefacts` is what
    defenses found out while they trained, `transfers` what foreign pictures did, `bills` what services were sent and
    answered, `roots` those of the seals, `shares` the sweeps that the cells are of: the column `share` of `cells` says
    which. `classes` is what the classes of a data set are called, by what tables call the data set; none where nobody
    said, or not all say the same.
    """

    title: str
    note: str
    cells: pd.DataFrame
    skipped: tuple[str, ...] = ()
    absent: int = 0
    foreign: int = 0
    unfinished: tuple[str, ...] = field(repr=False, default=())
    artefacts: tuple[Artefact, ...] = field(repr=False, default=())
    transfers: tuple[Transfer, ...] = field(repr=False, default=())
    bills: tuple[str, ...] = ()
    shares: tuple[Part, ...] = field(repr=False, default=())
    classes: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)
    load: Callable[[str], pd.DataFrame] = field(repr=False, default=lambda run_id: nothing(run_id))
    arrays: Callable[[str], Columns] | None = field(repr=False, default=None)
    roots: tuple[str, ...] = ()
    shown: Callable[[str], Iterator[Kept]] = field(repr=False, default=lambda run_id: iter(()))
    found: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """Every cell as a dict, by its run id, in the order of `cells`."""
        return {str(cell["run_id"]): cell for cell in self.cells.to_dict("records")}  # type: ignore[misc]

    @cached_property
    def defended(self) -> bool:
        """Whether any system has a defense; where none has, `undefended` tells nothing apart."""
        return bool((self.cells["defense"] != "none").any())

    @cached_property
    def budgets(self) -> dict[str, tuple[float | None, str]]:
        """Radius in full (None without one) and norm, by the words that tables are grouped by; the words tell apart."""
        return {str(cell["budget"]): (radius_of(cell), str(cell["norm"])) for cell in self.known.values()}

    def examples(self, run_id: str) -> pd.DataFrame:
        """The per-example rows of one cell, sorted by the example's `index`."""
        return self.load(run_id)

    def columns(self, run_id: str) -> Columns:
        """The same as arrays by name: what a table over very many cells asks for."""
        return arrays_of(self.load(run_id)) if self.arrays is None else self.arrays(run_id)

    def pictures(self, run_id: str) -> Iterator[Kept]:
        """The pictures that are kept of a cell, some at a time; raises BadData where they cannot be read."""
        return self.shown(run_id)


def once(function: Callable[[Results], T]) -> Callable[[Results], T]:
    """What a function finds in a run, found once: several tables rest on it, none changes it."""

    @wraps(function)
    def known(run: Results) -> T:
        if function.__qualname__ not in run.found:
            run.found[function.__qualname__] = function(run)
        return run.found[function.__qualname__]  # type: ignore[no-any-return]

    return known


def radius_of(cell: Mapping[Any, Any]) -> float | None:
    """The radius of a cell's budget in full; None where it has none."""
    eps = cell.get("eps")
    return None if eps is None or pd.isna(eps) else float(eps)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector: cells make no cycles, and it would go through millions of them in vain."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def read(paths: Sequence[Path]) -> Results:
    """One `Results` from one or several run folders; a cell that stands in several of them is counted once.

    Raises BadData where a folder holds no sweep.json, or where no cell can be read at all.
    """
    if not paths:
        raise BadData("expected at least one run folder, got none; name the folder `robustsuite run` wrote")
    sweeps = [read_sweep(Path(path)) for path in paths]
    rows: dict[str, dict[str, Any]] = {}
    held = Held()
    skipped: list[str] = []
    absent = foreign = 0
    unfinished: list[str] = []
    shares: list[Part] = []
    for path, sweep in zip(map(Path, paths), sweeps, strict=True):
        examples, planned, there = Examples(path, HOLDS), set(sweep.cells or ()), set[str]()
        whose = {name: len(shares) + i for i, part in enumerate(sweep.parts) for name in part.cells or ()}
        for cell in cells_of(path, examples):
            there.add(cell.name)
            # Cells of an earlier plan would be mixed into this one's worst cases, other image counts and all.
            if cell.record is None:
                skipped.append(f"{cell.name}: {cell.reason}")
            elif planned and cell.name not in planned:
                foreign += 1
            elif cell.name not in rows:
                rows[cell.name] = _row(cell, whose.get(cell.name, len(shares)))
                held.put(path, cell, examples)
        missing = [name for name in sweep.cells or () if name not in there]
        absent += len(set(missing))
        unfinished += [sweep.planned[name] for name in missing if name in sweep.planned]
        shares += sweep.shares()
    if not rows:
        why = f" that can be read ({len(skipped)} cannot: {skipped[0]})" if skipped else ""
        raise BadData(f"expected finished cells{why}, got none in {[str(p) for p in paths]}; run the sweep first")
    was = tell_apart(list(rows.values()), shares)
    artefacts, transfers, damaged = read_artefacts(paths)
    unique = dict.fromkeys(s.title or s.name or Path(p).name for s, p in zip(sweeps, paths, strict=True))
    notes = dict.fromkeys(s.note for s in sweeps)
    ordered = _ordered(rows.values(), sweeps, was)
    cells = _labelled(ordered, shares)
    run = Results(
        title=" + ".join(unique),
        note="; ".join(note for note in notes if note),
        cells=cells,
        skipped=tuple(sorted([*skipped, *damaged])),
        absent=absent,
        unfinished=tuple(unfinished),
        foreign=foreign,
        artefacts=tuple(artefacts),
        transfers=tuple(pair for pair in transfers if _about(pair, rows)),
        bills=tuple(dict.fromkeys(bill for sweep in sweeps for bill in sweep.bills)),
        shares=tuple(shares),
        classes=class_names(zip(cells["dataset"], ordered["share"], ordered["record_words"], strict=True), shares),
        load=held.frame,
        arrays=held.columns,
        roots=tuple(filter(None, map(_root, map(Path, paths)))),
        shown=held.pictures,
    )
    return _judged(run)


def _about(pair: Transfer, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether both cells are of this run, and the pictures those that are kept of it."""
    source = rows.get(pair.source)
    return pair.target in rows and source is not None and source["record"].pictures_sha256 == pair.pictures_sha256


def _root(path: Path) -> str:
    """The root of a run's seal; '' where it has none that can be read, which `verify` says."""
    try:
        seal = read_seal(path)
    except BadData:
        return ""
    return seal.root if seal is not None and seal.whole() else ""


def _judged(run: Results) -> Results:
    """The run with the flags that its cells raise against one another, and with a grade and what it rests on a cell."""
    found, known = grades(run.known.values(), run.columns, run.transfers), run.known
    for run_id, graded in found.items():
        known[run_id]["flags"] = [*known[run_id]["flags"], *(flag.facts() for flag in graded.flags)]
        known[run_id] |= {"grade": graded.grade, "screening": graded.screening}
    cells = run.cells.copy()
    for name in ("flags", "grade", "screening"):
        cells[name] = pd.Series([cell[name] for cell in known.values()], index=cells.index, dtype=object)
    judged = replace(run, cells=cells)
    judged.__dict__["known"] = known  # of very many cells, not made anew
    return judged


def _labelled(cells: pd.DataFrame, shares: Sequence[Part]) -> pd.DataFrame:
    """The cells under what tables call their model, data, defense, attack and shift; `asked` keeps the words."""
    rows: list[dict[Any, Any]] = cells[[*LABELLED, "threat", "record", "record_words", "share"]].to_dict("records")
    now: dict[tuple[int, str, str], set[str]] = {}
    for row in rows:
        for axis, words in row["record_words"].items():
            if words != row[axis]:
                now.setdefault((row["share"], axis, words), set()).add(row[axis])
    names: dict[str, dict[str, str]] = {}
    for i, share in reversed(list(enumerate(shares))):  # of two names for one entry the first run's holds
        for axis, said in share.names.items():
            for words, name in said.items():
                names.setdefault(axis, {}).update(dict.fromkeys(now.get((i, axis, words), {words}), name))
    found = labels(rows, names)
    new = [called(row, found) for row in rows]
    asked = pd.Series([words_of(row) for row in rows], index=cells.index, dtype=object)
    cells = cells.drop(columns="record_words")
    return cells.assign(**{name: [row[name] for row in new] for name in new[0]}, asked=asked)


def _row(cell: Found, share: int) -> dict[str, Any]:
    assert cell.record is not None
    row = flat(cell.record)
    row["flags"] += [flag.model_dump() for flag in cell.audit.flags] if cell.audit else []
    return row | {"share": share, "record_words": {axis: row[axis] or "" for axis in LABELLED}}


def _ordered(
    rows: Iterable[Mapping[str, Any]], sweeps: Sequence[SweepFacts], was: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """The rows in the order in which sweeps list their entries. was: what they call those that have other words now."""
    known = list(rows)
    others = ("flags", "packages", "canaries", "dirty", "record", "record_words", "share")
    columns: dict[str, Any] = {name: pd.Series([_text(row.get(name)) for row in known], dtype=object) for name in _TEXT}
    columns |= {name: pd.Series([_number(row.get(name)) for row in known], dtype="float64") for name in _NUMBERS}
    columns |= {name: pd.Series([row.get(name) for row in known], dtype=object) for name in others}
    columns["seed"] = columns["seed"].fillna(0).astype("int64")
    frame = pd.DataFrame(columns)
    keys = pd.DataFrame({axis: _rank(frame[axis], _listed(axis, sweeps), was.get(axis, {})) for axis in AXES})
    keys["run_id"] = frame["run_id"]
    return frame.loc[keys.sort_values([*AXES, "run_id"], kind="stable").index].reset_index(drop=True)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _rank(values: pd.Series, listed: Sequence[str], was: Mapping[str, str]) -> list[tuple[int, Any]]:
    place = {name: position for position, name in enumerate(listed)}
    if values.dtype != object:
        return [(0, -1.0 if pd.isna(v) else float(v)) for v in values]
    return [(place.get(was.get(v, v), len(place)), v) for v in values]


def _listed(axis: str, sweeps: Sequence[SweepFacts]) -> list[str]:
    found: dict[str, None] = {"": None, "clean": None} if axis == "shift" else {}
    for sweep in sweeps:
        if axis == "threat":
            found |= dict.fromkeys(sweep.threats)
        elif axis == "attack":
            for names in sweep.threats.values():
                found |= dict.fromkeys(names)
        elif axis in _LISTED:
            found |= dict.fromkeys(getattr(sweep, _LISTED[axis]))
    return list(found)
