"""The leaderboard as a static site: pages of boards. The index shows the boards themselves, then what there is of them.

Other pages stand in `unions.py` (the images behind a number) and `cell_pages.py` (every cell).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from markupsafe import Markup

from ..measure.grades import label
from ..measure.ranked import FEWEST
from ..measure.scores import Score
from ..render.document import Entry, Section, Table, accuracy, counted, words
from ..render.html import FILTER_FROM, TEMPLATES, environment
from ..render.rows import most_shown, scripts
from ..render.text import number, percent, points, pvalue, ranks
from ..render.text import words as spoken
from .leaderboard import Board, Standing
from .outcome import about, deciding, found, heading, leaders, where
from .published import MARK, Published

WHOLE, LEADING = 12, 10
"""Boards that the index shows, and systems of each."""
CELLS = "cells.html"
"""The page that lists every cell."""
FOOT = (
    "Every number is recomputed from stored per-example rows. Intervals are 95 %: of rates exact (Clopper-Pearson), "
    "else by the bootstrap. Ranks are ranges from paired tests on the same images, Holm-corrected within a board: "
    f"exact McNemar where each image has a verdict, else the bootstrap, from {FEWEST} images on. Equal ranges are ties."
)
ORDER = (
    "How systems stand under attack: those with a rank, the best of them first, then those without one, with the "
    "reason. Ranks compare the same images only."
)
READ = (
    "Attacked, at most: the share of images still answered right under every attack at once; a better attack can only "
    "lower it. Proven, at least: the share that a certifier guarantees. A number that is called a screening (few "
    "images, or weak attacks) or PROVISIONAL (a check warned) is no verdict on a system; one that is struck through "
    "is INVALID."
)


@dataclass(frozen=True)
class Page:
    """One page: where it stands (crumbs), what it says, tables; `body` is html that is already escaped.

    code: headings, sentences and what is to be copied, '' for nothing. beside: its styles and scripts stand in files
    of the folder above, as they do where pages are many; else in the page.
    """

    title: str
    kind: str
    sections: tuple[Section, ...]
    crumbs: tuple[tuple[str, str], ...] = ()
    note: str = ""
    lead: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    cautions: tuple[str, ...] = ()
    foot: str = FOOT
    body: str | Markup = ""
    code: tuple[tuple[str, str, str], ...] = ()
    beside: bool = False


def assets() -> dict[str, str]:
    """The styles and scripts that pages in folders share, by file name."""
    css = ("report.css", "tables.css", "leaderboard.css", "rows.css", "gallery.css")
    return {"site.css": _joined(css), "site.js": _joined(("report.js",))}


def render(page: Page) -> str:
    """The page as text, every name escaped; of its long tables the first rows, where it is not one of many."""
    most, found = {} if page.beside else most_shown(page.sections), assets()
    more = (_joined(("rows.js",)) if most else "",)
    parts = {"css": Markup(found["site.css"]), "js": Markup("\n".join((found["site.js"], *more)))}
    template = environment().get_template("leaderboard.html.j2")
    return template.render(page=page, filter_from=FILTER_FROM, most=most, **({} if page.beside else parts))


def files(name: str, page: Page) -> dict[str, str]:
    """The page under its name, and the rows of its long tables in `rows/` beside it."""
    return {name: render(page), **scripts(page.sections, most_shown(page.sections))}


def _joined(names: Sequence[str]) -> str:
    return "\n".join((TEMPLATES / name).read_text("utf-8") for name in names)


def index_page(
    name: str, note: str, boards: Sequence[Board], files: Mapping[str, str], cautions: Sequence[str],
    links: Mapping[tuple[int, str], str],
) -> Page:  # fmt: skip
    """The way in: the first boards with their first systems, then all of them. `files` maps a threat to its page."""
    sections = []
    for i, board in enumerate(boards[:WHOLE]):
        tables = (replace(_standings(i, board, links, LEADING), name=f"best-{i + 1}"),)
        lead = (*about(board), found(board))
        href = f"{files[board.threat]}#board-{i + 1}"
        sections.append(Section(f"board-{i + 1}", heading(board), tuple(filter(None, lead)), tables, href=href))
    beyond = f" This page shows the first {WHOLE} of {len(boards)}." if len(boards) > WHOLE else ""
    all_ = f"A board is one threat, one budget and one data set.{beyond}"
    sections.append(Section("boards", "All boards", (all_,), (_directory(boards, files),)))
    opening = (ORDER, READ)
    links_ = ("every cell, with filters", CELLS), ("leaderboard.json", "leaderboard.json")
    return Page(name, "Leaderboard", tuple(sections), (), note, opening, links_, tuple(cautions))


def _directory(boards: Sequence[Board], files: Mapping[str, str]) -> Table:
    rows = []
    for i, board in enumerate(boards):
        first, why = leaders(board)
        score = deciding(board, first[0]) if first else None
        said = first[0].name if first else why
        rows.append((
            Entry(board.threat, board.threat, href=f"{files[board.threat]}#board-{i + 1}"),
            Entry(said + (f" (tied with {len(first) - 1} more)" if len(first) > 1 else "")),
            (score_entry(score) if board.metric else _number(score, "")) if score else Entry("–", -1.0),
            words(board.budget), words(board.dataset), words(board.scenario),
            counted(len(board.standings), str(len(board.standings))),
            counted(len(board.published), str(len(board.published))),
        ))  # fmt: skip
    columns = ("threat", "leader", "its score", "budget", "data", "scenario", "measured", "published")
    picks = tuple(name for name in ("data", "scenario") if len({row[columns.index(name)].text for row in rows}) > 1)
    return Table("boards", "", "a threat opens its boards", columns, tuple(rows), "",
                 picks if len(boards) > WHOLE else ())  # fmt: skip


def threat_page(threat: str, boards: Sequence[tuple[int, Board]], links: Mapping[tuple[int, str], str]) -> Page:
    """All boards of one threat; `links` maps (board, system) to the page of its examples."""
    sections = []
    for i, board in boards:
        goal = f", {board.goal}" if len({b.goal for _, b in boards}) > 1 else ""
        at = where(board) + goal
        told = f" · {at}" if len(boards) > 1 else ""
        tables = [replace(_standings(i, board, links), title=f"Standings{told}")]
        if board.scenario == "evasion" and board.standings:
            tables.append(_attacks(i, board, f"Every attack alone{told}"))
        if board.pairs:
            tables.append(_pairs(i, board, f"Which differences are real{told}"))
        sections.append(Section(f"board-{i + 1}", at, (*about(board), found(board)), tuple(tables)))
    every = (("every cell of this threat, also those without a number", cells_of(threat)),)
    links_ = every if any(board.standings for _, board in boards) else ()
    return Page(threat, "Leaderboard", tuple(sections), (("All boards", "index.html"),), "", (READ,), links_)


def cells_of(threat: str) -> str:
    """The list of cells with this threat chosen."""
    return f"{CELLS}#{urlencode({'threat': threat})}"


def _standings(i: int, board: Board, links: Mapping[tuple[int, str], str], most: int | None = None) -> Table:
    """A board's table: of `most` systems, all for None."""
    if board.metric:
        columns, rows = _scored(board)
    else:
        rows = [_standing(s, links[i, s.name], board) for s in board.standings]
        rows += [_published(p, board) for p in board.published]
        bounds = ("attacked (at most)", "proven (at least)")
        bounds = bounds[::-1] if board.scenario == "certification" else bounds
        columns = ("rank", "system", *bounds, "grade", "strongest attack", "no attack", "n", "source", "notes")
    # A board of published rows alone has no ranks and no proofs, one without them needs no word on where rows are from.
    kept = [k for k, name in enumerate(columns) if any(row[k].text not in ("", "–") for row in rows[:most])
            and (name != "source" or board.published)]  # fmt: skip
    shown = tuple(tuple(row[k] for k in kept) for row in rows[:most])
    left = f"the first {most} of {len(rows)} rows; " if most and len(rows) > most else ""
    caption = f"{left}the title opens the whole board" if most else ""
    return Table(f"standings-{i + 1}", "", caption, tuple(columns[k] for k in kept), shown, "")


def _scored(board: Board) -> tuple[tuple[str, ...], list[tuple[Entry, ...]]]:
    """The standings of a scenario by its own score."""
    rows: list[tuple[Entry, ...]] = [
        (Entry(ranks(*s.ranks) or "–", s.ranks[0] or 10**6), words(s.name), _scored_entry(s),
         label(s.grade, s.screening), words(s.strongest),
         counted(s.upper.n if s.upper else 0, number(s.upper.n if s.upper else 0)),
         Entry("; ".join(filter(None, (s.unranked, "inert: same as undefended" if s.inert else "")))))
        for s in board.standings
    ]  # fmt: skip
    return ("rank", "system", spoken(board.metric), "grade", "under", "n", "notes"), rows


def _scored_entry(s: Standing) -> Entry:
    run_id = next((run_id for attack, run_id, _ in s.attacks if attack == s.strongest), "")
    entry = score_entry(s.upper) if s.upper else Entry("–", -1.0)
    return replace(entry, struck=s.struck, href=f"cells/{run_id}.html" if run_id else "")


def _standing(s: Standing, examples: str, board: Board) -> tuple[Entry, ...]:
    proof = f"cells/{s.proof[1]}.html" if s.proof[1] else ""
    first = s.upper if s.attacks else s.lower
    n = first.n if first else 0
    # Flags are of the number that the row is about: what an attack found stands where a proof failed its check.
    below = bool(s.missing) or s.grade == "PROVISIONAL"
    if s.attacks:
        upper, lower = _number(s.upper, examples, s.flags, s.struck, below=below), _number(s.lower, proof, beside=n)
    else:
        upper, lower = _number(s.upper, "", beside=n), _number(s.lower, proof, s.flags, s.struck)
    notes = [s.unranked, f"without {s.missing}" if s.missing and not s.unranked else "",
             f"flagged {s.flags}" if s.flags else "", "inert: same as undefended" if s.inert else "",
             f"proof: {s.proof[0]}" if s.lower and s.attacks else s.proof[0]]  # fmt: skip
    notes += [f"on the {n} of {s.of} images that every attack met"] if n < s.of else []
    clean = counted(s.clean.value, percent(s.clean.value)) if s.clean else Entry("–", -1.0)
    bounds = (lower, upper) if board.scenario == "certification" else (upper, lower)
    return (
        Entry(ranks(*s.ranks) or "–", s.ranks[0] or 10**6), words(s.name), *bounds, label(s.grade, s.screening),
        words(s.strongest), clean, counted(n, number(n)), words("measured"),
        Entry("; ".join(note for note in notes if note)),
    )  # fmt: skip


def _published(row: Published, board: Board) -> tuple[Entry, ...]:
    said = [*row.notes[1:], row.architecture, f"{row.title} ({row.venue})" if row.venue else row.title]
    if row.eps and board.scenario == "evasion" and row.eps != board.eps:
        said.insert(0, f"at eps {row.eps:g}")
    return (
        Entry("–", 10**6 + 1), Entry(row.model, row.model, href=row.link), Entry(percent(row.robust), row.robust),
        Entry("–", -1.0), Entry("–"), Entry("AutoAttack" if row.norm else "common corruptions"),
        counted(row.clean, percent(row.clean)), Entry("–", -1.0), Entry(MARK, kind="published"),
        Entry("; ".join(part for part in said if part)),
    )  # fmt: skip


def _number(
    score: Score | None, href: str, flags: str = "", struck: bool = False, *, below: bool = False, beside: int = 0
) -> Entry:
    """A rate with its interval; with its own n where that is another than the one that stands in its row (`beside`)."""
    if score is None:
        return Entry("–", -1.0)
    found = accuracy(score.value, score.lo, score.hi, note=flags, struck=struck)
    text = f"≤ {found.text}" if below else found.text
    text += f", n = {number(score.n)}" if beside and score.n != beside else ""
    return Entry(text, found.key, found.note, found.struck, bar=found.bar, href=href)


def _attacks(i: int, board: Board, title: str) -> Table:
    rows = tuple(
        (words(s.name), Entry(attack, attack, href=f"cells/{run_id}.html"),
         Entry(percent(left), left, href=f"cells/{run_id}.html"), Entry(run_id[:8], run_id, kind="code"))
        for s in board.standings for attack, run_id, left in s.attacks
    )  # fmt: skip
    return Table(f"attacks-{i + 1}", title, "each number opens its cell",
                 ("system", "attack", "leaves standing", "cell"), rows, "")  # fmt: skip


def _pairs(i: int, board: Board, title: str) -> Table:
    rows = tuple(
        (words(a), words(b), counted(test.difference, points(test.difference)), counted(test.only_a, str(test.only_a)),
         counted(test.only_b, str(test.only_b)), counted(test.n, number(test.n)), counted(p, pvalue(p)),
         Entry("different" if p < 0.05 else "tie", kind="done" if p < 0.05 else "tie"))
        for a, b, test, p in board.pairs
    )  # fmt: skip
    columns = ("a", "b", "a − b", "only a right", "only b right", "n", "p (Holm)", "outcome")
    return Table(f"pairs-{i + 1}", title, "exact McNemar, Holm", columns, rows, "")


def score_entry(s: Score) -> Entry:
    """A score with its interval; of a rate with its bar."""
    if s.k >= 0:
        return accuracy(s.value, s.lo, s.hi)
    return counted(s.value, f"{number(s.value)} ({number(s.lo)}–{number(s.hi)})")
