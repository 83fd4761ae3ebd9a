"""What a number under attack rests on: attacks of which families, at their cards' least, on how many images.

One attack that fails leaves everything standing, so a number needs an attack of sufficient strength and a second one
that searches otherwise (Carlini et al., 2019, arXiv:1902.06705; Croce & Hein, 2020, arXiv:2003.01690). Read from
records alone: what an attack is stands there, as its card said when the cell was played.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustsuite.integrity.checks import PUBLISHED, STRONGER, Flag
from robustsuite.records.findings import Transfer
from robustsuite.records.schema import CellRecord

Row = Mapping[Any, Any]
Pictures = Callable[[Row], NDArray[Any]]
"""A cell -> the indices of the pictures that it is about."""

BY_GRADIENTS = frozenset({"gradient", "minimum norm"})
BY_QUESTIONS = frozenset({"score", "decision"})
EVERYWHERE = "exhaustive"
"""It asks about every point of a grid: no second family is needed for what the first may have missed."""

FLOOR = "noise"
"""Of no family that counts: what does no more than draw pictures is what the others are held against."""

NAMED = 3
"""Attacks that a sentence names."""

ADVISED = (
    ("gradient", "apgd", "gradients", ("linf", "l2", "l1")),
    ("minimum norm", "fmn", "gradients", ("linf", "l2", "l1", "l0")),
    ("score", "square", "scores", ("linf", "l2")),
    ("decision", "cgba", "labels", ("l2",)),
    (EVERYWHERE, "grid", "labels", ("spatial",)),
    ("gradient", "transform_pgd", "gradients", ("flow", "elastic", "colour", "jpeg", "fog", "snow")),
    ("gradient", "region_pgd", "gradients", ("patch", "frame")),
)
"""family, an attack of it, what that needs, the sets it works in: what to add where a family is missing."""


def screening(row: Row) -> str:
    """Why a measured cell is a screening: few images, little of a parameter; '' where it is none, or has no threat."""
    judged = row["scenario"] != "shift"
    return "; ".join([*few(int(row["n"])), *shortfalls(row["record"])]) if judged else ""


def united(rows: Iterable[Row], deciding: Row, n: int) -> list[str]:
    """Why a union over n images is a screening: few of them, and no attack at its least; the deciding one is named."""
    weak = all(shortfalls(row["record"]) or not families(row["record"]) for row in rows)
    return [*few(n), *(shortfalls(deciding["record"]) if weak else [])]


def foreign_wins(
    rows: Sequence[Row], transfers: Iterable[Transfer], known: Mapping[str, Row], stands: Iterable[int], n: int
) -> Iterator[tuple[str, Flag]]:
    """E37, of each of a system's cells: which of n images its own attacks leave fall to pictures made against others.

    rows: of one system and threat; stands: the images that all of them leave; known: every cell by its run id.
    """
    own, left = {str(row["run_id"]) for row in rows}, set(map(int, stands))
    won = [pair for pair in transfers if pair.target in own and pair.source in known and left & set(pair.broken)]
    fell = len(left & {example for pair in won for example in pair.broken})
    if not fell:
        return
    level = "fail" if fell > max(2, STRONGER * n) else "warn"
    sources = _listed(called(known[pair.source]) for pair in won)
    words = f"{fell} of {n} images that its own attacks leave fall to pictures made against {sources}"
    for run_id in sorted(own):
        yield run_id, Flag("foreign_wins", words, level)


def called(row: Row) -> str:
    """A cell's system in words: 'resnet under crossmax'."""
    return str(row["model"]) if row["defense"] == "none" else f"{row['model']} under {row['defense']}"


def few(n: int) -> list[str]:
    """['80 images'] where so many are a screening."""
    return [f"{n} images"] if n < PUBLISHED else []


def shortfalls(record: CellRecord) -> list[str]:
    """What the attack had less of than its card's least: 'steps 10 of 20', or of the queries that the threat leaves."""
    attack = record.attack
    if attack is None:
        return []
    had = {name: _had(attack.parameters.get(name), record) for name in attack.least}
    return [f"{name} {had[name] or 'none'} of {least}" for name, least in attack.least.items()
            if not had[name] >= least]  # fmt: skip


def _had(value: Any, record: CellRecord) -> float:
    """A parameter, but no more than the threat leaves; 0 for what is no number."""
    return min(value, _queries(record)) if isinstance(value, int | float) else 0


def _queries(record: CellRecord) -> float:
    """How many questions the threat allows an image."""
    budget = record.threat.budget if record.threat else None
    total = budget.queries_total / max(1, record.data.n) if budget and budget.queries_total else math.inf
    return min(total, budget.queries if budget and budget.queries else math.inf)


def weak(
    rows: Sequence[Row], struck: Collection[str], settled: Collection[str], pictures: Pictures
) -> Iterator[tuple[str, Flag]]:
    """E33, E34: cells whose number rests on too little. rows: measured ones of one system, norm, radius and goal.

    struck: those that failed a check, which nothing rests on. settled: those that no further attack could lower.
    """
    for row in rows:
        if str(row["run_id"]) in settled:
            continue
        sound = [other for other in rows if str(other["run_id"]) not in struck]
        flag = _lacks(row, [other for other in sound if _open(other, row) and _covers(other, row, pictures)])
        if flag is not None:
            yield str(row["run_id"]), flag


def _lacks(row: Row, met: Sequence[Row]) -> Flag | None:
    """What the attacks that this cell's adversary has lack; they are of its own threat but for the second family."""
    first = (BY_GRADIENTS if _gradients(row["record"]) else BY_QUESTIONS) | {EVERYWHERE}
    own = [other for other in met if other["threat"] == row["threat"]]
    names = _listed(str(other["attack"]) for other in own) or f"{row['attack']}, which failed a check,"
    strong = _strong(own)
    less = _listed(f"{other['attack']}: {', '.join(found)}" for other in met if (found := shortfalls(other["record"])))
    below = f" (below the least: {less})" if less else ""
    silent = [str(other["attack"]) for other in met if not other["record"].attack.family]
    below += f" ({_listed(silent)}: no family is stated on the card)" if silent else ""
    if not strong & first:
        kind = "gradient" if first >= BY_GRADIENTS else "query"
        return Flag("weak_alone", f"{names} alone: no {kind} attack at its least{below}; {_advice(row, own, first)}")
    known = strong | _strong(met)
    if len(known) > 1 or EVERYWHERE in known:
        return None
    wanted = {family for family, *_ in ADVISED} - known
    words = f"{names} alone: one family at its least, {min(known)}{below}; {_advice(row, met, wanted)}"
    return Flag("one_family", words)


def _strong(rows: Iterable[Row]) -> set[str]:
    return {family for row in rows if not shortfalls(row["record"]) for family in families(row["record"])}


def _advice(row: Row, met: Sequence[Row], wanted: Collection[str]) -> str:
    """What would mend it, as far as this threat lets it be played: more of what was played, and attacks of ours."""
    record: CellRecord = row["record"]
    short = [other for other in met if families(other["record"]) & set(wanted) and shortfalls(other["record"])]
    raised = [str(o["attack"]) for o in short if set(o["record"].attack.least) <= set(o["record"].attack.parameters)]
    more = [f"play {_listed(raised)} at the least"] if raised else []
    has, played = granted(record), {other["record"].attack.name for other in met}
    if record.threat is not None and record.threat.goal.name in ("untargeted", "targeted"):
        found = [
            f"{attack} ({family})" for family, attack, needs, norms in ADVISED
            if family in wanted and needs in has and row["norm"] in norms and attack not in played
        ]  # fmt: skip
        more += [f"add {' or '.join(found)}"] if found else []
    return ", or ".join(more) or "add one of another family, such as a transfer from the adversary's own network"


def _listed(names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    return ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")


def granted(record: CellRecord) -> set[str]:
    """What the threat hands over of the system, as far as the model shows it."""
    access = set(record.threat.access) if record.threat else set()
    return access if record.model.shows is None else access & {*record.model.shows, "aux_data"}


def _gradients(record: CellRecord) -> bool:
    """Whether this adversary has gradients of the system itself."""
    return bool({"gradients", "weights"} & granted(record))


def transferred(record: CellRecord) -> bool:
    """Whether the attack had no gradients but those of a network of the adversary's own, and needs some."""
    needs = set(record.attack.needs) if record.attack else set()
    return bool({"gradients", "weights"} & needs) and not _gradients(record)


def families(record: CellRecord) -> set[str]:
    """How the attack searched; what it found on a network of the adversary's own is a transfer, whatever it is."""
    attack = record.attack
    if attack is None:
        return set()
    if transferred(record):
        return {"transfer"} if attack.family else set()
    return set(attack.family) - {FLOOR}


def _covers(other: Row, row: Row, pictures: Pictures) -> bool:
    """Whether the other is about all of this cell's pictures."""
    if other["data_sha256"] == row["data_sha256"]:
        return True
    theirs, mine = pictures(other), pictures(row)
    return len(theirs) >= len(mine) and bool(np.isin(mine, theirs).all())


def _open(other: Row, row: Row) -> bool:
    """Whether this cell's adversary could play the other's attack: its own threat's, or one that asks for no more."""
    if other["threat"] == row["threat"]:
        return True
    theirs, mine = other["record"], row["record"]
    return set(theirs.attack.needs) <= granted(mine) and _queries(theirs) <= _queries(mine)
