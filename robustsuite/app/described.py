"""What sweep.json says of the planned cells: axes, names, what entries stand for, and each cell in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

from robustsuite.engine.execute import Planned
from robustsuite.engine.sweep import Sweep, asked
from robustsuite.errors import BadValue
from robustsuite.records.swept import LONGEST
from robustsuite.scenarios.cell import Cell


def description(sweep: Sweep, cells: list[Planned], first: int | None = None) -> dict[str, Any]:
    """What sweep.json holds of these planned cells: the axes in the user's order, and the notes a reader must see."""
    axes: dict[str, dict[str, None]] = {axis: {} for axis in ("model", "dataset", "defense", "shift")}
    threats: dict[str, dict[str, None]] = {}
    notes: dict[str, None] = {}
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    for cell, _ in cells:
        words, cycle = cell.words(), cell.lifecycle
        for axis, entry in cell.asked_for.items():
            said = f"{words['threat']}: {words['attack']}" if axis == "attack" else str(words[axis])
            if said not in entries.setdefault(axis, {}):
                entries[axis][said] = entry.model_dump() | (_pictures(cell) if axis == "dataset" else {})
        for axis, found in axes.items():
            if (word := words[axis]) is not None:
                found[word] = None
        if words["threat"]:
            threats.setdefault(words["threat"], {})[str(words["attack"])] = None
        notes |= {note: None for note in (cycle.data.note, cycle.model.note) if note}
    models, data, defenses, shifts = map(list, axes.values())
    return {
        "name": sweep.name, "title": sweep.title or sweep.name, "note": "; ".join(notes), "models": models,
        "data": data, "defenses": defenses, "shifts": shifts, "threats": {k: list(v) for k, v in threats.items()},
        "names": names_of(cells), "entries": entries, "sweep": asked(sweep, first).model_dump(mode="json"),
        "cells": list(dict.fromkeys(cell.run_id for cell, _ in cells)), "planned": titles_of(cells),
        "bills": [],
    }  # fmt: skip


def _pictures(cell: Cell) -> dict[str, Any]:
    """What is known of the pictures that a data set's entry is judged on."""
    sha256 = cell.judged.sha256 if cell.judged else ""
    data = cell.lifecycle.data
    return {"sha256": sha256, "classes": list(data.spoken or data.classes)}


def titles_of(cells: list[Planned]) -> dict[str, str]:
    """What each cell is, by run id, with those of its model, data set and seed that not all of them have."""
    about = {cell.run_id: (label(cell), *_system(cell)) for cell, _ in cells}
    apart = [i for i, values in enumerate(zip(*about.values(), strict=True)) if i == 0 or len(set(values)) > 1]
    return {run_id: ", ".join(said[i] for i in apart)[:LONGEST] for run_id, said in about.items()}


def _system(cell: Cell) -> tuple[str, str, str]:
    cycle = cell.lifecycle
    return cycle.model.name, cycle.data.name, f"seed {cycle.seed}"


def label(cell: Cell) -> str:
    """'linf: pgd on rift'; of an undefended system 'fog 3'."""
    said = cell.words() | {axis: name for axis, name in cell.names.items() if name}
    what = said["attack"] or said["shift"]
    if not said["attack"] and cell.variant and cell.shift != "clean":
        what = f"{cell.variant.corruption or said['shift']} {cell.variant.severity or ''}".strip()
    threat = f"{said['threat']}: " if said["threat"] else ""
    return f"{threat}{what}" + (f" on {said['defense']}" if cell.lifecycle.defenses else "")


def names_of(cells: list[Planned]) -> dict[str, dict[str, str]]:
    """What `as` calls the entries, by axis and words; raises BadValue for one entry of two names, two of one."""
    names: dict[str, dict[str, str]] = {}
    for cell, _ in cells:
        words = cell.words() if any(cell.names.values()) else {}
        for axis, name in cell.names.items():
            entry = str(words.get(axis))
            if name and names.setdefault(axis, {}).setdefault(entry, name) != name:
                raise BadValue(f"expected one name for {entry}, got {names[axis][entry]!r} and {name!r}; keep one")
    for axis, found in names.items():
        if taken := [name for name, times in Counter(found.values()).items() if times > 1]:
            raise BadValue(f"expected another name for each {axis} after `as`, got {taken[0]!r} for several; mend it")
    return names
