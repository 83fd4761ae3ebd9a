"""Systems against each other under one threat: who stands, between which bounds, and which differences are real.

A system is a model behind a defense. What it holds under every attack at once is an upper bound of its robustness, what
a certifier proves at the same radius a lower one. Systems are compared on the same images by the exact McNemar test,
Holm-corrected over the board; a rank is a range, and equal ranges are ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.errors import BadData
from robustsuite.maths import stats
from robustsuite.records.schema import ThreatFacts

from ..measure.grades import DOUBTED
from ..measure.ranked import contests, declared, ranges
from ..measure.scores import Score, certified, flag_names, measured_as, rate
from ..measure.worst import Survival, comparable, ranked, survivals, tested
from ..read.runs import Results
from ..render.text import plain
from .bounds import SYSTEM, left_standing, proven
from .published import Published

BOARD = ("threat", "budget", "goal", "dataset")
SAME_EPS = 0.02
"""Relative difference up to which a published radius (0.031) stands on a board (8/255); its note says so."""


@dataclass(frozen=True)
class Standing:
    """One system on a board. `upper` is what attacks leave, `lower` what is proven; `ranks` is (0, 0) where unranked.

    `of`: the most images that one of its attacks met; the union is over those that all met.
    `attacks` are (attack, run id, share it leaves); `proof` is (certifier, run id). On a board of proofs `upper` is
    about the images of the proof that every attack met, and `strongest` names those attacks.
    """

    name: str
    model: str
    defense: str
    seed: int
    upper: Score | None
    lower: Score | None
    clean: Score | None
    attacks: tuple[tuple[str, str, float], ...]
    proof: tuple[str, str] = ("", "")
    strongest: str = ""
    missing: str = ""
    flags: str = ""
    struck: bool = False
    inert: bool = False
    ranks: tuple[int, int] = (0, 0)
    unranked: str = ""
    grade: str = ""
    screening: str = ""
    of: int = 0


@dataclass(frozen=True)
class Board:
    """One table of a leaderboard: the ranked standings, every pair's test, and what others published for it.

    metric: the score that ranks a scenario that is neither evasion nor certification; it stands as `upper`. better:
    which way is good for the defender. facts: the threat as a record holds it, None where all rows are published ones.
    """

    threat: str
    scenario: str
    access: str
    budget: str
    goal: str
    dataset: str
    standings: tuple[Standing, ...]
    pairs: tuple[tuple[str, str, stats.Paired, float], ...] = ()
    published: tuple[Published, ...] = ()
    eps: float | None = None
    norm: str = ""
    metric: str = ""
    better: str = "more"
    facts: ThreatFacts | None = None


def boards(run: Results, published: Sequence[Published] = ()) -> list[Board]:
    """Every board of the run, the most telling first: evasion by who sees most and ranks most systems, certification,
    other scenarios, then boards of published rows alone.
    """
    found = [*sorted(_evasion(run), key=_telling), *_certification(run), *_others(run)]
    placed: set[int] = set()
    data = {cell["dataset"]: cell["record"].data.name.partition("(")[0] for cell in run.known.values()}
    for i, board in enumerate(found):
        here = [p for p in published if board.scenario == "evasion" and _belongs(p, board, data[board.dataset])]
        placed |= set(map(id, here))
        found[i] = replace(board, published=tuple(sorted(here, key=lambda p: -p.robust)))
    rest: dict[tuple[str, str], list[Published]] = {}
    for row in published:
        if id(row) not in placed:
            budget = f"{row.norm}(eps={_eps(row.eps or 0, row.norm)})" if row.norm else "common corruptions"
            rest.setdefault((budget, row.dataset), []).append(row)
    for (budget, dataset), rows in rest.items():
        ordered = tuple(sorted(rows, key=lambda p: -p.robust))
        found.append(Board("published", "published", "", budget, "", dataset, (), (), ordered))
    return found


def _telling(board: Board) -> tuple[bool, int, int]:
    """Less is more: whether anything is ranked, kinds of access, systems that are ranked."""
    ranked = sum(s.ranks[0] > 0 for s in board.standings)
    return not ranked, -len(board.facts.access) if board.facts else 0, -ranked


def _eps(eps: float, norm: str) -> str:
    levels = eps * 255
    return f"{levels:.0f}/255" if norm == "linf" and abs(levels - round(levels)) < 1e-6 else f"{eps:g}"


def _belongs(row: Published, board: Board, data: str) -> bool:
    eps = board.eps
    near = eps is not None and row.eps is not None and abs(row.eps - eps) <= SAME_EPS * eps
    return near and row.norm == board.norm and row.dataset == data


def _evasion(run: Results) -> Iterator[Board]:
    cells = run.cells[run.cells["scenario"] == "evasion"]
    held: dict[tuple[Any, ...], dict[tuple[Any, ...], Survival]] = {}
    for survival in survivals(run):
        threat, budget, goal, dataset, model, seed = survival.group
        held.setdefault((threat, budget, goal, dataset), {})[model, survival.defense, seed] = survival
    for key, part in cells.groupby(list(BOARD), sort=False):
        members: dict[str, Survival] = {}
        standings: dict[str, Standing] = {}
        for system, mine in part.groupby(list(SYSTEM), sort=False):
            stands = held.get(key, {}).get(system)
            if stands is not None:
                name = _name(run, system)
                members[name] = replace(stands, defense=name)
                standings[name] = _attacked(run, name, system, stands, mine)
                lower, proof = proven(run, _asked(key, system))
                standings[name] = replace(standings[name], lower=lower, proof=proof)
        yield _board(run, key, part, members, standings)


def _asked(key: tuple[Any, ...], system: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((*BOARD, *SYSTEM), (*key, *system), strict=True))


def _name(run: Results, system: tuple[Any, ...]) -> str:
    """Defense, model and seed, each where the run has several; where it has one of each, its model."""
    model, defense, seed = system
    parts = [plain(str(defense))] if run.defended else []
    parts += [str(model)] if run.cells["model"].nunique() > 1 or not parts else []
    return " · ".join([*parts, *([f"seed {seed}"] if run.cells["seed"].nunique() > 1 else [])])


def _attacked(run: Results, name: str, system: tuple[Any, ...], survival: Survival, cells: pd.DataFrame) -> Standing:
    sources = [(cell["attack"], measured_as(cell, run.known)) for cell in cells.to_dict("records")]
    attacks = [(attack, str(s["run_id"]), survival.alone[attack]) for attack, s in sources if s is not None]
    return Standing(
        name, str(system[0]), str(system[1]), int(system[2]), rate("robust_accuracy", survival.robust), None,
        rate("clean_accuracy", survival.clean), tuple(attacks), strongest=survival.strongest,
        missing="; ".join(f"{attack}: {why}" for attack, why in survival.missing.items()),
        flags="; ".join(f"{attack}: {names}" for attack, names in survival.flags.items()), struck=survival.struck,
        inert=survival.inert, grade=survival.grade, screening=survival.screening,
        of=survival.met,
    )  # fmt: skip


def _board(
    run: Results, key: tuple[Any, ...], cells: pd.DataFrame, members: Mapping[str, Survival],
    standings: Mapping[str, Standing],
) -> Board:  # fmt: skip
    _same_pictures(run, key, standings.values())
    contestants, reasons = comparable(list(members.values()))
    ranks = ranked(contestants)
    placed = [replace(s, ranks=ranks.get(s.name, (0, 0)), unranked=reasons.get(s.name, "")) for s in standings.values()]
    pairs = tuple((a.defense, b.defense, test, p) for a, b, test, p in tested(contestants))
    first, (threat, budget, goal, dataset) = cells.iloc[0], map(str, key)
    ordered = tuple(sorted(placed, key=_order))
    eps, norm = run.budgets[budget]
    return Board(threat, first["scenario"], first["access"], budget, goal, dataset, ordered, pairs, eps=eps, norm=norm,
                 facts=first["record"].threat)  # fmt: skip


def _order(standing: Standing) -> tuple[int, float]:
    number = standing.upper if standing.attacks else standing.lower
    return standing.ranks[0] or 10**6, -(number.value if number else -1.0)


def _same_pictures(run: Results, key: tuple[Any, ...], standings: Any) -> None:
    """Raises BadData where two systems' images of one index have other labels: they are not the same images."""
    known = pd.Series(dtype=np.int64)
    for standing in standings:
        run_id = standing.attacks[0][1] if standing.attacks else standing.proof[1]
        labels = run.examples(run_id).set_index("index")["label"]
        both = known.index.intersection(labels.index)
        if not (known.loc[both] == labels.loc[both]).all():
            raise BadData(
                f"expected the same images of {key[3]} in every run, got other labels for {standing.name}; give each "
                f"set of images a data set name of its own"
            )
        known = labels.combine_first(known)


def _certification(run: Results) -> Iterator[Board]:
    cells = run.cells[run.cells["scenario"] == "certification"]
    for key, part in cells.groupby(list(BOARD), sort=False):
        members: dict[str, Survival] = {}
        standings: dict[str, Standing] = {}
        for system, mine in part.groupby(list(SYSTEM), sort=False):
            found = [(cell, measured_as(cell, run.known)) for cell in mine.to_dict("records")]
            measured = [(cell, source) for cell, source in found if source is not None]
            if measured:
                name = _name(run, system)
                members[name], standings[name] = _certified(run, name, key, system, measured)
        yield _board(run, key, part, members, standings)


def _others(run: Results) -> Iterator[Board]:
    """Boards of scenarios whose attacks are not joined example by example; none of maps, which attack nobody."""
    apart = [
        record.threat is not None and not record.scenario.joins and record.scenario.name != "explanation"
        for record in run.cells["record"]
    ]
    for key, part in run.cells[apart].groupby(list(BOARD), sort=False):
        members = list(contests(run, part, SYSTEM))
        if not members:
            continue
        standings = [
            Standing(
                _name(run, m.system), str(m.system[0]), str(m.system[1]), int(m.system[2]), m.score, None, None,
                m.attacks, strongest=str(m.cell["attack"]), flags=flag_names(m.cell), ranks=ranks,
                struck=m.cell["grade"] == "INVALID", inert=m.cell["status"] == "inert", unranked=m.unranked,
                grade=str(m.cell["grade"]), screening=str(m.cell["screening"]),
            ) for m, ranks in zip(members, ranges(members), strict=True)
        ]  # fmt: skip
        _same_pictures(run, key, standings)
        first, (threat, budget, goal, dataset) = part.iloc[0], map(str, key)
        ordered = tuple(sorted(standings, key=lambda s: (s.ranks[0] or 10**6, s.name)))
        record, about = first["record"], declared(members[0].source["record"])
        yield Board(threat, first["scenario"], first["access"], budget, goal, dataset, ordered,
                    metric=str(record.scenario.headline), better=about[0].better if about else "more",
                    facts=record.threat)  # fmt: skip


def _certified(
    run: Results, name: str, key: tuple[Any, ...], system: tuple[Any, ...],
    measured: Sequence[tuple[Mapping[Any, Any], Mapping[Any, Any]]],
) -> tuple[Survival, Standing]:  # fmt: skip
    eps = run.budgets[str(key[1])][0] or 0.0
    proofs = []
    for cell, source in measured:
        rows = run.examples(source["run_id"]).set_index("index")
        proofs.append((pd.Series(certified(rows, eps), index=rows.index), rows, cell, str(source["run_id"])))
    stands, rows, cell, run_id = max(proofs, key=lambda p: (p[2]["grade"] not in DOUBTED, len(p[0]), p[0].mean()))
    clean = (rows["prediction"] == rows["label"]) & ~rows["abstained"].astype(bool)
    flags, inert = {"proof": flag_names(cell)} if cell["flags"] else {}, cell["status"] == "inert"
    # Proofs of different certifiers bound the same quantity from the same side: one name, so that all may be ranked.
    survival = Survival((), name, stands, clean, {"proof": float(stands.mean())}, {}, flags, inert, cell["grade"])
    upper, attacks = left_standing(run, _asked(key, system), stands.index)
    return survival, Standing(
        name, str(system[0]), str(system[1]), int(system[2]), upper, rate("certified_accuracy", stands),
        rate("clean_accuracy", clean), (), (str(cell["attack"]), run_id), strongest=attacks,
        flags="; ".join(flags.values()), struck=survival.struck, inert=inert,
        grade=str(cell["grade"]), screening=str(cell["screening"]),
    )  # fmt: skip
