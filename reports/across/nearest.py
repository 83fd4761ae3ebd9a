"""How near the minimum-norm attacks of a run come: each against the nearest break that any attack found of each image.

Local optimality (Cina et al., 2024, arXiv 2404.19460, AttackBench): with d an attack's distances, d* the least of all
attacks image by image, D the largest finite d* and a the share right without an attack,

    1 - (mean min(d, D) - mean min(d*, D)) / (a D - mean min(d*, D)),

the area between both curves of robust accuracy over the radius up to D, as a share of the area of an attack that finds
nothing. 1: nowhere farther than the nearest; 0: nothing found before D. The areas are those of the steps themselves;
AttackBench's code joins the steps by straight lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.maths import stats

from ..measure.tables import NORMS, SYSTEM, lost_at
from ..read.runs import Results, once
from ..render.document import Entry, Section, Table, accuracy, counted, error, split_constant, words
from ..render.rows import MOST_ROWS
from ..render.text import number

COLUMNS = ("norm", *SYSTEM, "threat", "attack", "optimality", "lo", "hi", "median", "broken", "nearest", "right", "n",
           "of")  # fmt: skip
AT_ONCE = "all at once"


class Reach(NamedTuple):
    """What one cell says of a system in a norm: of which images, and how far each right answer was lost."""

    cell: Mapping[Any, Any]
    images: NDArray[Any]
    lost: NDArray[np.float64]


@once
def nearness(run: Results) -> pd.DataFrame:
    """A row for each minimum-norm attack of a norm on a system that has several, and one for all attacks at once.

    The nearest break of an image is the least distance at which any attack of the run, in any threat without a target,
    took its right answer; `of` names these attacks. On the images that every minimum-norm attack of the norm met, n;
    `right` of them are right without an attack: of these are `broken` (how many an attack broke), `nearest` (on how
    many it came as near as any) and `median`, infinite where fewer than half broke. lo, hi: the 95 % bootstrap interval
    of `optimality` over images, D as it is; NaN where nothing was broken or every break is equally far. What failed a
    check counts nowhere. An attack that several threats play is told of the first.
    """
    cells = run.cells[(run.cells["scenario"] == "evasion") & (run.cells["status"] == "done")]
    cells = cells[(cells["goal"] == "untargeted") & (cells["grade"] != "INVALID")]
    rows: list[dict[str, Any]] = []
    for system, part in cells.groupby(list(SYSTEM), sort=False):
        known = [run.known[run_id] for run_id in part["run_id"]]
        sought: dict[str, dict[str, Mapping[Any, Any]]] = {}
        for cell in known:
            if set(NORMS) <= {column.name for column in cell["record"].columns}:
                sought.setdefault(str(cell["norm"]), {}).setdefault(str(cell["attack"]), cell)
        for norm, seeking in sought.items():
            if len(seeking) > 1:
                base = {"norm": norm, **dict(zip(SYSTEM, system, strict=True))}
                rows += [{**base, **row} for row in _rows(run, norm, known, list(seeking.values()))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(
    run: Results, norm: str, known: Sequence[Mapping[Any, Any]], seeking: Sequence[Mapping[Any, Any]]
) -> list[dict[str, Any]]:
    """The rows of one norm on one system: known are all its cells, seeking those of minimum-norm attacks."""
    found = {cell["run_id"]: reach for cell in known if (reach := _reach(run, cell, norm)) is not None}
    sought = [found[cell["run_id"]] for cell in seeking]
    index = sought[0].images
    for reach in sought[1:]:
        index = np.intersect1d(index, reach.images)
    least = np.minimum.reduce([_at(reach, index) for reach in found.values()])
    right = least > 0
    lost = np.stack([*(_at(reach, index) for reach in sought), least])
    if not right.any():
        return []
    common = {"right": int(right.sum()), "n": len(index),
              "of": "; ".join(dict.fromkeys(str(reach.cell["attack"]) for reach in found.values()))}  # fmt: skip
    named = [(str(reach.cell["threat"]), str(reach.cell["attack"])) for reach in sought]
    return [
        {"threat": threat, "attack": attack, "optimality": value, "lo": lo, "hi": hi,
         "median": float(np.median(mine[right])), "broken": int(np.isfinite(mine[right]).sum()),
         "nearest": int((np.isfinite(mine) & (mine <= least))[right].sum()), **common}
        for (threat, attack), mine, (value, lo, hi) in zip(
            [*named, ("", AT_ONCE)], lost, optimality(lost, least), strict=True
        )
    ]  # fmt: skip


def _reach(run: Results, cell: Mapping[Any, Any], norm: str) -> Reach | None:
    """What a cell says in this norm; None where its rows have no distance in it."""
    rows = run.columns(cell["run_id"])
    column = "distance" if cell["norm"] == norm else norm
    if not {column, "distance", "fooled", "in_budget"} <= set(rows):
        return None
    return Reach(cell, rows["index"], lost_at(rows, column))


def _at(reach: Reach, index: NDArray[Any]) -> NDArray[np.float64]:
    """The distances of these images, infinite where the attack did not meet one."""
    return np.asarray(pd.Series(reach.lost, index=reach.images).reindex(index, fill_value=np.inf), np.float64)


def optimality(lost: NDArray[np.float64], least: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Local optimality of attacks with its bootstrap interval: lost (A, N) of them, least (N,) of all; NaN for none.

    Distances are 0 for an image that is wrong already and infinite for one that was never broken.
    """
    furthest = float(np.max(least, initial=0.0, where=np.isfinite(least)))
    near, whole = np.minimum(least, furthest), furthest * (least > 0)
    excess, room = np.minimum(lost, furthest) - near, whole - near
    if not room.sum() > 0:
        return [(np.nan, np.nan, np.nan)] * len(lost)
    drawn = _draws(len(least))
    with np.errstate(invalid="ignore"):  # a resample may hold nothing but images at D
        values, spread = 1 - excess.sum(1) / room.sum(), 1 - (excess @ drawn) / (room @ drawn)
    lo, hi = np.nanquantile(spread, [0.025, 0.975], axis=1)
    return [(float(a), float(b), float(c)) for a, b, c in zip(values, lo, hi, strict=True)]


@lru_cache(maxsize=2)
def _draws(n: int) -> NDArray[np.float64]:
    """How often each of n images is drawn in each of 1000 resamples, (n, 1000)."""
    generator = np.random.default_rng(0)
    return np.stack([np.bincount(generator.integers(0, n, size=n), minlength=n) for _ in range(1000)], 1).astype(float)


def nearness_section(run: Results) -> Section:
    """A table a norm: systems and attacks down, what all attacks came to last of each system."""
    table, found = nearness(run), []
    for norm, part in table.groupby("norm", sort=False):
        if len(part) > MOST_ROWS:
            continue
        names, caption = split_constant(part, (*SYSTEM, "n"))
        rows = tuple(
            (*(words(row[name]) for name in names), words(row["attack"]), error(*_share(row["broken"], row["right"])),
             _distance(row["median"], str(norm)), _optimality(row), accuracy(*_share(row["nearest"], row["right"])))
            for row in part.to_dict("records")
        )  # fmt: skip
        columns = (*names, "attack", "broken", "median distance", "local optimality", "as near as any")
        found.append(Table(f"nearness-{norm}", f"Minimum-norm attacks in {norm}", caption, columns, rows,
                           "nearness.csv"))  # fmt: skip
    lead = (
        "How far each attack that seeks the nearest error had to go, on the images that are right without one, beside "
        "the nearest break of each image by any attack of this run. Local optimality (AttackBench) is 1 where an "
        "attack comes as near as any on every image, and 0 where it breaks none within the farthest of these breaks. "
        "It tells attacks of this run apart: another attack may come nearer than all of them.",
    )
    return Section("nearness", "How near attacks come", lead if found else (), tuple(found), order=72)


def _share(k: int, n: int) -> tuple[float, float, float]:
    """A share with its interval."""
    return (k / n, *stats.clopper_pearson(k, n))


def _distance(value: float, norm: str) -> Entry:
    if not np.isfinite(value):
        return Entry("fewer than half broke", np.inf)
    return counted(value, f"{255 * value:.3g}/255" if norm == "linf" else number(value))


def _optimality(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["optimality"]):
        return Entry("–", -1.0)
    return counted(row["optimality"], f"{row['optimality']:.3f} ({row['lo']:.3f}–{row['hi']:.3f})")
