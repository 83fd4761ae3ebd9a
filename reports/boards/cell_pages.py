"""Every cell in one list with filters, and the page of each: scores, images, why its grade, where it is from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from robustsuite.integrity.checks import CHECKS, PUBLISHED, check_of, level_of
from robustsuite.records.schema import CellRecord

from ..examples.gallery import PICTURES, cell_gallery
from ..measure.classes import named
from ..measure.compare import title
from ..measure.grades import label, shown
from ..measure.scores import cell_scores, flag_names, headline, measured_as, scores
from ..read.runs import Results
from ..render.adversary import described
from ..render.document import Entry, Section, Table, accuracy, counted, words
from ..render.text import duration, number, plain, size
from ..render.text import words as spoken
from ..sections.every.checks_table import MEANING
from .meanings import MEASURES, of_column
from .recompute import Again, again
from .site import CELLS, Page, cells_of, score_entry

SHOWN = 200
"""Example rows on a page; the csv beside it holds all."""
MANY, FEW = 1000, 20
"""Cells of a site beyond which a page shows fewer example rows, and how many; a cell's own rows have no csv then."""
FEW_PICTURES = 2
"""Pictures on the page of a cell of such a site."""
CHOICES = 300
"""Values of a column that a reader can choose among."""
PICKS = ("threat", "defense", "model", "attack", "shift", "data", "grade", "status")
FIRST = {"index": "index", "file": "file", "label": "true class", "prediction": "answer, no attack",
         "answer": "answer, attacked"}  # fmt: skip
"""Columns of examples that come first, and what they are called; a class of -1 is no answer."""
CLASSES = ("label", "prediction", "answer")


def browse_page(run: Results) -> Page:
    """Every cell in a row, those without a number with their reason where the number would stand."""
    found = scores(run)
    heads = {row["run_id"]: row for row in found.to_dict("records") if row["metric"] == _head(run, row["run_id"])}
    rows = [_row(cell, heads.get(run_id)) for run_id, cell in run.known.items()]
    names = ("defense", "model", "attack", "result", "n", "grade", "status", "threat", "shift", "variant", "measure",
             "data", "seed")  # fmt: skip
    varying = [i for i, name in enumerate(names) if name == "result" or len({row[i].text for row in rows}) > 1]
    alike = (f"{name} {rows[0][i].text}" for i, name in enumerate(names) if i not in varying and rows[0][i].text != "–")
    columns = tuple(names[i] for i in varying)
    picks = tuple(n for n in PICKS if n in columns and len({row[names.index(n)].text for row in rows}) <= CHOICES)
    table = Table("cells", "", ", ".join(alike), columns, tuple(tuple(row[i] for i in varying) for row in rows), "",
                  picks)  # fmt: skip
    lead = (
        "A cell is one attack, or one shifted set of pictures, on one system. A result opens its images, why it has "
        "its grade and the command that computes it again; where there is none, the reason stands in its place."
    )
    return Page(f"{run.title}: every cell", "Cells", (Section("all", "", (), (table,)),),
                (("All boards", "index.html"),), run.note, (lead,))  # fmt: skip


def _head(run: Results, run_id: str) -> str:
    source = measured_as(run.known[run_id], run.known)
    return headline(source) if source is not None else ""


def _row(cell: Mapping[Any, Any], score: Mapping[Any, Any] | None) -> tuple[Entry, ...]:
    href = f"cells/{cell['run_id']}.html"
    if score is None:
        result = Entry(cell["sentence"] or cell["status"], kind="why")
    elif score["k"] >= 0:
        result = shown(accuracy(score["value"], score["lo"], score["hi"]), cell["grade"], flag_names(cell))
    else:
        result = shown(counted(score["value"], number(score["value"])), cell["grade"], flag_names(cell))
    variant = " ".join([cell["corruption"], *([f"{cell['severity']:.0f}"] if pd.notna(cell["severity"]) else [])])
    measure = spoken(score["metric"], cell["norm"]) if score else "–"
    n = int(score["n"] if score else cell["n"])
    return (
        words(cell["defense"]), words(cell["model"]), _or_dash(cell["attack"]), replace(result, href=href),
        counted(n, number(n)), label(cell["grade"] or "–", cell["screening"]),
        Entry(cell["status"], kind=cell["status"]), _or_dash(cell["threat"]), _or_dash(cell["shift"]),
        _or_dash(variant.strip()), words(measure), words(cell["dataset"]),
        counted(cell["seed"], str(cell["seed"])),
    )  # fmt: skip


def _or_dash(name: str) -> Entry:
    return words(name) if name else words("–")


def cell_page(run: Results, run_id: str, board: str = "") -> Page:
    """One cell: what it measured, why it has its grade, its images, how to compute it again, where it is from.

    board: the page of its threat, '' where no board has it.
    """
    cell = run.known[run_id]
    source = measured_as(cell, run.known)
    rows = run.examples(run_id) if cell["status"] == "done" else None
    about: CellRecord = cell["record"]
    lead = [described(about.threat, cell["scenario"])] if about.threat else []
    if cell["status"] != "done":
        lead.append(f"{cell['status']}: {cell['sentence']}" if cell["sentence"] else f"{cell['status']}.")
    sections = [Section("scores", "Scores", (), (_scores(source, run),))] if source is not None else []
    sections += [_graded(cell)] if cell["grade"] else []
    many = len(run.known) > MANY
    shown = cell_gallery(run, run_id, FEW_PICTURES if many else PICTURES)
    sections += [Section("pictures", "What the attack changed", galleries=(shown,))] if shown else []
    if rows is not None:
        tables = (_images(rows, named(run, cell["dataset"]), many), *_legend(cell["scenario"], rows))
        sections.append(Section("images", "Images", (), tables))
    sections.append(Section("record", "Where it is from", (), tuple(_provenance(cell))))
    links = [("record (json)", f"{run_id}.json")]
    links += [("all rows (csv)", f"{run_id}.csv")] if rows is not None and not many else []
    links += [("the undefended cell", f"{cell['same_as']}.html")] if cell["same_as"] in run.known else []
    crumbs = [("All boards", "../index.html"), *([(cell["threat"], f"../{board}")] if board else [])]
    crumbs.append(("Cells", f"../{cells_of(cell['threat']) if cell['threat'] else CELLS}"))
    code = _code(again(about, run.shares[cell["share"]]))
    name = title({**cell, "defense": plain(cell["defense"])})
    return Page(name, "Cell", tuple(sections), tuple(crumbs), lead=tuple(lead), links=tuple(links), code=code,
                beside=True)  # fmt: skip


def _scores(source: Mapping[Any, Any], run: Results) -> Table:
    rows = tuple(
        (Entry(spoken(s.metric, source["norm"])), score_entry(s), counted(s.n, number(s.n)),
         Entry(MEASURES.get(s.metric.partition("@")[0], "")))
        for s in cell_scores(source, run.columns(source["run_id"]))
    )  # fmt: skip
    keep = 4 if any(row[3].text for row in rows) else 3
    return Table("scores", "", "with 95 % intervals", ("measure", "value", "n", "what it is")[:keep],
                 tuple(row[:keep] for row in rows), "")  # fmt: skip


def _graded(cell: Mapping[Any, Any]) -> Section:
    """Why the cell has its grade: what it means, every flag with what its check says."""
    lead = [f"{cell['grade']}: {MEANING.get(cell['grade'], '')}."]
    if cell["screening"]:
        least = f"{PUBLISHED} images and an attack at its full strength"
        lead.append(f"A screening ({cell['screening']}): a look, not a number to publish; that takes {least}.")
    checks = {check.id: check for check in CHECKS}
    rows = tuple(
        (Entry(checks[check_of(name)].title if check_of(name) else name.replace("_", " ")),
         Entry(str(flag.get("detail") or "")), Entry(level_of(flag), kind=level_of(flag)),
         Entry(name, kind="code"), Entry(check_of(name) or "a plugin's own"))
        for flag in cell["flags"] for name in (str(flag.get("name", "flag")),)
    )  # fmt: skip
    table = Table("flags", "", "", ("what was checked", "what was found", "level", "flag", "check"), rows, "")
    return Section("grade", "Why this grade", tuple(lead), (table,) if rows else ())


def _images(rows: pd.DataFrame, called: Callable[[int], str], many: bool) -> Table:
    names = [*(name for name in FIRST if name in rows), *(str(name) for name in rows if name not in FIRST)]
    examples = tuple(
        tuple(_class(row[name], called) if name in CLASSES else _value(row[name]) for name in names)
        for row in rows.head(FEW if many else SHOWN).to_dict("records")
    )
    columns = tuple(FIRST.get(name, name.replace("_", " ")) for name in names)
    where = "; the run's folder has them all" if many and len(rows) > FEW else ""
    return Table("examples", "", rows_of(rows, many) + where, columns, examples, "")


def _legend(scenario: str, rows: pd.DataFrame) -> Iterator[Table]:
    """What the columns of the images say, but for those whose heads do."""
    said = {str(name): of_column(scenario, str(name)) for name in rows if name not in FIRST}
    told = tuple((Entry(name.replace("_", " ")), Entry(words)) for name, words in said.items() if words)
    if told:
        yield Table("columns", "What the columns say", "", ("column", "what it says"), told, "")


def rows_of(rows: pd.DataFrame, many: bool) -> str:
    """How many of the rows a page shows, in words; many: it is one of very many pages."""
    most = FEW if many else SHOWN
    return f"the first {most} of {len(rows)}" if len(rows) > most else f"all {len(rows)}"


def _class(value: int, called: Callable[[int], str]) -> Entry:
    return counted(value, called(value))


def _value(value: Any) -> Entry:
    if isinstance(value, bool):
        return words("yes") if value else words("no")
    if isinstance(value, int | float):
        return counted(value, f"{value:.4g}" if isinstance(value, float) else str(value))
    return Entry(str(value))


def _code(found: Again) -> tuple[tuple[str, str, str], ...]:
    """How the cell is computed again, in steps."""
    name = "Compute it again"
    if found.lacks:
        return ((name, f"No command is given: the run does not say {found.lacks}.", ""),)
    same = "It has the same run id under the versions and sources below. Paths are those of the folder it was run in."
    beside = " Entries that its own are told apart from by name are planned with it." if found.beside else ""
    if not found.sweep:
        return ((name, f"{same}{beside}", found.command),)
    return (name, f"Save this as {found.file}. {same}{beside}", found.sweep), ("", "Then:", found.command)


def _provenance(cell: Mapping[Any, Any]) -> Iterator[Table]:
    about: CellRecord = cell["record"]
    for name, heading, facts in (
        ("asked", "What was asked", _asked(cell, about)), ("made", "What it was made with", _made(about)),
        ("hashes", "What is the same byte for byte", _hashes(about)),
    ):  # fmt: skip
        rows = tuple((Entry(fact), Entry(str(value), kind="code")) for fact, value in facts if value not in ("", None))
        yield Table(name, heading, "", ("fact", "value"), rows, "")


def _asked(cell: Mapping[Any, Any], about: CellRecord) -> Iterator[tuple[str, Any]]:
    names = ("status", "scenario", "threat", "access", "budget", "goal", "model", "defense", "attack", "dataset",
             "shift", "corruption", "seed")  # fmt: skip
    yield from ((name, cell[name]) for name in names)
    yield "severity", "" if pd.isna(cell["severity"]) else f"{cell['severity']:.0f}"
    yield "images", about.data.n
    if about.shift and about.shift.head:
        yield "classes an answer is picked from (a sum of their numbers says which)", about.shift.head
    yield "pictures prepared by", about.shift.transform if about.shift else ""
    yield from ((f"attack's {key}", value) for key, value in (about.attack.parameters if about.attack else {}).items())
    for used in about.defenses:
        yield from ((f"{used.name}'s {key}", value) for key, value in used.parameters.items())


def _made(about: CellRecord) -> Iterator[tuple[str, Any]]:
    made, cost = about.made, about.cost
    dirty = ", with changes that were not committed" if made.dirty else ""
    yield "robustsuite", made.suite_version
    yield "its commit", f"{made.commit}{dirty}" if made.commit else ""
    yield from ((f"plugin {name}", version) for name, version in made.plugins.items())
    yield from ((f"package {name}", version) for name, version in made.packages.items())
    yield "device and number format", f"{made.device}, {made.dtype}" if made.device else ""
    yield "started", made.started
    yield "took", duration(cost.seconds)
    yield "memory at the most", size(cost.peak_bytes) if cost.peak_bytes else ""
    yield "forward and backward passes, in images", f"{number(cost.forwards)}, {number(cost.backwards)}"
    yield "questions of the attack, in all", number(cost.queries) if cost.queries else ""


def _hashes(about: CellRecord) -> Iterator[tuple[str, Any]]:
    """Each hash under what it is of."""
    yield "run id: all that the number depends on", about.run_id
    yield "pictures and labels judged on, sha256", about.data.sha256
    yield "model as named: its weights, or the recipe that trains them, sha256", about.model.sha256
    yield "network that was served and attacked: its weights, sha256", about.weights_sha256
    yield from ((f"what the model does besides its weights: {k}", v) for k, v in about.model.behaviour.items())
    if about.attack:
        yield f"source of the attack {about.attack.name}", about.attack.source
    yield from ((f"source of the defense {used.name}", used.source) for used in about.defenses)
    if about.threat:
        yield "the adversary's own network, sha256", about.threat.budget.terms.get("surrogate_sha256", "")
