"""What a run has tested, system by system: each threat's result, each known class of attack, and how far both carry.

A number counts as tested where no check doubts it and it is no screening; every other one says what it is instead. What
nobody played, what was refused, failed or is absent, and what drew noise alone is not tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from robustsuite.config.taxonomy import NIST, OURS, TRANSFER
from robustsuite.integrity.checks import GRADES, grade
from robustsuite.integrity.strength import FLOOR, families, few, transferred

from ..read.runs import Results
from .kinds import Score, rate
from .ranked import declared
from .scores import cell_scores, flag_names, headline, measured_as
from .tables import corruption_errors
from .worst import GROUP, survivals

TESTED, SCREENED, DOUBTED, UNFOUNDED, UNTESTED = "tested", "screening", "in doubt", "not established", "not tested"
STANDINGS = (TESTED, SCREENED, DOUBTED, UNFOUNDED, UNTESTED)
"""From the best: sound; sound, of few images or a short attack; with a warning; failed a check; no number at all."""

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
    """A row a class of NIST and system, in their order: the best of what was played, and why it is no better."""
    known = systems(run)
    cells: dict[tuple[str, System], list[Cell]] = {}
    for cell in run.known.values():
        for name in ids_of(cell)[0]:
            cells.setdefault((name, system_of(cell)), []).append(cell)
    met = {name for name, _ in cells}
    pairs = [(name, system) for name in NIST for system in known]
    return [_covered(run, *pair, cells.get(pair, ()), pair[0] in met) for pair in pairs]


def _covered(run: Results, name: str, system: System, cells: Sequence[Cell], elsewhere: bool) -> Covered:
    """Attacks decide, be they in doubt: a proof stands for a class where none of its attacks has a number."""
    if not cells:
        where = "was played on this system, while others met one" if elsewhere else "is in this run"
        none = "" if name in OURS else "; this suite brings none"
        return Covered(name, system, UNTESTED, (), f"no attack that names this class {where}{none}")
    attacks = [cell for cell in cells if cell["scenario"] != "certification"]
    measured = [cell for cell in attacks if measured_as(cell, run.known) is not None and not _floor(cell)]
    found = [(*_carries(run, cell), str(cell["threat"])) for cell in measured or cells]
    best = min((where for where, *_ in found), key=STANDINGS.index)
    why = dict.fromkeys(why for where, why, _ in found if where == best and why)
    return Covered(name, system, best, tuple(dict.fromkeys(threat for where, _, threat in found if where == best)),
                   "; ".join(why))  # fmt: skip


def _carries(run: Results, cell: Cell) -> tuple[str, str]:
    """How far one cell carries, and why no further."""
    source = measured_as(cell, run.known)
    if source is None:
        return UNTESTED, f"{cell['status']}: {cell['sentence'] or 'no reason is stored'}"
    if _floor(cell):
        return UNTESTED, f"{cell['attack']} alone, which is the floor and no attack"
    few_or_short = _screening(cell, source)
    found = standing(str(cell["grade"]), few_or_short)
    return found, {SCREENED: few_or_short, TESTED: ""}.get(found, _flags(source))


def _floor(cell: Cell) -> bool:
    """Whether the attack only draws pictures: what others are held against, and tested by nobody."""
    return set(cell["record"].attack.family) == {FLOOR}


def _screening(cell: Cell, source: Cell) -> str:
    """Why a number is a screening: as its grade says, and in scenarios that have no such label by its images."""
    return str(cell["screening"]) or "; ".join(few(int(source["n"])))


def under_attack(run: Results) -> Iterator[Line]:
    """The results of every system under every threat: all attacks at once in evasion, else the one that decides."""
    unions = {(*survival.group, survival.defense): survival for survival in survivals(run)}
    cells = run.cells.loc[run.cells["attack"] != "", ["run_id", "scenario", *GROUP, "defense"]]
    for key, part in cells.groupby(["scenario", *GROUP, "defense"], sort=False):
        mine = [(cell, measured_as(cell, run.known)) for cell in map(run.known.__getitem__, part["run_id"])]
        met = [(cell, source) for cell, source in mine if source is not None]
        lost = [f"without {cell['attack']}: {cell['status']}" for cell, source in mine if source is None]
        union = unions.get(key[1:]) if key[0] == "evasion" else None
        if union is not None:
            first = next(pair for pair in met if pair[0]["attack"] == union.strongest)
            yield _line(met, *first, rate("robust_accuracy", union.robust), union.grade, union.screening, lost)
        elif found := _deciding(run, met):
            yield _line(met, *found, str(found[0]["grade"]), _screening(*found[:2]), lost)


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
        own = cell["scenario"] in ("shift", "evasion", "certification") and cell["shift"] in ("", "clean")
        if own and cell["status"] == "done":
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
        mine = [run.known[run_id] for run_id in part["run_id"]]
        met = [cell for cell in mine if measured_as(cell, run.known) is not None]
        lost = [f"without {_variant(cell)}: {cell['status']}" for cell in mine if measured_as(cell, run.known) is None]
        worst = max((str(cell["grade"]) for cell in met), key=GRADES.index, default="")
        flags = sorted({name for cell in met for name in flag_names(cell).split(";") if name})
        notes = (*([", ".join(flags)] if flags else []), *lost)
        score = _shift_score(run, means.get(key), met, bool(part["severity"].notna().any()))
        if score is not None:
            better = "less" if score.metric == "mean_error" else "more"
            yield Line(System(*key[1:]), f"shift set {key[0]}", _variants(met), score, worst,
                       "; ".join(few(score.n)), better, notes=notes)  # fmt: skip


def _shift_score(run: Results, mean: Cell | None, met: Sequence[Cell], graded: bool) -> Score | None:
    if graded:
        return Score("mean_error", mean["error"], mean["lo"], mean["hi"], 0, int(mean["n"])) if mean else None
    found = []
    for cell in met:
        source = measured_as(cell, run.known)
        scores = cell_scores(source, run.columns(str(source["run_id"]))) if source else []
        found += [(s, _variant(cell)) for s in scores if s.metric == "accuracy"]
    worst = min(found, key=lambda entry: entry[0].value, default=None)
    return replace(worst[0], metric=f"accuracy on {worst[1]}") if worst else None


def _variants(cells: Sequence[Cell]) -> tuple[str, ...]:
    """What a set was made of: its corruptions, and their severities where they have some."""
    names = dict.fromkeys(str(cell["corruption"]).replace("_", " ") for cell in cells)
    severities = sorted({float(cell["severity"]) for cell in cells if not pd.isna(cell["severity"])})
    return (*names, *([f"severity {', '.join(f'{grade:g}' for grade in severities)}"] if severities else []))


def _variant(cell: Cell) -> str:
    graded = "" if pd.isna(cell["severity"]) else f" {cell['severity']:g}"
    return str(cell["corruption"]).replace("_", " ") + graded
