"""What to do next, read from what a run lacks: each step only where it applies, what could change most first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from robustsuite.integrity.checks import PUBLISHED
from robustsuite.integrity.strength import shortfalls
from robustsuite.records.schema import CellRecord, radius_words

from ..measure.grades import DOUBTED
from ..measure.worst import GROUP, worst_case
from ..read.runs import Results, radius_of
from ..render.adversary import begun, knows, who
from ..render.text import number, plain
from ..sections.generic import groups
from . import cards

MOST = 6
"""Steps that are said; whoever took these reads the next report."""


def steps(run: Results) -> tuple[str, ...]:
    """Sentences, at most MOST; a command stands between backticks."""
    found = [*_finish(run), *_mend(run), *_strengthen(run), *_white_box(run), *_certify(run), *_refused(run),
             *_more_images(run)]  # fmt: skip
    return tuple(dict.fromkeys(found))[:MOST]


def _finish(run: Results) -> Iterator[str]:
    """What is not there yet, and what failed: the same command goes on."""
    failed = run.cells[run.cells["status"] == "failed"]
    if run.absent:
        one = run.absent == 1
        yield f"Run the same command again: {run.absent} planned cell{' is' if one else 's are'} not there yet."
    if len(failed):
        one = len(failed) == 1
        yield (f"Mend what failed and run the same command again: {len(failed)} cell{'' if one else 's'} "
               f"{'has' if one else 'have'} no number ({_told(cards.reason(failed.iloc[0].to_dict()))}).")  # fmt: skip


def _mend(run: Results) -> Iterator[str]:
    """Cells that failed a check, by what they raised."""
    invalid = run.cells[run.cells["grade"] == "INVALID"]
    if len(invalid):
        flags = [flag for row in invalid["flags"] for flag in row if flag.get("level") == "fail"]
        names = list(dict.fromkeys(str(flag["name"]) for flag in flags))
        detail = next((_told(flag["detail"]) for flag in flags if flag.get("detail")), "")
        raised = ", ".join(names) + (f": {detail}" if detail else "")
        cells = f"{len(invalid)} cell{'s' if len(invalid) > 1 else ''}"
        yield f"Find out why {cells} failed a check ({raised}): until then these numbers say nothing."


def _strengthen(run: Results) -> Iterator[str]:
    """What each threat that rests on too little lacks: more of what was played, and what its flag says to add; nothing
    of a model whose number under all attacks at once stands.
    """
    wanted: dict[tuple[str, str, str], dict[str, None]] = {}
    worst = worst_case(run)
    stand = worst[~worst["grade"].isin(DOUBTED)] if len(worst) else worst
    verdicts = set(map(tuple, stand[[*GROUP, "defense"]].itertuples(index=False))) if len(stand) else set()
    asked = run.cells[(run.cells["scenario"] == "evasion") & (run.cells["status"] != "inert")]
    for key, part in groups(asked, GROUP):
        cells = [cell for cell in part.to_dict("records") if (*key, cell["defense"]) not in verdicts]
        weak = [flag for cell in cells for flag in cell["flags"] if flag.get("name") in ("weak_alone", "one_family")]
        if not weak:
            continue
        met = [(cell["attack"], *_short(words), cell["record"]) for cell in cells if cell["status"] == "done"
               for words in shortfalls(cell["record"])]  # fmt: skip
        runs = list(dict.fromkeys(f"{attack} with {least} {name}" for attack, name, least, _ in met))[:3]
        more = [f"run {cards.listed(runs)}{_allowed(met)}"] if runs else []
        more += [words for words in _told(weak[0].get("detail")).rpartition("; ")[2].split(", or ")
                 if words.startswith("add ")]  # fmt: skip
        facts = dict(zip(GROUP, key, strict=True))
        place = (str(facts["threat"]), who(cells[0]["record"]), ", or ".join(more) or "add an attack of another kind")
        wanted.setdefault(place, {})[cards.subject(run, facts)] = None
    for (threat, attacker, what), models in wanted.items():
        of = "" if list(models) == ["the model"] else f", on {cards.listed(list(models))}"
        whom = attacker.removesuffix(")") + "; " if attacker.endswith(")") else f"{attacker} ("
        yield f"Against {whom}threat `{_told(threat)}`{of}): {what}."


def _short(words: str) -> tuple[str, int]:
    """'steps 60 of 4999' as ('steps', 4999)."""
    name, _, _, least = words.split()
    return name, int(float(least))


def _allowed(met: Sequence[tuple[str, str, int, CellRecord]]) -> str:
    """How many questions an image the threat has to allow for these leasts, where it limits them to fewer.

    A search asks once before its first step and once a step at least.
    """
    budgets = [record.threat.budget for *_, record in met if record.threat]
    limited = any(budget.queries or budget.queries_total for budget in budgets)
    needed = max((least + (name == "steps") for _, name, least, _ in met if name in ("steps", "queries")), default=0)
    enough = all((budget.queries or 0) >= needed for budget in budgets)
    return f" (allow {needed} questions an image)" if limited and needed and not enough else ""


def _white_box(run: Results) -> Iterator[str]:
    """An adversary who knows the model, where evasion was asked for and none does though the model may show itself."""
    asked = [cell["record"] for cell in run.known.values() if cell["scenario"] == "evasion"]
    if not asked or any(knows(record) == 3 for record in asked):
        return
    shown = [record.model.shows for record in asked]
    if any(shows is None or "gradients" in shows for shows in shown):
        yield ("Add an attacker who knows the model: a threat with `access: white_box` and `attacks: [autoattack]` or "
               "`[ensemble]`; what weaker ones leave is no robustness.")  # fmt: skip
    else:
        yield ("Ask for a copy of the model that passes gradients, and attack that: what this one shows lets nobody "
               "play the strongest attacker.")  # fmt: skip


def _certify(run: Results) -> Iterator[str]:
    """A proof at the attacked radius where anything stands, if none was asked for there; else another defense."""
    worst, proofs = worst_case(run), run.cells[run.cells["scenario"] == "certification"]
    standing: dict[str, float] = {}
    fallen: dict[str, None] = {}
    for row in worst.to_dict("records"):
        eps, norm = run.budgets[str(row["budget"])]
        if eps is not None and row["robust_accuracy"] > 0:
            standing[norm] = max(eps, standing.get(norm, 0.0))
        elif eps is not None and row["grade"] not in DOUBTED and not run.defended:
            fallen[f"{norm} {radius_words(eps, norm)}"] = None
    for size in fallen:
        yield (f"No image stands at {size} and no defense was measured: try one, as in "
               f"`defenses: [none, adversarial_finetuning]`, or a smaller radius.")  # fmt: skip
    for norm, wanted in standing.items():
        if norm not in ("linf", "l2") or wanted == float("inf"):
            continue
        asked = [radius for cell in proofs[proofs["norm"] == norm].to_dict("records")
                 if (radius := radius_of(cell)) is not None]  # fmt: skip
        size = f"{norm}: {radius_words(wanted, norm)}"
        if not asked:
            how = "lirpa" if norm == "linf" else "smoothing, behind randomized_smoothing"
            yield (f"Ask for a proof at the attacked radius: `scenario: certification`, `budget: {{{size}}}` "
                   f"by {how}; attacks alone never show that nothing worse exists.")  # fmt: skip
        elif max(asked) < wanted * (1 - 1e-6):
            yield (f"Certify at the attacked radius, {norm} {radius_words(wanted, norm)}: proofs were asked for up to "
                   f"{radius_words(max(asked), norm)} only.")  # fmt: skip


def _refused(run: Results) -> Iterator[str]:
    """What was refused or could not be measured, one step a reason."""
    system = ["scenario", "dataset", "model", "defense", "seed"]
    known = pd.MultiIndex.from_frame(run.cells.loc[run.cells["status"].isin(["done", "inert"]), system])
    rest = run.cells[run.cells["status"].isin(["unmeasured", "refused"])]
    elsewise = pd.MultiIndex.from_frame(rest[system]).isin(known)
    rest = rest[(rest["status"] == "unmeasured") | ~elsewise]  # what another cell measured lacks nothing
    for (status, sentence), part in list(groups(rest, ("status", "sentence")))[:2]:
        cells = f"{len(part)} cell{'s' if len(part) > 1 else ''}"
        defenses = [plain(str(name)) for name in dict.fromkeys(part["defense"])]
        who = f"{cards.listed(defenses[:3])}{' and others' if len(defenses) > 3 else ''}"
        why = _told(sentence) or "no reason given"
        yield begun(f"{cells} ({who}) {'was' if len(part) == 1 else 'were'} {status}: {why}{_grant(part)}.")


def _grant(part: pd.DataFrame) -> str:
    """What access its attack needs and the threat withholds, where that is why a cell was refused."""
    record: CellRecord = part["record"].iloc[0]
    needs: Any = set(record.attack.needs) if record.attack else set()
    granted = set(record.threat.access) if record.threat else set()
    missing = sorted(needs - granted)
    return f"; grant {' and '.join(missing)} in the threat" if missing and part["code"].iloc[0] == "access" else ""


def _more_images(run: Results) -> Iterator[str]:
    worst = worst_case(run)
    judged = run.cells[(run.cells["status"] == "done") & run.cells["scenario"].isin(["evasion", "certification"])]
    sound = judged[~judged["grade"].isin(DOUBTED)]
    if len(worst) and len(sound) and worst["n"].max() < PUBLISHED:
        n = float(worst["n"].max())
        yield (f"Before publishing, take {PUBLISHED} images: the same command with `--first {PUBLISHED}`; of "
               f"{number(n)} images a rate is known to within {_half(n):.0f} points, if they are a random sample."
               )  # fmt: skip


def _told(text: object) -> str:
    """What a record says, without the marks that stand around a command here."""
    return str(text or "").replace("`", "'").rstrip(".")


def _half(n: float) -> float:
    """Half the width of a 95 % interval at 50 %, in points."""
    return float(196 * (0.25 / n) ** 0.5)
