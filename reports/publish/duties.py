"""The duties of Article 15(3) to (5) of the EU AI Act in our own words, and what of a run bears on each.

Regulation (EU) 2024/1689. Which duty a result bears on is our reading, by the class of NIST AI 100-2 that the attack's
record names (`config/taxonomy.py`). A system that others were tested beside, and that was not, is told as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustsuite.config import taxonomy

from ..measure import coverage
from ..read.runs import Results

OUTSIDE = "outside of what this suite measures"

ORDERS = {"listed": "listed", "shuffled": "shuffled", "threat": "in the order of its threat"}
"""How a system that adapts was asked."""


@dataclass(frozen=True)
class Duty:
    """One duty: where it stands, what it asks, each system's standing by what was asked of it, and the results."""

    name: str
    article: str
    title: str
    lead: tuple[str, ...]
    covered: tuple[coverage.Covered, ...]
    lines: tuple[coverage.Line, ...] = ()


THREATS = {
    taxonomy.DATA: "Others change what a model is trained on, so that it errs, learns nothing or opens a door.",
    taxonomy.MODEL: "Others tamper with the model, or with a trained part that goes into it.",
    taxonomy.EVASION: "Others make inputs that the model gets wrong. A proof covers every input in its ball, whoever "
    "looks for one.",
    taxonomy.SECRETS: "Others draw out of the model what it was trained on, or the model itself.",
    taxonomy.FLAWS: "Others make use of faults of the model itself.",
    taxonomy.OTHER: "The paragraph's first sentence: others alter what a system does in a way that its list lacks.",
}
"""What each threat of paragraph 5 is."""

MEASURES = (
    "The paragraph asks for measures that prevent, detect, answer, resolve and control such attacks, where they are "
    "appropriate. Measured is how a system stands when it is attacked, not those measures."
)


def duties(run: Results) -> list[Duty]:
    """Every duty, in the order of the Article."""
    attacked, classes = coverage.under_attack(run), coverage.classes(run)
    return [_accuracy(run), _faults(run), _fail_safe(run), _feedback(run),
            *(_threat(run, threat, attacked, classes) for threat in taxonomy.THREATS)]  # fmt: skip


def unclassed(run: Results) -> list[coverage.Line]:
    """Results under attacks whose records name no class that the table has: they bear on no duty."""
    return [line for line in coverage.under_attack(run) if not set(line.nist) & set(taxonomy.NIST)]


def _accuracy(run: Results) -> Duty:
    lines = tuple(coverage.unattacked(run))
    lead = ("Levels of accuracy, and the metrics for them, are stated to those who use the system. Here with the "
            "interval and the number of images that a statement needs.",)  # fmt: skip
    return Duty("accuracy", "(3)", "accuracy and its metrics", lead,
                tuple(_met(run, "accuracy on clean pictures", lines, "no cell measured it")), lines)  # fmt: skip


def _faults(run: Results) -> Duty:
    lines = tuple(coverage.shifted(run))
    sets = [name for name in dict.fromkeys(run.cells["shift"]) if name not in ("", "clean")]
    covered = [row for name in sets
               for row in _met(run, f"shift set {name}", [line for line in lines if line.what == f"shift set {name}"],
                               "no number for the whole of it")]  # fmt: skip
    lead = (
        "A system withstands errors, faults and inconsistencies, its own and its surroundings'. Measured by sets "
        "of pictures that were changed or are of another origin; what else may go wrong around it is not.",
    )
    return Duty("faults", "(4)", "errors, faults and inconsistencies", lead,
                tuple(covered or _met(run, "any shift set", (), "no shift set is in this run")), lines)  # fmt: skip


def _fail_safe(run: Results) -> Duty:
    lead = ("Robustness may come of technical redundancy: backups, and a safe way to fail.",)
    return Duty("redundancy", "(4)", "redundancy and fail-safe", lead,
                tuple(_met(run, "redundancy and fail-safe", (), OUTSIDE)))  # fmt: skip


def _feedback(run: Results) -> Duty:
    """Which systems adapt is told; that their own answers come back as inputs is played by no scenario."""
    streams = ((coverage.system_of(cell), cell["record"].data.stream) for cell in run.known.values())
    adapts = {system: stream for system, stream in streams if stream is not None}
    covered = []
    for system in coverage.systems(run):
        stream = adapts.get(system)
        said = ("no cell of it was played as a stream" if stream is None else
                f"it adapts while it is asked, and was, {ORDERS[stream.order]}, in batches of "
                f"{stream.batch}")  # fmt: skip
        why = f"{said}; feedback is {OUTSIDE}"
        covered.append(coverage.Covered("feedback loops", system, coverage.UNTESTED, (), why))
    lead = ("Of systems that go on learning, biased outputs are kept from coming back as inputs.",)
    return Duty("feedback", "(4)", "feedback loops of systems that go on learning", lead, tuple(covered))


def _threat(run: Results, threat: str, attacked: Sequence[coverage.Line], classes: Sequence[coverage.Covered]) -> Duty:
    mine = {name for name, known in taxonomy.NIST.items() if known.threat == threat}
    covered = [row for row in classes if row.name in mine]
    why = f"no class of {taxonomy.NIST_EDITION} stands for it alone; {OUTSIDE}"
    lines = tuple(line for line in attacked if mine & set(line.nist))
    lead = (THREATS[threat], *((MEASURES,) if threat == taxonomy.THREATS[0] else ()))
    return Duty(threat.replace(" ", "-"), "(5)", threat, lead,
                tuple(covered or _met(run, threat, (), why)), lines)  # fmt: skip


def _met(run: Results, name: str, lines: Sequence[coverage.Line], why: str) -> Iterable[coverage.Covered]:
    """Each system's standing by its line among these, `why` where it has none."""
    found = {line.system: line for line in lines}
    for system in coverage.systems(run):
        line = found.get(system)
        if line is None:
            yield coverage.Covered(name, system, coverage.UNTESTED, (), why)
        else:
            yield coverage.Covered(name, system, line.standing, (), _why(line))


def _why(line: coverage.Line) -> str:
    return "; ".join(part for part in (line.screening, *line.notes) if part)
