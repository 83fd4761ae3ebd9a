"""What a run has tested, system by system: each threat's result, each known class of attack, and how far both carry.

A number counts as tested where no check doubts it and it is no screening; every other one says what it is instead. What
nobody played, what was refused, failed or is absent, and what drew noise alone is not tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from robustsuite.config.taxonomy import NIST, OURS, TRANSFER
from robustsuite.integrity.checks import GRADES, grade
from robustsuite.integrity.strength import FLOOR, families, few, transferred

from ..read.runs import Results, once
from .kinds import Score, rate
from .ranked import declared
from .scores import cell_scores, flag_names, headline, measured_as
from .tables import corruption_errors
from .worst import GROUP, survivals

TESTED, SCREENED, DOUBTED, UNFOUNDED, UNTESTED = "tested", "screening", "in doubt", "not established", "not tested"
STANDINGS = (TESTED, SCREENED, DOUBTED, UNFOUNDED, UNTESTED)
"""From the best: sound; sound, of few images or a short attack; with a warning; failed a check; no number at all."""

UNTOUCHED = (("shift", True), ("evasion", False), ("certification", False))
"""Scenarios, and whether of a shift set, in which `clean_accuracy` is of the system and the data set as they are."""

OF_ATTACKS = ("weak_alone", "one_family")
"""Flags that say nothing of the accuracy on clean pictures."""

Cell = Mapping[Any, Any]


class System(NamedTuple):
    """What is tested: a model behind its defenses, on one data set, of one seed."""

    dataset: str
    model: str
    seed: int
    defense: str


@dataclass(frozen=True)
class Line:
    """One result: of a system, under one threat or shift set (`what`), by `means` (attacks or variants).

    better: which way is good for the defender. notes: what doubts it, and what is missing from it.
    """

    system: System
    what: str
    means: tuple[str, ...]
    score: Score
    grade: str
    screening: str
    better: str = "more"
    cell: Cell | None = None
    families: tuple[str, ...] = ()
    nist: tuple[str, ...] = ()
    atlas: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def standing(self) -> str:
        """How far the number carries."""
        return standing(self.grade, self.screening)


class Covered(NamedTuple):
    """How far a class of attacks was tested on a system, under which threats, and what stands in the way."""

    name: str
    system: System
    standing: str
    under: tuple[str, ...]
    why: str


def standing(grade: str, screening: str) -> str:
    """How far a number of this grade carries; without a grade, not at all."""
    if grade not in ("CERTIFIED", "SOUND"):
        return DOUBTED if grade == "PROVISIONAL" else UNFOUNDED
    return SCREENED if screening else TESTED


def systems(run: Results) -> list[System]:
    """Every system of the run, in its order."""
    return list(dict.fromkeys(map(system_of, run.known.values())))


def system_of(cell: Cell) -> System:
    """The system that a cell is about."""
    return System(*(cell[name] for name in System._fields))


def ids_of(cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of NIST and the techniques of ATLAS that a cell's attack is of, as its record says; () where not.

    An attack by gradients that had none of the system's own was a transfer, whatever its card names.
    """
    attack = cell["record"].attack
    if attack is None or not attack.nist:
        return (), attack.atlas if attack else ()
    ids = TRANSFER if cell["scenario"] == "evasion" and transferred(cell["record"]) else None
    return (ids["nist"], ids["atlas"]) if ids else (attack.nist, attack.atlas)


def classes(run: Results) -> list[Covered]:
    """A row a class of NIST and system, in their order: the best of its attacks, and why it is no better.

    A proof is no attack: it bounds what one can do inside its ball, and that alone; of a class it tests nothing.
    """
    known = systems(run)
    cells: dict[tuple[str, System], list[Cell]] = {}
    for cell in run.known.values():
        for name in ids_of(cell)[0]:
            cells.setdefault((name, system_of(cell)), []).append(cell)
    met = {name for name, _ in cells}
    pairs = [(name, system) for name in NIST for system in known]
    return [_covered(run, *pair, cells.get(pair, ()), pair[0] in met) for pair in pairs]


def _covered(run: Results, name: str, system: System, cells: Sequence[Cell], elsewhere: bool) -> Covered:
    if not cells:
        where = "this system names this class, one of another does" if elsewhere else "this run names this class"
        ours = "" if name in OURS else "; this suite brings no attack of it"
        return Covered(name, system, UNTESTED, (), f"no cell of {where}{ours}")
    played = [cell for cell in cells if cell["scenario"] != "certification"]
    if not played:
        balls = ", ".join(dict.fromkeys(f"{cell['budget']} ({cell['threat']})" for cell in cells))
        return Covered(name, system, UNTESTED, (), f"no attack was played; proofs alone were asked for, within {balls}")
    found = [(*_carries(run, cell), str(cell["threat"])) for cell in played]
    best = min((where for where, *_ in found), key=STANDINGS.index)
    alike = [(why, threat) for where, why, threat in found if where == best]
    whys, threats = (dict.fromkeys(part for part in parts if part) for parts in zip(*alike, strict=True))
    return Covered(name, system, best, tuple(threats), "; ".join(whys))


def _carries(run: Results, cell: Cell) -> tuple[str, str]:
    """How far one cell carries, and why no further."""
    source = measured_as(cell, run.known)
    if source is None:
        return UNTESTED, f"{cell['status']}: {cell['sentence'] or 'no reason is stored'}"
    if _floor(cell):
        return UNTESTED, f"{cell['attack']} alone, which is the floor and no attack"
    few_or_short = str(cell["screening"])
    found = standing(str(cell["grade"]), few_or_short)
    return found, {SCREENED: few_or_short, TESTED: ""}.get(found, _flags(source))


def _floor(cell: Cell) -> bool:
    """Whether the attack only draws pictures: what others are held against, and tested by nobody."""
    return set(cell["record"].attack.family) == {FLOOR}


@once
def under_attack(run: Results) -> list[Line]:
    """The results of every system under every threat: all attacks at once in evasion, else the one that decides."""
    unions = {(*survival.group, survival.defense): survival for survival in survivals(run)}
    cells = run.cells.loc[run.cells["attack"] != "", ["run_id", "scenario", *GROUP, "defense"]]
    lines = []
    for key, part in cells.groupby(["scenario", *GROUP, "defense"], sort=False):
        mine = [(cell, measured_as(cell, run.known)) for cell in map(run.known.__getitem__, part["run_id"])]
        met = [(cell, source) for cell, source in mine if source is not None]
        lost = [f"without {cell['attack']}: {cell['status']}" for cell, source in mine if source is None]
        union = unions.get(key[1:]) if key[0] == "evasion" else None
        if union is not None:
            first = next(pair for pair in met if pair[0]["attack"] == union.strongest)
            score = rate("robust_accuracy", union.robust)
            lines.append(_line(met, *first, score, union.grade, union.screening, lost))
        elif found := _deciding(run, met):
            lines.append(_line(met, *found, str(found[0]["grade"]), str(found[0]["screening"]), lost))
    return lines


def _deciding(run: Results, met: Sequence[tuple[Cell, Cell]]) -> tuple[Cell, Cell, Score] | None:
    """The cell whose headline hurts the system most (of proofs, proves most), of those that failed no check."""
    scored = []
    for cell, source in met:
        scores = cell_scores(source, run.columns(str(source["run_id"])))
        score = next((s for s in scores if s.metric == headline(source)), scores[0] if scores else None)
        if score is not None:
            scored.append((cell, source, score))
    sound = [entry for entry in scored if entry[0]["grade"] != "INVALID"] or scored
    if not sound:
        return None
    source = sound[0][1]
    most = (_better(source) == "less") != (source["record"].scenario.joins == "any")
    return (max if most else min)(sound, key=lambda entry: entry[2].value)


def _better(source: Cell) -> str:
    """Which way the headline is good for the defender; more where a record does not say."""
    about = declared(source["record"])
    return about[0].better if about else "more"


def _line(
    met: Sequence[tuple[Cell, Cell]], cell: Cell, source: Cell, score: Score, grade: str, screening: str,
    lost: Sequence[str],
) -> Line:  # fmt: skip
    """What was found under one threat; `cell` decides, with what `source` measured."""
    played, flagged = [own for own, _ in met], [(own, where) for own, where in met if where["flags"]]
    ids = [ids_of(own) for own in played if not _floor(own)]
    searched = sorted({family for own in played for family in families(own["record"])})
    flags = [f"{own['attack']}: {_flags(where)}" for own, where in flagged]
    inert = ["inert: the undefended number"] if cell["status"] == "inert" else []
    return Line(
        system_of(cell), str(cell["threat"]), tuple(str(own["attack"]) for own in played), score, grade, screening,
        _better(source), cell, tuple(searched), tuple(dict.fromkeys(i for nist, _ in ids for i in nist)),
        tuple(dict.fromkeys(i for _, atlas in ids for i in atlas)), (*flags, *inert, *lost),
    )  # fmt: skip


def _flags(cell: Cell) -> str:
    return flag_names(cell).replace(";", ", ")


def unattacked(run: Results) -> Iterator[Line]:
    """The accuracy of every system on its clean pictures, from the soundest and then the largest of its cells."""
    known: dict[System, list[tuple[int, int, list[Cell], Score]]] = {}
    for cell in run.known.values():
        if cell["status"] == "done" and (cell["scenario"], bool(cell["shift"])) in UNTOUCHED:
            scores = cell_scores(cell, run.columns(str(cell["run_id"])))
            score = next((s for s in scores if s.metric == "clean_accuracy"), None)
            if score is not None:
                flags = [flag for flag in cell["flags"] if flag["name"] not in OF_ATTACKS]
                known.setdefault(system_of(cell), []).append((GRADES.index(grade(flags)), -score.n, flags, score))
    for system, found in known.items():
        place, _, flags, score = min(found, key=lambda entry: entry[:2])
        notes = tuple(dict.fromkeys(str(flag["name"]) for flag in flags))
        yield Line(system, "clean pictures", (), score, GRADES[place], "; ".join(few(score.n)), notes=notes)


def shifted(run: Results) -> Iterator[Line]:
    """The results of every system on every shift set: the mean error of graded corruptions, else the worst variant."""
    errors = corruption_errors(run)
    means = {(row["shift"], *(row[name] for name in System._fields)): row
             for row in errors[errors["corruption"] == "mean"].to_dict("records")}  # fmt: skip
    cells = run.cells[(run.cells["scenario"] == "shift") & ~run.cells["shift"].isin(["", "clean"])]
    for key, part in cells.groupby(["shift", *System._fields], sort=False):
        mine = [(cell, measured_as(cell, run.known)) for cell in map(run.known.__getitem__, part["run_id"])]
        met = [(cell, source) for cell, source in mine if source is not None]
        lost = [f"without {_variant(cell)}: {cell['status']}" for cell, source in mine if source is None]
        worst = max((str(cell["grade"]) for cell, _ in met), key=GRADES.index, default="")
        flags = dict.fromkeys(_flags(source) for _, source in met if source["flags"])
        graded = bool(part["severity"].notna().any())
        score = _mean_error(means.get(key)) if graded else _worst_variant(run, met)
        if score is not None:
            yield Line(system_of(mine[0][0]), f"shift set {key[0]}", _variants([cell for cell, _ in met]), score, worst,
                       "; ".join(few(score.n)), "less" if graded else "more", notes=(*flags, *lost))  # fmt: skip


def _mean_error(mean: Cell | None) -> Score | None:
    """A row of `corruption_errors` as a score; k is no count, and says that it is a rate."""
    return Score("mean_error", mean["error"], mean["lo"], mean["hi"], 0, int(mean["n"])) if mean else None


def _worst_variant(run: Results, met: Sequence[tuple[Cell, Cell]]) -> Score | None:
    found = [
        (score, _variant(cell))
        for cell, source in met
        for score in cell_scores(source, run.columns(str(source["run_id"])))
        if score.metric == "accuracy"
    ]
    worst = min(found, key=lambda entry: entry[0].value, default=None)
    return replace(worst[0], metric=f"accuracy on {worst[1]}") if worst else None


def _variants(cells: Sequence[Cell]) -> tuple[str, ...]:
    """What a set was made of: its corruptions, and their severities where they have some."""
    names = dict.fromkeys(str(cell["corruption"]).replace("_", " ") for cell in cells)
    severities = sorted({float(cell["severity"]) for cell in cells if not math.isnan(cell["severity"])})
    return (*names, *([f"severity {', '.join(f'{grade:g}' for grade in severities)}"] if severities else []))


def _variant(cell: Cell) -> str:
    name, severity = str(cell["corruption"]).replace("_", " "), float(cell["severity"])
    return name if math.isnan(severity) else f"{name} {severity:g}"
