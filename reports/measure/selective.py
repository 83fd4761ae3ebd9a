"""How often a system is wrong among the pictures it answers: by its own confidence, and where it may reject.

Answered are the pictures with the highest confidence first. The risk at a coverage is the share of wrong answers among
so many of them (Geifman and El-Yaniv, 2017, arXiv:1705.08500), AURC its mean over all coverages, and the optimal order
has every right answer before a wrong one (Geifman, Uziel and El-Yaniv, 2019, arXiv:1805.08206).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..read.runs import Results, once
from .kinds import Rows, rate
from .scores import measured_as
from .worst import GROUP

WHERE = ("dataset", "model", "seed", "defense")
CONTROL = "unshifted"
"""The variant of a shift set that holds its pictures as they were."""

SUREST = 0.8
"""The coverage that tables quote beside all that is answered."""

POINTS = 400
"""Points of a curve that are kept to draw it."""

NAN = float("nan")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Risk (P,) and optimal risk (P,) of a system at some coverages (P,), all in [0, 1].

    facts: whose it is, on what, and its numbers over all coverages, by the columns of `selective`.
    """

    facts: Mapping[str, Any]
    coverage: Floats
    risk: Floats
    best: Floats


def risks(confidence: ArrayLike, right: ArrayLike) -> Floats:
    """The risk (N,) in [0, 1] among the 1, 2 ... N examples of highest confidence; confidence and right (N,).

    Where several are equally sure it is what a random order among them gives on average.
    """
    sure, wrong = np.asarray(confidence, np.float64), ~np.asarray(right, bool)
    order = np.argsort(-sure, kind="stable")
    errors, n = np.cumsum(wrong[order]), len(order)
    ends = np.flatnonzero(np.r_[np.diff(sure[order]) != 0, True]) if n else np.zeros(0, int)
    counts = np.arange(1, n + 1)
    return np.asarray(np.interp(counts, np.r_[0, ends + 1], np.r_[0, errors[ends]]) / counts)


@once
def curves(run: Results) -> list[Curve]:
    """A curve for every system on the clean pictures and on every shift set, its variants and severities together.

    Where a variant of a set has no confidence on a system that others have, the system has no curve on the set.
    """
    cells = run.cells[(run.cells["scenario"] == "shift") & (run.cells["corruption"] != CONTROL)]
    variants = ["corruption", "severity"]
    sets = cells.groupby(["shift", "dataset"], sort=False)
    asked = {key: len(part[variants].drop_duplicates()) for key, part in sets}
    found = []
    for key, part in cells.groupby(["shift", *WHERE], sort=False):
        rows = [run.columns(run_id) for run_id in part.loc[part["status"] == "done", "run_id"]]
        sure = [each for each in rows if "confidence" in each and np.isfinite(each["confidence"]).all()]
        if len(sure) < asked[key[:2]]:
            continue
        confidence, right, gone = (
            np.concatenate([np.asarray(each.get(name, np.zeros(len(each["robust"]), bool))) for each in sure])
            for name in ("confidence", "robust", "rejected")
        )
        kept = ~gone.astype(bool)
        if kept.any():
            failed = "INVALID" if (part["grade"] == "INVALID").any() else ""
            facts = dict(zip(("shift", *WHERE), key, strict=True)) | {"grade": failed}
            found.append(_curve(facts, confidence[kept], right[kept].astype(bool), len(kept)))
    return found


def _curve(facts: Mapping[str, Any], confidence: Floats, right: NDArray[np.bool_], n: int) -> Curve:
    """The curve of the answered (K,) out of n."""
    risk, best, k = risks(confidence, right), risks(right, right), len(right)
    surest = int(np.ceil(SUREST * n - 1e-9))
    numbers = {
        **_risk(int((~right).sum()), k, n), "risk_surest": float(risk[surest - 1]) if surest <= k else NAN,
        "aurc": float(risk.mean()), "aurc_random": float(risk[-1]), "aurc_optimal": float(best.mean()),
    }  # fmt: skip
    at = np.unique(np.linspace(0, k - 1, min(k, POINTS)).astype(int))
    return Curve({**facts, **numbers}, (at + 1) / n, risk[at], best[at])


@once
def selective(run: Results) -> pd.DataFrame:
    """One row a curve, and one a system that rejects or abstains under a threat, which is a point alone.

    grade: of a point its cell's, of a curve INVALID where a cell of it is.
    coverage: the share answered; risk (lo, hi): of wrong answers among them; risk_surest: among the surest 80 % of
    all; aurc_random: of a random order, the risk of all answered. Under attack: by the attack with the highest risk,
    where right is what is robust.
    """
    rows = [{"threat": "", "budget": "", "attack": "", **curve.facts} for curve in curves(run)]
    rows += _points(run)
    columns = ["threat", "budget", "shift", "attack", *WHERE, "n", "answered", "coverage", "wrong", "risk", "lo", "hi",
               "risk_surest", "aurc", "aurc_random", "aurc_optimal", "grade"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _risk(wrong: int, answered: int, n: int) -> dict[str, Any]:
    score = rate("risk", np.arange(answered) < wrong)
    return {"n": n, "answered": answered, "coverage": answered / n, "wrong": wrong, "risk": score.value,
            "lo": score.lo, "hi": score.hi}  # fmt: skip


def _points(run: Results) -> Iterator[dict[str, Any]]:
    """Who rejects some attacked pictures, under the attack with the highest risk, and who abstains from proofs."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] in ("evasion", "certification") else None
        if source is None or cell["status"] == "inert":
            continue
        point = _point(run.columns(source["run_id"]), cell["scenario"])
        if point is not None:
            attack = "" if cell["scenario"] == "evasion" else cell["attack"]
            key = (*(cell[name] for name in GROUP), cell["defense"], attack)
            if key not in found or found[key]["risk"] < point["risk"]:
                names = ("threat", "budget", "shift", "attack", *WHERE, "grade")
                found[key] = {name: cell[name] for name in names} | point
    yield from found.values()


def _point(rows: Rows, scenario: str) -> dict[str, Any] | None:
    evasion = scenario == "evasion"
    gone, right = ("rejected", "robust") if evasion else ("abstained", "clean_ok")
    needed = {gone, right, *(("clean_ok", "fooled") if evasion else ())}
    if not needed <= set(rows) or not np.asarray(rows[gone]).astype(bool).any():
        return None
    held = np.asarray(rows[right]).astype(bool)
    answered = held | ~(_gone(rows) if evasion else np.asarray(rows[gone]).astype(bool))
    count = int(answered.sum())
    return _risk(int((answered & ~held).sum()), count, len(answered)) if count else None


def _gone(rows: Rows) -> NDArray[np.bool_]:
    """Which attacked pictures (N,) that are not right end without an answer: the right one is gone, no wrong one came.

    What came back from outside the budget says nothing: such a picture stands, though that other one was rejected.
    """
    clean, fooled, rejected = (np.asarray(rows[name]).astype(bool) for name in ("clean_ok", "fooled", "rejected"))
    return np.where(clean, ~fooled, rejected)
