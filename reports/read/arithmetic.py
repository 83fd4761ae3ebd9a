"""What the rows of a cell say of each other, of its record and of its pictures: what cannot be, whoever sealed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustsuite.records.pictures import Kept
from robustsuite.records.schema import Budget, CellRecord
from robustsuite.records.seal import named

SLACK = 1e-4
"""Relative difference of a distance that is measured anew."""

FORGIVEN = 5e-7
"""Of a radius, relative and absolute: less than what any budget but l0's forgives."""

NORMS = ("linf", "l2", "l1", "l0")
"""Budgets whose distance is a length of what was added."""

Columns = Mapping[str, NDArray[Any]]
Flags = NDArray[np.bool_]
Sentence = tuple[str, Flags]
"""What is wrong, and with which rows (N,)."""


def asked(record: CellRecord) -> Iterator[str]:
    """Where a record says two things of what was asked, or of how much there is."""
    for used in (*record.defenses, *((record.attack,) if record.attack else ())):
        for name, value in used.given.items():
            if used.parameters and used.parameters.get(name, value) != value:
                yield f"{used.name} was given {name}={value!r}, and ran with {used.parameters[name]!r}"
    if record.status == "done" and record.data.n and record.rows != record.data.n:
        yield f"{record.rows} rows of {record.data.n} examples: rows were taken away, or added"


def arithmetic(record: CellRecord, columns: Columns) -> Iterator[Sentence]:
    """What cannot be, of the rows of a scenario of ours. Raises KeyError for rows of another."""
    scenario, label = record.scenario.name, columns.get("label")
    yes = {name: column.astype(bool) for name, column in columns.items() if column.dtype.kind == "b"}
    if "robust" in yes and "clean_ok" in yes:
        yield "robust, and not right unattacked", yes["robust"] & ~yes["clean_ok"] & (scenario != "shift")
    if label is None:
        return
    said = columns.get("prediction")
    if said is not None and "clean_ok" in yes and scenario != "shift":
        yield "right unattacked, and answered with another class than the label", yes["clean_ok"] & (said != label)
    if scenario == "shift" and said is not None:
        yield "right, and answered with another class than the label", yes["robust"] & (said != label)
    if scenario == "evasion":
        yield from _evasion(record, columns, yes)
    if scenario == "certification":
        yield "proven, and not right", (columns["radius"] > 0) & ~yes["clean_ok"]
        eps = record.threat.budget.eps if record.threat else None
        if eps is not None:
            reach = yes["clean_ok"] & (columns["radius"] >= eps * (1 - 1e-6))
            yield "robust without a proof that reaches so far, or the other way round", yes["robust"] != reach
    if scenario == "poisoning":
        yield "a success where the trigger is not meant", yes["triggered_as_target"] & ~yes["eligible"]


def _evasion(record: CellRecord, columns: Columns, yes: Mapping[str, Flags]) -> Iterator[Sentence]:
    none = np.zeros(len(columns["index"]), dtype=bool)
    right, fooled, inside = yes["clean_ok"], yes["fooled"], yes["in_budget"]
    fell, gone = right & fooled & inside, yes.get("unanswered", none)
    yield "the verdict is not what the other columns lead to", yes["robust"] != (right & ~fell & ~gone)
    budget = record.threat.budget if record.threat else Budget()
    if budget.eps is not None:
        far = columns["distance"] > budget.eps * (1 + SLACK) + SLACK
        yield "inside the budget, and farther away than it reaches", right & inside & far
        near = columns["distance"] <= _surely(budget.eps, budget.norm)
        yield "fooled within the distance that the budget reaches, and not inside it", right & fooled & ~inside & near
    if budget.queries is not None and "robust_surrogate" not in columns:  # each route has as many
        yield "more queries than an image may be asked", columns["queries"] > budget.queries
    answer, goal = columns.get("answer"), record.threat.goal.name if record.threat else ""
    if answer is None or goal != "untargeted":
        return
    same = answer == columns["label"]
    yield "broken, and still answered with its label", fell & same
    yield "standing, and answered with another class than its label", (
        right & inside & ~fooled & ~gone & (answer >= 0) & ~same)  # fmt: skip
    if "wrong_share" not in columns:  # of a random system one draw's answer stands for many
        yield "rejected, and answered", yes["rejected"] & (answer >= 0)


def measured(record: CellRecord, columns: Columns, part: Kept) -> Iterator[str]:
    """What kept pictures are against what their rows say."""
    places = {int(example): i for i, example in enumerate(columns["index"])}
    rows = np.array([places.get(int(example), -1) for example in part.ids])
    if (rows < 0).any():
        yield f"pictures of examples that it has no rows of: {named(part.ids[rows < 0])}"
        return
    if record.scenario.name != "evasion" or record.threat is None:
        return
    budget = record.threat.budget
    if budget.norm and budget.norm not in (*NORMS, *REGIONS):
        return  # a rendered picture does not show what it was rendered with
    moved = _distance(part, budget.norm)
    said, right, inside = (columns[name][rows] for name in ("distance", "clean_ok", "in_budget"))
    off = right & (np.abs(moved - said) > SLACK * np.maximum(1, np.abs(said)))
    if off.any():
        yield f"pictures at another distance than their rows say: {named(part.ids[off])}"
    if budget.eps is None:
        return
    box = ((part.adversarial >= 0) & (part.adversarial <= 1)).reshape(len(part.ids), -1).all(1)
    out = (moved > budget.eps * (1 + SLACK) + SLACK) | ~box
    near = (moved <= _surely(budget.eps, budget.norm)) & box
    for what, off in (("outside of", out & inside), ("inside", near & ~inside & right)):
        if off.any():
            yield f"pictures {what} the budget, and their rows say otherwise: {named(part.ids[off])}"


def _surely(eps: float, norm: str) -> float:
    """A distance up to which no budget of this radius says no."""
    return eps if norm == "l0" else eps * (1 + FORGIVEN) + FORGIVEN


def _distance(part: Kept, norm: str) -> NDArray[np.float64]:
    """How far (M,) each picture was moved, in this norm."""
    difference = np.abs(part.adversarial.astype(np.float64) - part.clean.astype(np.float64))
    if norm in REGIONS:
        return REGIONS[norm](difference.max(1) > 0)
    moved = difference.reshape(len(part.ids), -1)
    if norm == "linf":
        return np.asarray(moved.max(1))
    if norm == "l2":
        return np.asarray(np.sqrt(np.square(moved).sum(1)))
    return np.asarray(moved.sum(1) if norm == "l1" else (moved > 0).sum(1).astype(np.float64))


def _square(changed: Flags) -> NDArray[np.float64]:
    """The share (M,) of a picture that the smallest square around its changed pixels (M, H, W) has."""
    sides = []
    for axis in (1, 2):
        line = changed.max(3 - axis)
        sides.append(np.where(line.max(1), line.shape[1] - line.argmax(1) - line[:, ::-1].argmax(1), 0))
    return np.asarray(np.maximum(*sides) ** 2 / (changed.shape[1] * changed.shape[2]), dtype=np.float64)


def _depth(changed: Flags) -> NDArray[np.float64]:
    """How many pixels (M,) from the border the innermost changed one (M, H, W) stands; 1 at the border, 0 for none."""
    down, across = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in changed.shape[1:])
    return np.asarray((changed * np.minimum(down[:, None], across[None, :])).max((1, 2)), dtype=np.float64)


REGIONS = {"patch": _square, "frame": _depth}
"""Sets that are read from where a picture is changed."""
