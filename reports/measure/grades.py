"""How a doubted number looks and ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from robustsuite.integrity.strength import families, shortfalls
from robustsuite.records.schema import CellRecord

from ..render.document import Entry

DOUBTED = ("PROVISIONAL", "INVALID")
"""What keeps a number out of rankings."""


def shown(entry: Entry, grade: str, note: str = "") -> Entry:
    """A number as its grade lets it stand: struck through, or as an upper bound, or as it is."""
    entry = replace(entry, struck=grade == "INVALID", note=note or entry.note)
    return replace(entry, text=f"≤ {entry.text}") if grade == "PROVISIONAL" and entry.bar is not None else entry


def label(grade: str, why: str) -> Entry:
    """A grade, and why it is a screening, where it is one: 'SOUND, screening: 80 images'."""
    return Entry(f"{grade}, screening: {why}" if grade and why else grade, grade, kind=grade.lower())


def alone(grade: str, why: str, record: CellRecord) -> Entry:
    """The same of one attack's cell, which is SOUND by all attacks of its threat: 'weak alone' where it searches less.

    Weak is what had less than its card's least, and what is of no family that counts, such as noise.
    """
    if grade != "SOUND" or (not shortfalls(record) and families(record)):
        return label(grade, why)
    return Entry(f"weak alone, screening: {why}" if why else "weak alone", kind="weak")


def worst_of(grades: Mapping[str, str], deciding: str, white: Collection[str]) -> str:
    """A union's grade: the deciding attack's, but PROVISIONAL where all on gradients (`white`) are in doubt."""
    own = grades.get(deciding, "")
    if set(grades.values()) == {"INVALID"}:
        return "INVALID"
    blind = bool(white) and all(grades[attack] in DOUBTED for attack in white)
    return "PROVISIONAL" if blind and own not in DOUBTED else own
