"""Class by class: who falls under a threat, and what the attacked pictures are taken for instead.

Rows say what was answered on the clean and on the attacked picture (`prediction`, `answer`; -1 for no answer). Cells
that lack the columns, as records of earlier versions do, are left out: nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.records.examples import Columns

from ..read.runs import Results, once
from ..render.adversary import knows
from ..render.text import short
from .scores import measured_as, rate
from .worst import GROUP, Survival, survivals, worst_case

MOST_ROWS = 100_000
"""Rows that a table of classes or pairs has; of so many systems that it would have more, the first ones are in it."""

LONGEST = 40
"""Characters of a class's name."""

NO_ANSWER = "no answer"
Ints = NDArray[np.int64]


def named(run: Results, dataset: str) -> Callable[[int], str]:
    """What to call a class of a data set by its number: its name, 'class 3' where it has none; -1 is no answer.

    Names that two classes share, and those that are words of ours, stand with the number.
    """
    said, times = _said(run).get(dataset, ((), Counter()))

    def name(k: int) -> str:
        own = said[k] if 0 <= k < len(said) else ""
        if k < 0 or not own:
            return NO_ANSWER if k < 0 else f"class {k}"
        ours = own == NO_ANSWER or re.search(r"class \d+\)?$", own)
        return f"{own} (class {k})" if ours or times[own] > 1 else own

    return name


@once
def _said(run: Results) -> dict[str, tuple[list[str], Counter[str]]]:
    """The names of each data set's classes as they can be shown, and how often each stands there."""
    found = {dataset: [_printable(name) for name in names] for dataset, names in run.classes.items()}
    return {dataset: (names, Counter(names)) for dataset, names in found.items()}


def _printable(name: str) -> str:
    return short(" ".join("".join(c if c.isprintable() else " " for c in name[: 4 * LONGEST]).split()), LONGEST)


@once
def sources(run: Results) -> dict[tuple[Any, ...], Mapping[Any, Any]]:
    """The cell whose examples speak for each evasion cell, by GROUP, defense and attack."""
    found = {}
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "evasion" else None
        if source is not None:
            found[(*(cell[name] for name in GROUP), cell["defense"], cell["attack"])] = source
    return found


def strongest(run: Results, member: Survival) -> Mapping[Any, Any]:
    """The cell of the attack that left least standing of this system."""
    return sources(run)[(*member.group, member.defense, member.strongest)]


def own(run: Results) -> list[Survival]:
    """The systems whose numbers are their own: without defenses that change nothing here."""
    return [member for member in survivals(run) if not member.inert or member.defense == "none"]


@once
def shown_systems(run: Results) -> list[Survival]:
    """Who stands for each threat, of several seeds the first: the undefended model and the best ranked defense.

    Those stand first whose adversary has most of the system.
    """
    first: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for member in survivals(run):
        first.setdefault(member.group[:-1], member.group)
    best: dict[tuple[Any, ...], Mapping[Any, Any]] = {}
    for row in worst_case(run).to_dict("records"):
        key = tuple(row[name] for name in GROUP)
        if row["rank_first"] and row["defense"] != "none" and (key not in best or _before(row, best[key])):
            best[key] = row
    shown = set(first.values())
    named = [m for m in own(run) if m.group in shown and m.defense in ("none", best.get(m.group, {}).get("defense"))]
    return sorted(named, key=lambda member: -knows(strongest(run, member)["record"]))


def _before(row: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Whether this one of two rows of the worst-case table stands first."""
    return (row["rank_first"], -row["robust_accuracy"]) < (other["rank_first"], -other["robust_accuracy"])


@once
def per_class(run: Results) -> pd.DataFrame:
    """Robust accuracy of every class under all attacks of a threat at once, with its interval, and without attack.

    One row a class with images, of every system whose numbers are its own; systems in order, and of each the class with
    the lowest upper end of its interval first, so that few images make no class the worst by chance.
    """
    rows: list[dict[str, Any]] = []
    for member in own(run):
        if len(rows) > MOST_ROWS:
            break
        of = _labels(run, member)
        if of is None:
            continue
        name = named(run, str(member.group[3]))
        robust, clean = member.robust.to_numpy(bool), member.clean.to_numpy(bool)
        mine = []
        for k in np.unique(of):
            score = rate("robust_accuracy", robust[of == k])
            mine.append(
                {"class": int(k), "name": name(int(k)), "robust_accuracy": score.value, "lo": score.lo, "hi": score.hi,
                 "k": score.k, "n": score.n, "clean_accuracy": float(clean[of == k].mean()), "grade": member.grade}
            )  # fmt: skip
        mine.sort(key=lambda row: (row["hi"], row["robust_accuracy"], row["class"]))
        whose = {**dict(zip(GROUP, member.group, strict=True)), "defense": member.defense}
        rows += [whose | row for row in mine]
    columns = [*GROUP, "defense", "class", "name", "robust_accuracy", "lo", "hi", "k", "n", "clean_accuracy", "grade"]
    return pd.DataFrame(rows, columns=columns)


def _labels(run: Results, member: Survival) -> Ints | None:
    """The class of each image that every attack met, (N,); None where the rows do not say."""
    rows = run.columns(strongest(run, member)["run_id"])
    if "label" not in rows:
        return None
    at = np.searchsorted(rows["index"], member.robust.index.to_numpy())
    return np.asarray(rows["label"][at], dtype=np.int64)


def taken(rows: Columns) -> tuple[Ints, Ints, Ints] | None:
    """Label, clean answer and attacked answer (N,) of every image of a cell; None where its rows do not say.

    The attacked answer is the clean one where nothing was attacked, and where what came back is outside the budget.
    """
    if not {"label", "prediction", "answer", "in_budget", "clean_ok"} <= set(rows):
        return None
    label, clean, answer = (rows[name].astype(np.int64) for name in ("label", "prediction", "answer"))
    counts = rows["clean_ok"].astype(bool) & rows["in_budget"].astype(bool)
    return label, clean, np.where(counts, answer, clean)


@once
def confusions(run: Results) -> pd.DataFrame:
    """What broken images are taken for under the strongest attack: a row a (label, answer), most frequent first.

    count: images that were right, are broken, and are answered so; wrong: those broken with any wrong answer; share:
    count of wrong. broken: all that are broken, so what is missing from the counts ended without an answer.
    """
    rows: list[dict[str, Any]] = []
    for member in own(run):
        if len(rows) > MOST_ROWS:
            break
        cell = strongest(run, member)
        name = named(run, str(member.group[3]))
        whose = {**dict(zip(GROUP, member.group, strict=True)), "defense": member.defense, "attack": member.strongest}
        rows += [whose | pair | {"grade": member.grades.get(member.strongest, "")}
                 for pair in _pairs(run.columns(cell["run_id"]), name)]  # fmt: skip
    columns = [*GROUP, "defense", "attack", "label", "answer", "label_name", "answer_name", "count", "share", "wrong",
               "broken", "grade"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _pairs(rows: Columns, name: Callable[[int], str]) -> Iterator[dict[str, Any]]:
    """The (label, answer) pairs of a cell's broken images, the most frequent first."""
    found = taken(rows)
    if found is None:
        return
    label, _, answer = found
    broken = rows["clean_ok"].astype(bool) & ~rows["robust"].astype(bool)
    wrong = broken & (answer >= 0) & (answer != label)
    pairs, counts = np.unique(np.stack([label[wrong], answer[wrong]]), axis=1, return_counts=True)
    for i in np.argsort(-counts, kind="stable"):
        a, b = map(int, pairs[:, i])
        count, ended = int(counts[i]), int(wrong.sum())
        yield {"label": a, "answer": b, "label_name": name(a), "answer_name": name(b), "count": count,
               "share": count / ended, "wrong": ended, "broken": int(broken.sum())}  # fmt: skip


def matrices(rows: Columns, most: int) -> tuple[Ints, Ints] | None:
    """Counts (K, K + 1) of label against answer, clean and attacked, the last column no answer.

    None where the rows do not say, and where K, the largest class seen and one, is below 2 or above `most`.
    """
    found = taken(rows)
    if found is None or not len(found[0]) or found[0].min() < 0:
        return None
    label, *answers = found
    k = 1 + max(int(values.max()) for values in found)
    if not 2 <= k <= most:
        return None
    both = []
    for answer in answers:
        counts = np.zeros((k, k + 1), dtype=np.int64)
        np.add.at(counts, (label, np.where(answer < 0, k, answer)), 1)
        both.append(counts)
    return both[0], both[1]
