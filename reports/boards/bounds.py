"""Bounds on one system from both sides at one radius: what a certifier proves, and what attacks broke inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ..measure.grades import DOUBTED
from ..measure.scores import Score, certified, measured_as, rate
from ..read.runs import Results, radius_of

SYSTEM = ("model", "defense", "seed")


def proven(run: Results, asked: Mapping[str, Any]) -> tuple[Score | None, tuple[str, str]]:
    """The best lower bound any certifier gives for this system at this radius, and where it stands."""
    eps, norm = run.budgets[str(asked["budget"])]
    best: tuple[Score | None, tuple[str, str]] = (None, ("", ""))
    for cell, source in _measured(run, "certification", asked):
        if eps is None or cell["norm"] != norm or cell["grade"] in DOUBTED:
            continue
        rows = run.examples(source["run_id"])
        # A certifier that was only asked for a smaller radius has said nothing about this one.
        if (radius_of(cell) or 0.0) < eps * (1 - 1e-6) and not (rows["radius"] >= eps).any():
            continue
        score = rate("certified_accuracy", certified(rows, eps))
        if best[0] is None or (score.n, score.value) > (best[0].n, best[0].value):
            best = score, (str(cell["attack"]), str(source["run_id"]))
    return best


def left_standing(run: Results, asked: Mapping[str, Any], images: pd.Index) -> tuple[Score | None, str]:
    """What every attack in this norm leaves of these images at this radius, by the distances of the errors it found.

    An attack counts that asked for no more than this radius, or broke something inside it: one that was played at a
    larger distance says nothing of what it did not find. None where no attack counts, or no image met all of them.
    """
    eps, norm = run.budgets[str(asked["budget"])]
    stands: list[pd.Series] = []
    names: list[str] = []
    for cell, source in _measured(run, "evasion", asked):
        rows = run.examples(source["run_id"]).set_index("index")
        if eps is None or cell["norm"] != norm or not {"fooled", "distance"} <= set(rows):
            continue
        rows = rows.loc[rows.index.intersection(images)]
        right = rows["clean_ok"].astype(bool)
        fell = right & rows["fooled"].astype(bool) & (rows["distance"] <= eps * (1 + 1e-9))
        if len(rows) and (fell.any() or (radius_of(cell) or 0.0) <= eps * (1 + 1e-9)):
            stands.append(right & ~fell)
            names.append(str(cell["attack"]))
    together = pd.concat(stands, axis=1, join="inner").all(axis=1) if stands else pd.Series(dtype=bool)
    return (rate("robust_accuracy", together), ", ".join(dict.fromkeys(names))) if len(together) else (None, "")


def _measured(run: Results, scenario: str, asked: Mapping[str, Any]) -> Iterator[tuple[Mapping[Any, Any], Any]]:
    """Every cell of a scenario on the system and data set that are asked for, with the cell that holds its rows."""
    cells = run.cells[(run.cells["scenario"] == scenario) & (run.cells["dataset"] == asked["dataset"])]
    for cell in cells.to_dict("records"):
        source = measured_as(cell, run.known)
        if source is not None and all(cell[name] == asked[name] for name in SYSTEM):
            yield cell, source
