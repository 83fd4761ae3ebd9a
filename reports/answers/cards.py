"""What the short answers share: how they are headed, their large numbers, and who is the best of several systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..measure.seeds import TOGETHER
from ..measure.worst import GROUP
from ..read.runs import Results, once
from ..render.document import Answer, Entry
from ..render.text import interval, percent, plain
from ..sections.generic import groups, mean_entry

Row = Mapping[Any, Any]
WHERE, THREAT = ("dataset", "model", "seed"), GROUP[:-1]
FIRST, VERDICT, NONE_YET, NOT_MEASURED = range(4)
"""What an answer is, the first part of its place: of several models each one's strongest adversary first, since a
model without a line there would be taken for one that nobody attacked; else what is no verdict stands after every
verdict."""

OWN = ("undefended", "bad")
"""What a large number of the model by itself is called, and its tone."""

NONE = (("verdict", "none yet", "", "bad"),)
"""Instead of numbers that would read as good news."""

FEW = 10
"""On fewer images no sentence tells one system from another, whatever a test finds."""

EVASION, PROOF, SHIFT, OTHER = range(4)
"""Whose answer it is, the second part of its place; the third is how little is granted, the fourth what is left."""


def of(frame: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that have these values."""
    if not len(frame):
        return frame
    return frame[np.logical_and.reduce([frame[name] == value for name, value in facts.items()])]


@once
def evasion(run: Results) -> dict[tuple[Any, ...], pd.DataFrame]:
    """The evasion cells of each threat and model, by the values of THREAT; looked for once, however many there are."""
    return dict(groups(run.cells[run.cells["scenario"] == "evasion"], THREAT))


def called(run: Results, defense: str, what: str) -> str:
    """What a bar is called: by its defense, or, where no system of the run has one, by what it measures."""
    return plain(defense) if run.defended else what


def subject(run: Results, where: Mapping[str, Any]) -> str:
    """What a sentence calls the model of an answer: 'the model'; where there are several its name, and its data's."""
    several = _several(run)
    model = plain(str(where["model"])) if "model" in several else "the model"
    return model + (f" on {where['dataset']}" if "dataset" in several else "")


@once
def _several(run: Results) -> list[str]:
    """Of which of these the run has several."""
    return [name for name in ("model", "dataset") if run.cells[name].nunique() > 1]


def whose(run: Results, where: Mapping[str, Any]) -> str:
    """' of resnet20' in a heading, where there are several models; else nothing."""
    name = subject(run, where)
    return "" if name == "the model" else f" of {name}"


def place(where: Sequence[Any], head: str = "", goal: str = "") -> str:
    """The line below an answer's title: the threat as the sweep calls it, goal, data, model and seed."""
    dataset, model, seed = where
    goal = "" if goal == "untargeted" else goal
    said = (head, goal, str(dataset), str(model), f"seed {seed}" if seed else "")
    return " · ".join(part for part in said if part)


def numbers(
    run: Results, what: str, own: Row | None, best: Row | None, value: str
) -> tuple[tuple[str, str, str, str], ...]:
    """The large numbers of one seed: what the model has by itself, then what its best defense has."""
    found = []
    for row in (own, best):
        if row is not None and np.isfinite(row[value]):
            helped = own is None or (row[value] - own[value]) * (-1 if value == "error" else 1) > 0
            whose, tone = OWN if row is own else best_label(row["defense"], helped)
            label = f"{what}, {whose}" if run.defended else what
            found.append((label, percent(row[value]), interval(row["lo"], row["hi"]), tone))
    return tuple(found)


def best_label(defense: str, helped: bool) -> tuple[str, str]:
    """What a large number of the best defense is called, and its tone; one that does not help goes by its name."""
    return ("best defense", "good") if helped else (plain(defense), "bad")


def over_seeds(
    run: Results, what: str, means: pd.DataFrame, said: Sequence[str]
) -> tuple[tuple[tuple[str, str, str, str], ...], tuple[tuple[str, str, Entry], ...], tuple[str, ...]]:  # fmt: skip
    """Numbers, bars and sentences of a card over several seeds: means with their deviation, no ranks.

    means: rows of `over_seeds` of one metric, the best first.
    """
    rows = means.to_dict("records")
    own = next((row for row in rows if row["defense"] == "none" and np.isfinite(row["mean"])), None)
    best = next((row for row in rows if row["defense"] != "none" and row["sound"] and not row["bound"]), None)
    sign = -1 if means["metric"].eq("mean_error").all() else 1
    helped = own is None or best is None or sign * best["mean"] > sign * own["mean"]
    figures = tuple((f"{what}, {whose}" if run.defended else what, mean_entry(row).text, _seeds(row), tone)
                    for row, (whose, tone) in ((own, OWN), (best, best_label(best["defense"] if best else "", helped)))
                    if row is not None)  # fmt: skip
    named = [(called(run, r["defense"], what) + (f", {r['attack']}" if r["attack"] not in ("", TOGETHER) else ""), r)
             for r in rows]  # fmt: skip
    left = [f"{name}: {row['left_out']}" for name, row in named if row["left_out"]]
    spread = (f"Not in a mean: {'. '.join(left)}.",) if left else ()
    bars = tuple(("", name, mean_entry(row)) for name, row in named)
    return figures, bars, ("Mean ± sample standard deviation; thin lines span the seeds.", *said, *spread)


def _seeds(row: Row) -> str:
    return f"{row['seeds']} seeds" if row["sound"] == row["seeds"] else f"{row['sound']} of {row['seeds']} seeds"


def no_help(defense: str, reached: str) -> str:
    """What is said where the best of the defenses is no better than none; without its full stop."""
    return f"No defense helps ({plain(defense)}: {reached})"


def untold(defense: str, reached: str) -> str:
    """What is said of a defense that looks better, where nothing tells it from none; without its full stop."""
    return f"The best defense, {plain(defense)}, {reached}: too few images to tell that from no defense"


def listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def not_measured(title: str, where: str, what: str, cells: Sequence[Row], order: tuple[float, ...]) -> Answer:
    """The answer where nothing has a number: that nothing was measured, and why."""
    why = "; ".join(list(dict.fromkeys(reason(cell) for cell in cells))[:2])
    said = f"Not measured: {what}: {why}."
    numbers = (("verdict", "not measured", "", ""),)
    return Answer(title, where, numbers, (), (said,), said=(said,), order=(NOT_MEASURED, *order))


def reason(cell: Row) -> str:
    """Why a cell has no number, in its own words: 'square failed: it raised'."""
    who = str(cell["attack"] or cell["shift"] or cell["scenario"])
    on = f" on {plain(cell['defense'])}" if cell["defense"] != "none" else ""
    told = str(cell["sentence"] or "").rstrip(".")
    return f"{who}{on} is {cell['status']}" if not told else f"{who}{on} {_was(cell['status'])}: {told}"


def _was(status: str) -> str:
    return status if status == "failed" else f"is {status}"
