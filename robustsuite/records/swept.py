"""What was swept, as sweep.json holds it beside the cells. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from robustsuite.records.schema import Stream

LONGEST = 200
"""Characters of a word."""

Word = Annotated[str, Field(min_length=1, max_length=LONGEST)]
Sentence = Annotated[str, Field(min_length=1, max_length=1000)]


class Entry(BaseModel):
    """What an entry's name stands for: what was asked in full, and of a data set the hash of the pictures judged on.

    spec: the entry as a sweep's yaml has it, without its `as`; None for what no yaml can say. twins: other entries of
    the sweep, in the same words, that its name is told apart from: alone it would have another, and other ids.
    classes: of a data set what its classes are called, in the order of the outputs.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    asked: str = ""
    sha256: str = ""
    spec: Any = None
    twins: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()


class Asked(BaseModel):
    """What a sweep asked for besides its entries: threats by name without their attacks, and its options.

    first: examples of each data set that cells are judged on at the most.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    first: int | None = None
    hosts: tuple[str, ...] = ()
    stream: Stream | None = None
    threats: dict[str, dict[str, Any]] = {}


class Part(BaseModel):
    """The cells of a sweep with what it calls its entries and what these stand for, by axis and words.

    An attack stands under its threat's name and its own: 'linf: pgd(steps=50)'. sweep: what else was asked, None where
    the sweep is of a version that did not say.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    cells: tuple[str, ...] | None = None
    names: dict[str, dict[str, Word]] = {}
    entries: dict[str, dict[str, Entry]] = {}
    sweep: Asked | None = None


class SweepFacts(Part):
    """The axes in the user's order and the planned cells.

    names: what the user calls an entry, by axis (a column of tables) and the entry's words. parts: the sweeps that were
    merged into this one, where they call other things by one name. planned: what each cell is, in words, also of one
    that is not there. bills: what services were sent for it and answered, a sentence each.
    """

    name: str = ""
    title: str = ""
    note: str = ""
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()
    threats: dict[str, tuple[str, ...]] = {}
    parts: tuple[Part, ...] = ()
    planned: dict[str, Word] = {}
    bills: tuple[Sentence, ...] = ()

    def shares(self) -> tuple[Part, ...]:
        """The sweeps that it is made of, itself where it is one."""
        return self.parts or (Part(cells=self.cells, names=self.names, entries=self.entries, sweep=self.sweep),)


def class_names(
    cells: Iterable[tuple[str, int, Mapping[str, str]]], shares: Sequence[Part]
) -> dict[str, tuple[str, ...]]:
    """What the classes of each data set are called, by its name in tables; nothing of one whose sweeps disagree.

    cells: that name, whose of `shares` the cell is, and the words of its entries by axis.
    """
    said: dict[str, set[tuple[str, ...]]] = {}
    for name, share, words in {(name, share, words["dataset"]) for name, share, words in cells}:
        entry = shares[share].entries.get("dataset", {}).get(words)
        if entry is not None and entry.classes:
            said.setdefault(name, set()).add(entry.classes)
    return {name: next(iter(found)) for name, found in said.items() if len(found) == 1}
