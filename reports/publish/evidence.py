"""One page for somebody who audits: what a run tested of what Article 15 of the EU AI Act asks for, and what not.

Self-contained and offline, in the report's look. It proves measurement, not conformity, and holds nothing that differs
between two runs of one sweep on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robustsuite.config import taxonomy
from robustsuite.integrity.checks import PUBLISHED

from ..answers.opening import cautions
from ..boards import site
from ..measure import coverage
from ..measure.compare import title
from ..measure.grades import label, shown
from ..measure.worst import worst_case
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, counted, error, words
from ..render.text import number
from ..render.text import words as spoken
from ..sections.every.costs import made_with
from .duties import Duty, duties, unclassed

GAPS = (coverage.UNTESTED, coverage.UNFOUNDED)

KINDS = {coverage.TESTED: "tested", coverage.SCREENED: "provisional", coverage.DOUBTED: "provisional",
         **dict.fromkeys(GAPS, "gap")}  # fmt: skip
"""How a standing looks; it stands there in words as well."""

LEAD = (
    "A report proves measurement, not conformity. This page sets what one run measured beside what Article 15 of the "
    "EU AI Act, Regulation (EU) 2024/1689, asks in its paragraphs 3 to 5, and names what was not measured. It does not "
    "say whether the Article applies, which level is appropriate, or that a duty is fulfilled.",
    f"Tested: no check doubts the number, and it is no screening. Screening: fewer than {PUBLISHED} images, or attacks "
    "below their least. In doubt: a check warned; accuracy under attack is then an upper bound. Not established: a "
    "check failed. Not tested: there is no number.",
)
FOOT = (
    "Every number is recomputed from stored per-example rows. Intervals are 95 %: Clopper-Pearson for rates, bootstrap "
    f"for means. Classes by {taxonomy.NIST_EDITION}, techniques by {taxonomy.ATLAS_VERSION}; which duty a class falls "
    "under is the reading of this suite."
)

Named = Callable[[coverage.System], str]


def render(run: Results) -> str:
    """The page as text, every name escaped."""
    found, name = duties(run), _namer(run)
    sections = (
        _in_short(found), *(_section(duty, name) for duty in found), _unclassed(run, name), _planned(run), _made(run),
    )  # fmt: skip
    page = site.Page(
        run.title, "Evidence on Article 15 of the EU AI Act", tuple(s for s in sections if s.tables), note=run.note,
        lead=(*LEAD, _about(run)), cautions=tuple(cautions(run, worst_case(run))), foot=FOOT,
    )  # fmt: skip
    return site.render(page)


def _about(run: Results) -> str:
    """What was measured, and with what, in two sentences."""
    version, commit, device = (
        ", ".join(dict.fromkeys(str(v)[:most] for v in run.cells[name] if v))
        for name, most in (("suite_version", None), ("commit", 12), ("device", None))
    )
    commit, on = f", commit {commit}" if commit else "", f", on {device}" if device else ""
    done = int(run.cells["status"].isin(["done", "inert"]).sum())
    without, known = len(run.cells) - done + run.absent + len(run.skipped), len(coverage.systems(run))
    return (
        f"Measured with robustsuite {version}{commit}{on}: {known} system{'s' if known > 1 else ''}, "
        f"{done} cells with a number and {without} without. Versions, and hashes of weights and data, stand at the end."
    )


def _namer(run: Results) -> Named:
    """What a system is called: its model and defenses, its data set and seed where there are several."""
    known = coverage.systems(run)
    data, seeds = len({s.dataset for s in known}) > 1, len({s.seed for s in known}) > 1

    def name(system: coverage.System) -> str:
        behind = ", undefended" if system.defense == "none" else f" behind {system.defense}"
        on, seed = f" on {system.dataset}" if data else "", f", seed {system.seed}" if seeds else ""
        return f"{system.model}{behind}{on}{seed}"

    return name


def _in_short(found: Sequence[Duty]) -> Section:
    """How many systems stand where: a row for each thing that a duty asks and each standing that any has."""
    rows = []
    for duty in found:
        asked = Entry(f"{duty.article} {duty.title}", href=f"#{duty.name}")
        for what in dict.fromkeys(row.name for row in duty.covered):
            mine = [row for row in duty.covered if row.name == what]
            for standing in coverage.STANDINGS:
                alike = [row for row in mine if row.standing == standing]
                under = ", ".join(dict.fromkeys(threat for row in alike for threat in row.under))
                if alike:
                    rows.append((Entry(f"{len(alike)} of {len(mine)} {standing}", kind=KINDS[standing]),
                                 Entry(_class(what)), asked, Entry(under or "–")))  # fmt: skip
    columns = ("systems", "what", "Article 15", "under")
    table = Table("in-short", "How many systems were tested, and how far", "", columns, tuple(rows))
    return Section("short", "In short", (), (table,))


def _class(name: str) -> str:
    known = taxonomy.NIST.get(name)
    return f"{name} {known.name}" if known else name


def _section(duty: Duty, name: Named) -> Section:
    """What was done for one duty, and then what was not."""
    found = [_results(f"{duty.name}-done", "What was measured", duty.lines, name)] if duty.lines else []
    if gaps := _gaps(duty, name):
        columns = ("status", "what", "of which systems", "why")
        found.append(Table(f"{duty.name}-gaps", "Not tested, or not established", "", columns, gaps))
    return Section(duty.name, f"Art. 15{duty.article}: {duty.title}", duty.lead, tuple(found))


def _gaps(duty: Duty, name: Named) -> tuple[tuple[Entry, ...], ...]:
    """What has no number that stands, the systems that share a reason in one row."""
    alike: dict[tuple[str, str, str], list[coverage.System]] = {}
    for row in duty.covered:
        if row.standing == coverage.UNTESTED or (row.standing in GAPS and row.name in taxonomy.NIST):
            alike.setdefault((row.name, row.standing, row.why), []).append(row.system)
    every = len({row.system for row in duty.covered})
    return tuple(
        (_chip(standing), Entry(_class(what)),
         Entry("every system" if len(mine) == every > 1 else "; ".join(map(name, mine))), Entry(why))
        for (what, standing, why), mine in alike.items()
    )  # fmt: skip


def _chip(standing: str) -> Entry:
    return Entry(standing, kind=KINDS[standing])


def _results(table: str, title: str, lines: Sequence[coverage.Line], name: Named) -> Table:
    """A row a result; columns that say nothing of any are left out."""
    columns = ("status", "system", "under", "measure", "result", "images", "grade", "what was done", "classes",
               "rests on")  # fmt: skip
    rows = [_result(line, name) for line in lines]
    kept = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    return Table(table, title, "", tuple(columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))


def _result(line: coverage.Line, name: Named) -> tuple[Entry, ...]:
    rests = [*([f"families: {', '.join(line.families)}"] if line.families else []), *line.notes]
    return (
        _chip(line.standing), Entry(name(line.system)), Entry(_under(line)),
        Entry(spoken(line.score.metric, str(line.cell["norm"]) if line.cell else "")), _score(line),
        counted(line.score.n, number(line.score.n)), label(line.grade, line.screening), Entry(", ".join(line.means)),
        Entry(", ".join((*line.nist, *line.atlas))), Entry("; ".join(rests)),
    )  # fmt: skip


def _under(line: coverage.Line) -> str:
    """The adversary: its name, what it may change, what it wants and what it sees; a shift set by its name alone."""
    if line.cell is None:
        return line.what
    cell = line.cell
    goal = str(cell["goal"]) if cell["goal"] != "untargeted" else ""
    sees = f"sees {cell['access']}" if cell["access"] else ""
    return "; ".join(part for part in (line.what, str(cell["budget"]), goal, sees) if part)


def _score(line: coverage.Line) -> Entry:
    """The number with its interval, as its grade lets it stand; an upper bound only of accuracy under attack."""
    score = line.score
    if score.k < 0:
        entry = Entry(f"{number(score.value)} ({number(score.lo)}–{number(score.hi)})", float(score.value))
    else:
        entry = (error if line.better == "less" else accuracy)(score.value, score.lo, score.hi)
    bound = line.cell is not None and line.cell["scenario"] == "evasion"
    return shown(entry, line.grade if bound or line.grade == "INVALID" else "", "; ".join(line.notes))


def _unclassed(run: Results, name: Named) -> Section:
    """Results whose records name no class."""
    lead = ("Measured, and counted for no duty above: the attacks' records name no class that the table has (made "
            "before cards said so, or of somebody else's attack), or noise alone was drawn.",)  # fmt: skip
    lines = unclassed(run)
    return Section("unclassed", "Of no stated class", lead,
                   (_results("unclassed", "What was measured", lines, name),) if lines else ())  # fmt: skip


def _planned(run: Results) -> Section:
    """Cells that were planned and have no number, with the sentence that says why."""
    missing = [(str(cell["status"]), title(cell), str(cell["sentence"]))
               for cell in run.known.values() if cell["status"] not in ("done", "inert")]  # fmt: skip
    missing += [("absent", what, "planned, and not there yet") for what in run.unfinished]
    if more := run.absent - len(run.unfinished):
        missing.append(("absent", f"{more} cells", "planned, and not there yet; the run does not name them"))
    missing += [("unreadable", *line.partition(": ")[::2]) for line in run.skipped]
    rows = [(Entry(f"{coverage.UNTESTED}: {status}", kind="gap"), Entry(what), Entry(why))
            for status, what, why in missing]  # fmt: skip
    table = Table("planned", "Cells", "", ("status", "cell", "why"), tuple(rows))
    return Section("planned", "Planned, and not measured", (), (table,) if rows else ())


def _made(run: Results) -> Section:
    """What it was measured with, hashes and the root of the seal among it, and the editions that ids are of."""
    rows = [*made_with(run), (words("classes by"), Entry(taxonomy.NIST_EDITION)),
            (words("techniques by"), Entry(taxonomy.ATLAS_VERSION))]  # fmt: skip
    table = Table("provenance", "Measured with", "", ("what", "value"), tuple(rows))
    return Section("provenance", "Provenance", (), (table,))
