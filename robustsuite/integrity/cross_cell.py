"""What no cell can know of itself: contradictions between stored cells, and the grade each cell ends with.

A pure function of the store: rows and per-example columns in, flags and grades out; no model is asked. The rules
stand in `checks.py`. McNemar (1947), Psychometrika 12(2), one-sided and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.integrity import strength
from robustsuite.integrity.checks import LARGE, PARITY, SMALL, Flag, grade, level_of, surprising
from robustsuite.maths.stats import clopper_pearson
from robustsuite.records.findings import Transfer

Row = Mapping[Any, Any]
Examples = Callable[[str], Mapping[str, Any] | pd.DataFrame]
"""A cell's examples by its run id: columns by name."""

Found = Iterator[tuple[str, Flag]]

SYSTEM = ("dataset", "model", "seed", "defense")
STRENGTH = {"fgsm": 0, "pgd": 1, "apgd": 2, "autoattack": 2}
"""Attacks that may not leave more standing than those before them."""

FEW_TARGETS = 9
"""Fewer targets than this, where there are more other classes, are too few."""

VOTES_WRONG = 0.001
"""alpha: the share of voted certificates that may be wrong."""


class Verdicts(NamedTuple):
    """One bool an image, with the images' indices, sorted."""

    at: NDArray[Any]
    value: NDArray[np.bool_]


class Graded(NamedTuple):
    """A cell's flags from other cells, its grade with them, and why it is a screening; '' where it has no number."""

    flags: list[Flag]
    grade: str
    screening: str = ""


def grades(cells: Iterable[Row], examples: Examples, transfers: Sequence[Transfer] = ()) -> dict[str, Graded]:
    """Every cell's flags and grade by run_id. examples(run_id) -> columns, one row an example, sorted by `index`."""
    rows = list(cells)
    done = {str(row["run_id"]): row for row in rows if row["status"] == "done"}
    evasion = [row for row in done.values() if row["scenario"] == "evasion"]
    proofs = [row for row in done.values() if row["scenario"] == "certification"]
    found: dict[str, list[Flag]] = {str(row["run_id"]): [] for row in rows}
    for rule in (_alone, _monotone, _colours, _order, _queries):
        for run_id, flag in rule(evasion, examples):
            found[run_id].append(flag)
    for group in _groups(evasion if transfers else (), *SYSTEM, _shift, "threat", "budget", "goal"):
        left = standing(_stands(examples, row) for row in group)
        for run_id, flag in strength.foreign_wins(group, transfers, done, left.at[left.value], len(left.at)):
            found[run_id].append(flag)
    for run_id, flag in _contradicted(evasion, proofs, examples):
        found[run_id].append(flag)
    sure = set(_sandwiched(evasion, proofs, examples)) | {str(p["run_id"]) for p in proofs}
    struck = {run_id for run_id, row in done.items() for flag in (*row["flags"], *found[run_id])
              if level_of(flag) == "fail"}  # fmt: skip
    for run_id, flag in _weak(evasion, examples, struck, sure):
        found[run_id].append(flag)
    graded = {}
    for row in rows:
        run_id = str(row["run_id"])
        source = done.get(run_id) or (done.get(str(row.get("same_as"))) if row["status"] == "inert" else None)
        twin = str(source["run_id"]) if source else ""
        if source is None:
            graded[run_id] = Graded([], "")
        else:
            ends = grade([*source["flags"], *found[twin]], certified=twin in sure)
            graded[run_id] = Graded(found[twin], ends, strength.screening(source))
    return graded


def _groups(rows: Iterable[Row], *keys: str | Callable[[Row], Any]) -> Iterator[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(key(row) if callable(key) else row[key] for key in keys), []).append(row)
    yield from found.values()


def _column(examples: Examples, row: Row, name: str) -> Verdicts:
    table = examples(str(row["run_id"]))
    return Verdicts(np.asarray(table["index"]), np.asarray(table[name], dtype=bool))


def _stands(examples: Examples, row: Row) -> Verdicts:
    """Which images no wrong answer was found for: those that stand, and those whose right answer is gone."""
    found = _column(examples, row, "robust")
    gone = "unanswered" in examples(str(row["run_id"]))
    return Verdicts(found.at, found.value | _column(examples, row, "unanswered").value) if gone else found


def shared(a: Verdicts, b: Verdicts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both verdicts on the images that have both."""
    i, j = _places(a.at, b.at)
    return a.value[i], b.value[j]


def _places(a: NDArray[Any], b: NDArray[Any]) -> tuple[Any, Any]:
    """Where the indices that stand in both stand in each; most cells of a sweep have the same."""
    if len(a) == len(b) and (a == b).all():
        return slice(None), slice(None)
    return np.intersect1d(a, b, assume_unique=True, return_indices=True)[1:]


def standing(columns: Iterable[Verdicts]) -> Verdicts:
    """Which images stand in all of these, of those that all have."""
    return reduce(_and, columns)


def _and(a: Verdicts, b: Verdicts) -> Verdicts:
    i, j = _places(a.at, b.at)
    return Verdicts(a.at[i], a.value[i] & b.value[j])


def _random(examples: Examples, *rows: Row) -> bool:
    return any("wrong_share" in examples(str(row["run_id"])) for row in rows)


def _norm(row: Row) -> str:
    return str(row["norm"])


def _eps(row: Row) -> float | None:
    eps = row["eps"]
    return None if eps is None or pd.isna(eps) else float(eps)


def _but_eps(row: Row) -> tuple[str, ...]:
    return tuple(repr(value) for name, value in row["record"].threat.budget if name != "eps")


def _shift(row: Row) -> Any:
    """Which shift the pictures are of: those of another bear the same indices."""
    return row["record"].shift


def _white(row: Row) -> bool:
    attack = row["record"].attack
    return attack is not None and bool({"gradients", "weights"} & set(attack.needs))


def _targets(row: Row) -> int:
    """How many classes the attack was told to try, 0 where nothing was said."""
    told = row["record"].attack.given
    found = told.get("n_targets", told.get("targets", 0))
    return found if isinstance(found, int) else 0


def _alone(rows: Sequence[Row], examples: Examples) -> Found:
    """E2, E18, E21: what a cell's own rows say."""
    for row in rows:
        run_id, table = str(row["run_id"]), examples(str(row["run_id"]))
        index, n = np.asarray(table["index"]), len(table["index"])
        stand_in = "robust_surrogate" in table or "wrong_share" in table
        if "overturned" in table and not stand_in and (claims := int(np.asarray(table["overturned"]).sum())):
            level = "fail" if claims > max(2, SMALL * n) else "warn"
            yield run_id, Flag("overturned", f"{claims} of {n} claimed breaks are none to the judge", level)
        if 0 < (targets := _targets(row)) < min((most := int(np.max(table["label"]))), FEW_TARGETS):
            yield run_id, Flag("few_targets", f"{targets} targets among {most + 1} classes")
        survivors = int((np.asarray(table["robust"], dtype=bool) & ~np.asarray(table["clean_ok"], dtype=bool)).sum())
        repeated = 0 if (np.diff(index) > 0).all() else n - len(np.unique(index))
        for count, words in ((survivors, "misclassified images count as robust"), (repeated, "images are repeated")):
            if count:
                yield run_id, Flag("bad_denominator", f"{count} {words}")
        if not str(row.get("data_sha256") or ""):
            yield run_id, Flag("bad_denominator", "the pictures have no hash")
    for group in _groups(rows, *SYSTEM, "data_sha256"):
        first = _column(examples, group[0], "clean_ok")
        for row in group[1:]:
            a, b = shared(first, _column(examples, row, "clean_ok"))
            differ = int((a != b).sum())
            if differ and not _random(examples, row):
                yield str(row["run_id"]), Flag("bad_denominator", f"{differ} clean verdicts differ between attacks")


def _monotone(rows: Sequence[Row], examples: Examples) -> Found:
    """E3: the same attack with more budget leaves more standing."""
    for group in _groups(rows, *SYSTEM, _shift, "access", "goal", "attack", _but_eps):
        known = sorted((row for row in group if _eps(row) is not None), key=lambda row: float(_eps(row) or 0))
        for less, more in pairwise(known):
            before, after = shared(_stands(examples, less), _stands(examples, more))
            n, rise = len(before), int(after.sum()) - int(before.sum())
            if rise > max(1, SMALL * n):
                level = "fail" if rise > max(2, LARGE * n) else "warn"
                words = f"{rise} of {n} images more stand at {more['budget']} than at {less['budget']}"
                yield str(more["run_id"]), Flag("not_monotone", words, level)


def _colours(rows: Sequence[Row], examples: Examples) -> Found:
    """E5: black-box attacks break what all white-box ones together leave."""
    for group in _groups((row for row in rows if row.get("needs")), *SYSTEM, _shift, "goal", _norm, _eps):
        white = [row for row in group if _white(row)]
        blacks = [row for row in group if not _white(row) and strength.EVERYWHERE not in row["record"].attack.family]
        if not white or not blacks:
            continue
        left = standing(_stands(examples, row) for row in white)
        for black in blacks:
            rest, stands = shared(left, _stands(examples, black))
            extra, fewer, n = int((rest & ~stands).sum()), int((~rest & stands).sum()), len(rest)
            sure = surprising(extra, fewer)
            if not extra or (_random(examples, black, *white) and not sure):
                continue
            level = "fail" if sure or (n >= 1000 and extra > 0.002 * n) else "warn"
            words = f"{black['attack']} breaks {extra} of {n} images that no white-box attack breaks"
            for row in white:
                yield str(row["run_id"]), Flag("black_box_wins", words, level)


def _order(rows: Sequence[Row], examples: Examples) -> Found:
    """E9: an attack leaves more standing than a simpler one."""
    known = [row for row in rows if _name(row) in STRENGTH]
    for group in _groups(known, *SYSTEM, "threat", "budget", "goal"):
        for simple in group:
            for strong in (row for row in group if STRENGTH[_name(row)] == STRENGTH[_name(simple)] + 1):
                a, b = shared(_stands(examples, simple), _stands(examples, strong))
                more, fewer, n = int((~a & b).sum()), int((a & ~b).sum()), len(a)
                chance = _random(examples, simple, strong) and not surprising(more, fewer)
                if more - fewer > max(2, SMALL * n) and not chance:
                    level = "fail" if _name(simple) == "fgsm" else "warn"
                    words = f"{simple['attack']} leaves {more - fewer} of {n} images fewer"
                    yield str(strong["run_id"]), Flag("weaker_than_simpler", words, level)


def _weak(rows: Sequence[Row], examples: Examples, struck: set[str], sure: set[str]) -> Found:
    """E33, E34: a number that rests on weak attacks, or on one family of them."""
    fallen = {str(row["run_id"]) for row in rows if not _column(examples, row, "robust").value.any()}
    for group in _groups(rows, *SYSTEM, _shift, "goal", _norm, _eps):
        yield from strength.weak(group, struck, sure | fallen, lambda row: _stands(examples, row).at)


def _name(row: Row) -> str:
    return str(row["record"].attack.name)


def _queries(rows: Sequence[Row], examples: Examples) -> Found:
    """E22: one defense was asked less than another by the same black-box attack."""
    black = [row for row in rows if row.get("needs") and not _white(row)]
    for group in _groups(black, "dataset", "model", "seed", "threat", "budget", "goal", "attack"):
        asked = {}
        for row in group:
            table = examples(str(row["run_id"]))
            stands = np.asarray(table["robust"], dtype=bool)
            if "queries" in table and int(stands.sum()) >= 5:
                asked[str(row["run_id"])] = _median(np.asarray(table["queries"])[stands])
        most = max(asked.values(), default=0.0)
        for run_id, queries in asked.items():
            if queries < (1 - PARITY) * most:
                words = f"{queries:.0f} queries on a standing image, {most:.0f} on another defense's"
                yield run_id, Flag("fewer_queries", words)


def _median(values: NDArray[Any]) -> float:
    """Of those that are no NaN."""
    return float(np.median(values) if values.dtype.kind in "iu" else pd.Series(values).median())


def _against(rows: Sequence[Row], proofs: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Every attack with every proof about the same system in the same norm."""
    known: dict[tuple[Any, ...], list[Row]] = {}
    for proof in proofs:
        if proof.get("needs"):
            known.setdefault((*(proof[name] for name in SYSTEM), _shift(proof), _norm(proof)), []).append(proof)
    for row in rows:
        for proof in known.get((*(row[name] for name in SYSTEM), _shift(row), _norm(row)), ()):
            yield row, proof


def _proven(row: Row, proof: Row, examples: Examples) -> dict[str, NDArray[Any]]:
    """Both cells' columns on the images they share: radius from the proof, the rest from the attack."""
    attacked, proven = examples(str(row["run_id"])), examples(str(proof["run_id"]))
    i, j = _places(np.asarray(attacked["index"]), np.asarray(proven["index"]))
    names = ("index", "fooled", "clean_ok", "distance", "robust")
    return {name: np.asarray(attacked[name])[i] for name in names} | {"radius": np.asarray(proven["radius"])[j]}


def _contradicted(rows: Sequence[Row], proofs: Sequence[Row], examples: Examples) -> Found:
    """E24, C5, S5: an image broken nearer than its proven radius."""
    for row, proof in _against(rows, proofs):
        both = _proven(row, proof, examples)
        near = both["fooled"] & both["clean_ok"] & (both["distance"] <= both["radius"] * (1 - 1e-6))
        broken = both["index"][near & (both["radius"] > 0)]
        if not len(broken):
            continue
        ids = ", ".join(map(str, broken[:5]))
        words = f"{len(broken)} images are broken by {row['attack']} and proven by {proof['attack']}: {ids}"
        if _white(proof):
            yield str(row["run_id"]), Flag("proof_contradicted", words)
            yield str(proof["run_id"]), Flag("proof_contradicted", words)
        elif len(broken) > max(1, VOTES_WRONG * len(both["index"])):
            yield str(proof["run_id"]), Flag("vote_contradicted", words)


def _sandwiched(rows: Sequence[Row], proofs: Sequence[Row], examples: Examples) -> Iterator[str]:
    """Cells whose proven share, at their own radius and on all their images, is not below the number's interval."""
    for row, proof in _against(rows, proofs):
        eps, both = _eps(row), _proven(row, proof, examples)
        n = len(both["index"])
        if eps is None or n < int(row["n"]) or not _white(proof):
            continue
        low, _ = clopper_pearson(int(both["robust"].sum()), n)
        if float((both["radius"] >= eps * (1 - 1e-6)).mean()) >= low > 0:
            yield str(row["run_id"])
