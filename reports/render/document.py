"""What a report is before it has a format: sections of tables and figures that html, markdown and latex render."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pandas as pd

from .draw import Figure
from .text import interval, number, percent, plain

SHARED = 1 << 16
"""Entries that are made once, however many rows say the same."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell of a table: text, what it sorts by, why it is struck, a status word's kind, a bar, a link."""

    text: str
    key: float | str = ""
    note: str = ""
    struck: bool = False
    kind: str = ""
    bar: tuple[float, float, float] | None = None
    href: str = ""

    @property
    def choice(self) -> str:
        """What a reader chooses it by: its text, or its key where the text only says more. rows.js does the same."""
        return self.key if isinstance(self.key, str) and self.key and self.text.startswith(self.key) else self.text


@dataclass(frozen=True)
class Table:
    """Rows of entries under column names; `caption` says what is constant over the rows, `csv` which file has them.

    picks: columns whose values a reader may choose among; the rows of such a table stand in a script beside the page.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    csv: str = "scores.csv"
    picks: tuple[str, ...] = ()

    def choices(self, column: str) -> list[str]:
        """The different values of a column, in the order of the rows; 'SOUND' for 'SOUND, screening: 80 images'."""
        place = self.columns.index(column)
        return list(dict.fromkeys(row[place].choice for row in self.rows))


@dataclass(frozen=True)
class Answer:
    """The short answer for one threat against one model: a few large numbers, a bar per defense, a sentence or three.

    `numbers` are (label, number, interval, good or bad); `bars` are (rank, defense, entry); `n` images were judged.
    said: the same in the words that a report opens with: what decides in one sentence, then what to hold it against;
    nothing where another answer says it.
    order: where it stands among the others, the smallest first.
    """

    title: str
    where: str
    numbers: tuple[tuple[str, str, str, str], ...]
    bars: tuple[tuple[str, str, Entry], ...]
    sentences: tuple[str, ...]
    n: int = 0
    said: tuple[str, ...] = ()
    order: tuple[float, ...] = ()


@dataclass(frozen=True)
class Shot:
    """One attacked picture: PNG files of the clean one, the attacked one and their difference, and what is said of it.

    times: by how much the difference is magnified; shown: width and height in pixels of the page; enlarged: whether a
    pixel of the picture is several of these; words: the answers before and after; facts: the rest, a line each.
    """

    clean: bytes
    attacked: bytes
    difference: bytes
    times: float
    shown: tuple[int, int]
    enlarged: bool
    words: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Attacked pictures of one system under one threat; `png` draws bytes that hold them all, to stand in a file."""

    name: str
    title: str
    caption: str
    shots: tuple[Shot, ...]
    png: Callable[[], bytes]


@dataclass(frozen=True)
class Section:
    """A titled part; `passing` marks what differs between two runs of the same sweep and stays out of score files.

    order: where it stands in the document, the answer first: means over seeds 9, rankings 10, proofs 20, shifts 30,
    other scenarios 40 to 59, findings 60, comparisons 70, integrity 80, costs 90. href: what its title opens.
    """

    name: str
    title: str
    lead: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    passing: bool = False
    order: int = 50
    href: str = ""
    galleries: tuple[Gallery, ...] = ()


@dataclass(frozen=True)
class Part:
    """What a scenario adds to a report: sections, short answers for its top, tables for files by their name."""

    sections: tuple[Section, ...]
    answers: tuple[Answer, ...] = ()
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """A whole report: title with its note, counts, cautions, answers, sections.

    steps: what to do next, a sentence each. terms: the words that need saying, each with its meaning. roots: of the
    seals of its runs.
    """

    title: str
    note: str
    counts: tuple[tuple[str, int], ...]
    cautions: tuple[str, ...]
    answers: tuple[Answer, ...]
    sections: tuple[Section, ...] = field(repr=False)
    steps: tuple[str, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    roots: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[tuple[str, ...], ...]:
        """What the report opens with: the sentences of each threat, in the order of the answers."""
        return tuple(answer.said for answer in self.answers if answer.said)


def terms_of(section: Section, terms: Sequence[tuple[str, str]]) -> list[str]:
    """Which of these terms (with their meaning) the titles, leads, columns and marked entries of a section use."""
    told = [section.title, *section.lead, *(figure.caption for figure in section.figures)]
    for table in section.tables:
        told += [table.title, table.caption, *table.columns]
        told += {entry.text for row in table.rows for i, entry in enumerate(row) if entry.kind or not i}
    text = "\n".join(told)
    return [term for term, _ in terms
            if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text, 0 if term.isupper() else re.IGNORECASE)]  # fmt: skip


def undefended(section: Section) -> Section:
    """A section of a run without defenses: no column and no caption says so, none is headed by it."""

    def told(table: Table) -> Table:
        keep = [i for i, name in enumerate(table.columns) if name not in ("defense", "defenses")]
        columns = tuple("value" if table.columns[i] == plain("none") else table.columns[i] for i in keep)
        rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
        caption = ", ".join(part for part in table.caption.split(", ") if part != f"defense {plain('none')}")
        return replace(table, caption=caption, columns=columns, rows=rows)

    return replace(section, tables=tuple(map(told, section.tables)))


def with_n(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """The short answers, each with its own number of images where they differ: a proof is tried on fewer."""
    if len({answer.n for answer in answers}) < 2:
        return tuple(answers)
    return tuple(replace(a, where=f"{a.where} · {number(a.n)} images") if a.n else a for a in answers)


@lru_cache(maxsize=SHARED, typed=True)
def words(value: object) -> Entry:
    """A name or sentence as an entry."""
    return Entry(plain(str(value)), str(value))


@lru_cache(maxsize=SHARED, typed=True)
def counted(value: float, text: str) -> Entry:
    """A number as an entry: shown as `text`, sorted by value."""
    return Entry(text, float(value))


@lru_cache(maxsize=SHARED, typed=True)
def accuracy(value: float, lo: float, hi: float, *, note: str = "", struck: bool = False) -> Entry:
    """A rate with its interval, and the bar that draws both."""
    return Entry(f"{percent(value)} ({interval(lo, hi)})", float(value), note, struck, bar=(value, lo, hi))


def error(value: float, lo: float, hi: float) -> Entry:
    """An error rate with its interval: longer bars are worse, and coloured so."""
    return Entry(f"{percent(value)} ({interval(lo, hi)})", float(value), kind="error", bar=(value, lo, hi))


def split_constant(frame: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], str]:
    """Which of the columns vary and deserve a column, and the others as a caption: `model cnn, seed 0`."""
    varying = [name for name in names if frame[name].nunique() > 1]
    constant = [
        name for name in names if name not in varying and len(frame) and str(frame[name].iloc[0]) != ""
    ]
    return varying, ", ".join(f"{name} {plain(str(frame[name].iloc[0]))}" for name in constant)
