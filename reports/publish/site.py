"""The leaderboard as a static site: an index, a page a threat, a page a union, a page a cell. No script but its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..measure.compare import title
from ..measure.grades import label
from ..measure.scores import Score, cell_scores
from ..measure.tables import flags_of
from ..render.document import Entry, Section, Table, accuracy, counted, words
from ..render.html import FILTER_FROM, TEMPLATES, environment
from ..render.text import number, percent, points, pvalue, ranks
from ..render.text import words as spoken
from .leaderboard import Board, Standing, union_name
from .published import MARK, Published

SHOWN = 200
"""Example rows on a page; the csv beside it holds all."""
FOOT = (
    "Every number is recomputed from stored per-example rows. Intervals are exact 95 % (Clopper-Pearson); ranks are "
    "ranges from exact McNemar tests on the same images, Holm-corrected within a board; equal ranges are ties."
)
FACTS = (
    "run_id", "status", "grade", "screening", "scenario", "threat", "budget", "access", "goal", "model", "defense",
    "attack", "dataset", "shift", "corruption", "severity", "seed", "n", "sentence", "seconds", "forwards", "backwards",
    "queries", "device", "dtype", "suite_version", "commit", "dirty", "weights_sha256", "data_sha256", "started",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One page: where it stands (crumbs), what it says, tables; `body` is html that is already escaped."""

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


def render(page: Page) -> str:
    """The page as text, every name escaped."""
    files = {"css": "report.css", "js": "report.js", "more": "leaderboard.css"}
    parts = {name: Markup((TEMPLATES / file).read_text("utf-8")) for name, file in files.items()}
    return environment().get_template("leaderboard.html.j2").render(page=page, filter_from=FILTER_FROM, **parts)


def index_page(
    name: str, note: str, boards: Sequence[Board], files: Mapping[str, str], cautions: Sequence[str]
) -> Page:
    """The way in: a row a board. `files` maps a threat to its page."""
    rows = []
    for i, board in enumerate(boards):
        best = next((s for s in board.standings if s.ranks[0] == 1), None)
        score = best and (best.lower if board.scenario == "certification" else best.upper)
        leader = best.name if best else "nothing ranked" if board.standings else "–"
        tied = sum(s.ranks[0] == 1 for s in board.standings) - 1
        rows.append((
            Entry(board.threat, board.threat, href=f"{files[board.threat]}#board-{i + 1}"), words(board.scenario),
            words(board.budget), words(board.dataset), counted(len(board.standings), str(len(board.standings))),
            counted(len(board.published), str(len(board.published))),
            Entry(leader + (f" (tied with {tied} more)" if tied > 0 else "")),
            (_score(score) if board.metric else _number(score, "")) if score else Entry("–", -1.0),
        ))  # fmt: skip
    columns = ("threat", "scenario", "budget", "data", "measured", "published", "leader", "its score")
    table = Table("boards", "Boards", "", columns, tuple(rows))
    lead = "One board a threat, budget and data set. Systems are compared on the same images only."
    return Page(name, "Leaderboard", (Section("boards-all", "", (), (table,)),), (), note, (lead,),
                (("leaderboard.json", "leaderboard.json"),), tuple(cautions))  # fmt: skip


def threat_page(threat: str, boards: Sequence[tuple[int, Board]], links: Mapping[tuple[int, str], str]) -> Page:
    """All boards of one threat; `links` maps (board, system) to the page of its examples."""
    sections = []
    for i, board in boards:
        where = " on ".join(part for part in (board.budget, board.dataset) if part)
        lead = [f"The adversary sees: {board.access}."] if board.access else []
        if board.scenario == "evasion":
            lead.append("Proven: certified at this radius, a lower bound. Attacked: right under every attack at once, "
                        "an upper bound. The truth lies between.")  # fmt: skip
        if board.metric:
            lead.append(f"By {spoken(board.metric)}, under the attack that hurts a system most; equal ranges are ties.")
        tables = [_scored(i, board) if board.metric else _standings(i, board, links)]
        if board.scenario == "evasion" and board.standings:
            tables.append(_attacks(i, board))
        if board.pairs:
            tables.append(_pairs(i, board))
        sections.append(Section(f"board-{i + 1}", where or threat, tuple(lead), tuple(tables)))
    return Page(threat, "Leaderboard", tuple(sections), (("All boards", "index.html"),))


def _standings(i: int, board: Board, links: Mapping[tuple[int, str], str]) -> Table:
    rows = [_standing(s, links[i, s.name]) for s in board.standings]
    rows += [_published(p, board) for p in board.published]
    columns = ("rank", "system", "proven (at least)", "attacked (at most)", "no attack", "strongest attack", "n",
               "grade", "source", "notes")  # fmt: skip
    # A board of published rows alone has no ranks and no proofs, one without them needs no word on where rows are from.
    kept = [k for k, name in enumerate(columns) if any(row[k].text not in ("", "–") for row in rows)
            and (name != "source" or board.published)]  # fmt: skip
    shown = tuple(tuple(row[k] for k in kept) for row in rows)
    return Table(f"standings-{i + 1}", "Standings", "", tuple(columns[k] for k in kept), shown)


def _scored(i: int, board: Board) -> Table:
    """The standings of a scenario by its own score."""
    rows = tuple(
        (Entry(ranks(*s.ranks) or "–", s.ranks[0] or 10**6), words(s.name), _scored_entry(s),
         words(s.strongest), counted(s.upper.n if s.upper else 0, number(s.upper.n if s.upper else 0)),
         label(s.grade, s.screening),
         Entry("; ".join(filter(None, (s.unranked, "inert: same as undefended" if s.inert else "")))))
        for s in board.standings
    )  # fmt: skip
    columns = ("rank", "system", spoken(board.metric), "under", "n", "grade", "notes")
    return Table(f"standings-{i + 1}", "Standings", "", columns, rows)


def _scored_entry(s: Standing) -> Entry:
    run_id = next((run_id for attack, run_id, _ in s.attacks if attack == s.strongest), "")
    entry = _score(s.upper) if s.upper else Entry("–", -1.0)
    return replace(entry, struck=s.struck, href=f"cells/{run_id}.html" if run_id else "")


def _standing(s: Standing, examples: str) -> tuple[Entry, ...]:
    proof = f"cells/{s.proof[1]}.html" if s.proof[1] else ""
    upper = _number(
        s.upper, examples if s.attacks else "", s.flags, s.struck, below=bool(s.missing) or s.grade == "PROVISIONAL"
    )
    lower = _number(s.lower, proof, s.flags if not s.attacks else "", s.struck and not s.attacks)
    notes = [s.unranked, f"without {s.missing}" if s.missing and not s.unranked else "",
             f"flagged {s.flags}" if s.flags else "", "inert: same as undefended" if s.inert else "",
             f"proof: {s.proof[0]}, n = {s.lower.n}" if s.lower and s.attacks else s.proof[0]]  # fmt: skip
    first = s.upper if s.attacks else s.lower
    n = first.n if first else 0
    notes += [f"on the {n} of {s.of} images that every attack met"] if n < s.of else []
    clean = counted(s.clean.value, percent(s.clean.value)) if s.clean else Entry("–", -1.0)
    return (
        Entry(ranks(*s.ranks) or "–", s.ranks[0] or 10**6), words(s.name), lower, upper, clean, words(s.strongest),
        counted(n, number(n)), label(s.grade, s.screening), words("measured"),
        Entry("; ".join(note for note in notes if note)),
    )  # fmt: skip


def _published(row: Published, board: Board) -> tuple[Entry, ...]:
    said = [*row.notes[1:], row.architecture, f"{row.title} ({row.venue})" if row.venue else row.title]
    if row.eps and board.scenario == "evasion" and row.eps != board.eps:
        said.insert(0, f"at eps {row.eps:g}")
    return (
        Entry("–", 10**6 + 1), Entry(row.model, row.model, href=row.link), Entry("–", -1.0),
        Entry(percent(row.robust), row.robust), counted(row.clean, percent(row.clean)),
        Entry("AutoAttack" if row.norm else "common corruptions"), Entry("–", -1.0), Entry("–"),
        Entry(MARK, kind="published"),
        Entry("; ".join(part for part in said if part)),
    )  # fmt: skip


def _number(score: Score | None, href: str, flags: str = "", struck: bool = False, *, below: bool = False) -> Entry:
    if score is None:
        return Entry("–", -1.0)
    found = accuracy(score.value, score.lo, score.hi, note=flags, struck=struck)
    text = f"≤ {found.text}" if below else found.text
    return Entry(text, found.key, found.note, found.struck, bar=found.bar, href=href)


def _attacks(i: int, board: Board) -> Table:
    rows = tuple(
        (words(s.name), Entry(attack, attack, href=f"cells/{run_id}.html"),
         Entry(percent(left), left, href=f"cells/{run_id}.html"), Entry(run_id[:8], run_id, kind="code"))
        for s in board.standings for attack, run_id, left in s.attacks
    )  # fmt: skip
    return Table(f"attacks-{i + 1}", "Every attack alone", "each number opens its cell",
                 ("system", "attack", "leaves standing", "cell"), rows)  # fmt: skip


def _pairs(i: int, board: Board) -> Table:
    rows = tuple(
        (words(a), words(b), counted(test.difference, points(test.difference)), counted(test.only_a, str(test.only_a)),
         counted(test.only_b, str(test.only_b)), counted(test.n, number(test.n)), counted(p, pvalue(p)),
         Entry("different" if p < 0.05 else "tie", kind="done" if p < 0.05 else "tie"))
        for a, b, test, p in board.pairs
    )  # fmt: skip
    columns = ("a", "b", "a − b", "only a right", "only b right", "n", "p (Holm)", "outcome")
    return Table(f"pairs-{i + 1}", "Which differences are real", "exact McNemar, Holm", columns, rows)


def union_page(board: Board, standing: Standing, robusts: pd.DataFrame, page: str) -> Page:
    """The images behind one union: a row an image, a column an attack. `robusts` is what `union_rows` returned."""
    names = [column for column in robusts.columns if column not in ("index", "label")]
    links = {attack: run_id for attack, run_id, _ in standing.attacks}
    rows = tuple(
        (counted(row["index"], str(row["index"])), words(row["label"]), *(_mark(bool(row[name])) for name in names))
        for row in robusts.head(SHOWN).to_dict("records")
    )  # fmt: skip
    table = Table("examples", "Images", _rows_of(robusts), ("index", "label", *names), rows)
    left = standing.upper
    stand = f"{left.k} of {left.n} stand under all of them at once" if left else ""
    lead = f"Right without attack, and under each attack alone; {stand}."
    cells = tuple((attack, f"../cells/{run_id}.html") for attack, run_id in links.items())
    return Page(f"{board.threat}: {standing.name}", "Examples", (Section("rows", "", (), (table,)),),
                (("All boards", "../index.html"), (board.threat, f"../{page}")), "", (lead,),
                (("all rows (csv)", f"{union_name(board, standing)}.csv"), *cells))  # fmt: skip


def _mark(stands: bool) -> Entry:
    return Entry("stands", 1.0, kind="won") if stands else Entry("falls", 0.0, kind="lost")


def _rows_of(rows: pd.DataFrame) -> str:
    return f"the first {SHOWN} of {len(rows)}" if len(rows) > SHOWN else f"all {len(rows)}"


def cell_page(cell: Mapping[Any, Any], rows: pd.DataFrame, back: tuple[str, str]) -> Page:
    """One cell: what it measured, its record, its images."""
    scores = tuple(
        (Entry(spoken(s.metric, cell["norm"])), _score(s), counted(s.n, number(s.n))) for s in cell_scores(cell, rows)
    )
    facts = tuple(
        (words(name.replace("_", " ")), Entry(_plainly(cell[name]), kind="code"))
        for name in FACTS if not empty(cell.get(name))
    )  # fmt: skip
    names = list(rows.columns)
    examples = tuple(tuple(_value(row[name]) for name in names) for row in rows.head(SHOWN).to_dict("records"))
    tables = (
        Table("scores", "Scores", "", ("measure", "value", "n"), scores),
        Table("examples", "Images", _rows_of(rows), tuple(names), examples),
        Table("record", "Record", "", ("fact", "value"), facts),
    )
    run_id = cell["run_id"]
    flags = (f"Flagged: {flags_of(cell)}",) if cell["flags"] else ()
    files = ("record (json)", f"{run_id}.json"), ("all rows (csv)", f"{run_id}.csv")
    crumbs = ("All boards", "../index.html"), back
    return Page(title(cell), "Cell", (Section("cell", "", (), tables),), crumbs, links=files, cautions=flags)


def _score(s: Score) -> Entry:
    if s.k >= 0:
        return accuracy(s.value, s.lo, s.hi)
    return counted(s.value, f"{number(s.value)} ({number(s.lo)}–{number(s.hi)})")


def empty(value: Any) -> bool:
    """Whether a record has nothing to say here: None, "", NaN."""
    return value is None or value == "" or (isinstance(value, float) and pd.isna(value))


def _plainly(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(value: Any) -> Entry:
    if isinstance(value, bool):
        return Entry("yes" if value else "no", float(value))
    if isinstance(value, int | float):
        return Entry(f"{value:.4g}" if isinstance(value, float) else str(value), float(value))
    return Entry(str(value))
