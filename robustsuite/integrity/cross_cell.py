"""What no cell can know of itself: contradictions between stored cells, and the grade each cell ends with.

A pure function of the store: rows and per-example columns in, flags and grades out; no model is asked. The rules
stand in `checks.py`. McNemar (1947), Psychometrika 12(2), one-sided and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import binom

from robustsuite.integrity.checks import LARGE, LEVEL, PARITY, SMALL, Flag, grade
from robustsuite.maths.stats import clopper_pearson

Row = Mapping[Any, Any]
Examples = Callable[[str], pd.DataFrame]
Found = Iterator[tuple[str, Flag]]

SYSTEM = ("dataset", "model", "seed", "defense")
STRENGTH = {"fgsm": 0, "pgd": 1, "apgd": 2, "autoattack": 2}
"""Attacks that may not leave more standing than those before them."""

FEW_TARGETS = 9
"""Fewer targets than this, where there are more other classes, are too few."""

VOTES_WRONG = 0.001
"""alpha: the share of voted certificates that may be wrong."""


class Graded(NamedTuple):
    """A cell's flags from other cells, and its grade with them; '' where it has no number."""

    flags: list[Flag]
    grade: str


def grades(cells: Iterable[Row], examples: Examples) -> dict[str, Graded]:
    """Every cell's flags and grade by run_id. examples(run_id) -> one row an example, sorted by `index`."""
    rows = list(cells)
    done = {str(row["run_id"]): row for row in rows if row["status"] == "done"}
    evasion = [row for row in done.values() if row["scenario"] == "evasion"]
    proofs = [row for row in done.values() if row["scenario"] == "certification"]
    found: dict[str, list[Flag]] = {str(row["run_id"]): [] for row in rows}
    for rule in (_alone, _monotone, _colours, _order, _queries):
        for run_id, flag in rule(evasion, examples):
            found[run_id].append(flag)
    for run_id, flag in _contradicted(evasion, proofs, examples):
        found[run_id].append(flag)
    sure = set(_sandwiched(evasion, proofs, examples)) | {str(p["run_id"]) for p in proofs}
    graded = {}
    for row in rows:
        run_id = str(row["run_id"])
        source = done.get(run_id) or (done.get(str(row.get("same_as"))) if row["status"] == "inert" else None)
        twin = str(source["run_id"]) if source else ""
        if source is None:
            graded[run_id] = Graded([], "")
        else:
            ends = grade([*source["flags"], *found[twin]], certified=twin in sure)
            graded[run_id] = Graded(found[twin], ends)
    return graded


def one_sided(more: int, fewer: int) -> float:
    """The chance of at least `more` of the discordant pairs on one side if both were as likely."""
    return float(binom.sf(more - 1, more + fewer, 0.5)) if more + fewer else 1.0


def _groups(rows: Iterable[Row], *keys: str | Callable[[Row], Any]) -> Iterator[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(key(row) if callable(key) else row[key] for key in keys), []).append(row)
    yield from found.values()


def _column(examples: Examples, row: Row, name: str) -> pd.Series:
    table = examples(str(row["run_id"]))
    return pd.Series(table[name].to_numpy(bool), index=table["index"].to_numpy())


def _joined(columns: Sequence[pd.Series]) -> pd.DataFrame:
    return pd.concat(list(columns), axis=1, join="inner", keys=range(len(columns)))


def _random(examples: Examples, *rows: Row) -> bool:
    return any("wrong_share" in examples(str(row["run_id"])) for row in rows)


def _norm(row: Row) -> str:
    return str(row["norm"])


def _eps(row: Row) -> float | None:
    eps = row["eps"]
    return None if eps is None or pd.isna(eps) else float(eps)


def _but_eps(row: Row) -> str:
    budget = row["record"].threat.budget
    return str(budget.model_copy(update={"eps": None}))


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
        stand_in = {"robust_surrogate", "wrong_share"} & set(table.columns)
        if "overturned" in table and not stand_in and (claims := int(table["overturned"].sum())):
            level = "fail" if claims > max(2, SMALL * len(table)) else "warn"
            yield run_id, Flag("overturned", f"{claims} of {len(table)} claimed breaks are none to the judge", level)
        if 0 < (targets := _targets(row)) < min(int(table["label"].max()), FEW_TARGETS):
            yield run_id, Flag("few_targets", f"{targets} targets among {int(table['label'].max()) + 1} classes")
        survivors = int((table["robust"] & ~table["clean_ok"]).sum())
        repeated = int(table["index"].duplicated().sum())
        for count, words in ((survivors, "misclassified images count as robust"), (repeated, "images are repeated")):
            if count:
                yield run_id, Flag("bad_denominator", f"{count} {words}")
        if not str(row.get("data_sha256") or ""):
            yield run_id, Flag("bad_denominator", "the pictures have no hash")
    for group in _groups(rows, *SYSTEM, "data_sha256"):
        first = _column(examples, group[0], "clean_ok")
        for row in group[1:]:
            both = _joined([first, _column(examples, row, "clean_ok")])
            differ = int((both[0] != both[1]).sum())
            if differ and not _random(examples, row):
                yield str(row["run_id"]), Flag("bad_denominator", f"{differ} clean verdicts differ between attacks")


def _monotone(rows: Sequence[Row], examples: Examples) -> Found:
    """E3: the same attack with more budget leaves more standing."""
    for group in _groups(rows, *SYSTEM, "access", "goal", "attack", _but_eps):
        known = sorted((row for row in group if _eps(row) is not None), key=lambda row: float(_eps(row) or 0))
        for less, more in pairwise(known):
            both = _joined([_column(examples, less, "robust"), _column(examples, more, "robust")])
            n, rise = len(both), int(both[1].sum() - both[0].sum())
            if rise > max(1, SMALL * n):
                level = "fail" if rise > max(2, LARGE * n) else "warn"
                words = f"{rise} of {n} images more stand at {more['budget']} than at {less['budget']}"
                yield str(more["run_id"]), Flag("not_monotone", words, level)


def _colours(rows: Sequence[Row], examples: Examples) -> Found:
    """E5: black-box attacks break what all white-box ones together leave."""
    for group in _groups((row for row in rows if row.get("needs")), *SYSTEM, "goal", _norm, _eps):
        white = [row for row in group if _white(row)]
        for black in (row for row in group if not _white(row)):
            if not white:
                continue
            both = _joined([_column(examples, row, "robust") for row in (*white, black)])
            standing, breaks = both.iloc[:, :-1].all(axis=1), ~both.iloc[:, -1]
            extra, fewer, n = int((standing & breaks).sum()), int((~standing & ~breaks).sum()), len(both)
            surprising = one_sided(extra, fewer) < LEVEL
            if not extra or (_random(examples, black, *white) and not surprising):
                continue
            level = "fail" if surprising or (n >= 1000 and extra > 0.002 * n) else "warn"
            words = f"{black['attack']} breaks {extra} of {n} images that no white-box attack breaks"
            for row in white:
                yield str(row["run_id"]), Flag("black_box_wins", words, level)


def _order(rows: Sequence[Row], examples: Examples) -> Found:
    """E9: an attack leaves more standing than a simpler one."""
    known = [row for row in rows if _name(row) in STRENGTH]
    for group in _groups(known, *SYSTEM, "threat", "budget", "goal"):
        for simple in group:
            for strong in (row for row in group if STRENGTH[_name(row)] == STRENGTH[_name(simple)] + 1):
                both = _joined([_column(examples, simple, "robust"), _column(examples, strong, "robust")])
                more, fewer, n = int((~both[0] & both[1]).sum()), int((both[0] & ~both[1]).sum()), len(both)
                chance = _random(examples, simple, strong) and one_sided(more, fewer) >= LEVEL
                if more - fewer > max(2, SMALL * n) and not chance:
                    level = "fail" if _name(simple) == "fgsm" else "warn"
                    words = f"{simple['attack']} leaves {more - fewer} of {n} images fewer"
                    yield str(strong["run_id"]), Flag("weaker_than_simpler", words, level)


def _name(row: Row) -> str:
    return str(row["record"].attack.name)


def _queries(rows: Sequence[Row], examples: Examples) -> Found:
    """E22: one defense was asked less than another by the same black-box attack."""
    black = [row for row in rows if row.get("needs") and not _white(row)]
    for group in _groups(black, "dataset", "model", "seed", "threat", "budget", "goal", "attack"):
        asked = {}
        for row in group:
            table = examples(str(row["run_id"]))
            standing = table[table["robust"].to_numpy(bool)]
            if "queries" in table and len(standing) >= 5:
                asked[str(row["run_id"])] = float(standing["queries"].median())
        most = max(asked.values(), default=0.0)
        for run_id, queries in asked.items():
            if queries < (1 - PARITY) * most:
                words = f"{queries:.0f} queries on a standing image, {most:.0f} on another defense's"
                yield run_id, Flag("fewer_queries", words)


def _same_system(row: Row, others: Sequence[Row]) -> list[Row]:
    return [o for o in others if all(o[k] == row[k] for k in SYSTEM) and _norm(o) == _norm(row) and o.get("needs")]


def _proven(row: Row, proof: Row, examples: Examples) -> pd.DataFrame:
    """Both cells' rows on the images they share: radius from the proof, the rest from the attack."""
    radius = examples(str(proof["run_id"]))[["index", "radius"]]
    return examples(str(row["run_id"])).merge(radius, on="index", suffixes=("_attack", ""))


def _contradicted(rows: Sequence[Row], proofs: Sequence[Row], examples: Examples) -> Found:
    """E24, C5, S5: an image broken nearer than its proven radius."""
    for row in rows:
        for proof in _same_system(row, proofs):
            both = _proven(row, proof, examples)
            near = both["fooled"] & both["clean_ok"] & (both["distance"] <= both["radius"] * (1 - 1e-6))
            broken = both[near & (both["radius"] > 0)]
            if not len(broken):
                continue
            ids = ", ".join(map(str, broken["index"].head(5)))
            words = f"{len(broken)} images are broken by {row['attack']} and proven by {proof['attack']}: {ids}"
            if _white(proof):
                yield str(row["run_id"]), Flag("proof_contradicted", words)
                yield str(proof["run_id"]), Flag("proof_contradicted", words)
            elif len(broken) > max(1, VOTES_WRONG * len(both)):
                yield str(proof["run_id"]), Flag("vote_contradicted", words)


def _sandwiched(rows: Sequence[Row], proofs: Sequence[Row], examples: Examples) -> Iterator[str]:
    """Cells whose proven share, at their own radius and on all their images, is not below the number's interval."""
    for row in rows:
        eps = _eps(row)
        for proof in _same_system(row, proofs):
            both = _proven(row, proof, examples)
            if eps is None or len(both) < int(row["n"]) or not _white(proof):
                continue
            low, _ = clopper_pearson(int(both["robust"].sum()), len(both))
            if float((both["radius"] >= eps * (1 - 1e-6)).mean()) >= low > 0:
                yield str(row["run_id"])
