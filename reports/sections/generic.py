"""The sections of every report: scenarios without one of their own, what was not measured; and what tables share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..measure import tables
from ..measure.grades import shown
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, counted, split_constant, words
from ..render.text import deviated, number, plain
from ..render.text import words as spoken

WHERE = ("dataset", "model", "seed")


def unmeasured_section(run: Results) -> Section:
    """What has no number, and why; what has one that is not to be trusted; what could not be read."""
    found = []
    missing, flags = tables.not_measured(run), tables.flagged(run)
    for name, title, frame, file in (
        ("missing", "Cells without a number of their own", missing, "not_measured.csv"),
        ("flags", "Flagged", flags, "flags.csv"),
    ):
        if len(frame):
            columns = [c for c in frame.columns if c not in ("code", "same_as") and (frame[c].astype(str) != "").any()]
            rows = tuple(
                tuple(Entry(str(row[c]), kind=str(row[c])) if c == "status" else words(row[c]) for c in columns)
                for row in frame.to_dict("records")
            )
            found.append(Table(name, title, "", tuple(columns), rows, file))
    if run.skipped:
        rows = tuple(tuple(words(part) for part in line.split(": ", 1)) for line in run.skipped)
        found.append(Table("skipped", "Unreadable cell folders, left out", "", ("cell", "reason"), rows, ""))
    return Section("missing", "What was not measured", (), tuple(found), order=81)


def names_section(run: Results) -> Section:
    """What the report calls an entry whose name in full is longer, or another."""
    frame = tables.names(run)
    rows = tuple(tuple(words(row[name]) for name in frame.columns) for row in frame.to_dict("records"))
    found = Table("names", "Names in full", "", ("of the", "called here", "in full"), rows, "names.csv")
    return Section("names", "Names", (), (found,) if rows else (), order=85)


def metric_entry(row: Mapping[Any, Any] | None, flags: str) -> Entry:
    """A score as a table shows it, with what doubts it."""
    if row is None or np.isnan(row["value"]):
        return Entry("–", -1.0, "" if row is None else row["sentence"])
    if row["k"] >= 0:
        return shown(accuracy(row["value"], row["lo"], row["hi"]), row["grade"], flags)
    text = f"{number(row['value'])} ({number(row['lo'])}–{number(row['hi'])})"
    return Entry(text, float(row["value"]), flags, row["grade"] == "INVALID")


def mean_entry(row: Mapping[Any, Any] | None) -> Entry:
    """A row of `over_seeds`: the mean with the deviation where there is one, the bar from smallest to largest seed."""
    if row is None or np.isnan(row["mean"]):
        return Entry("–", -1.0, "" if row is None else row["left_out"])
    mark, mean = "≤ " if row["bound"] else "", float(row["mean"])
    if not row["rate"]:
        return Entry(mark + deviated(mean, row["sd"], number), mean, row["left_out"])
    return Entry(f"{mark}{deviated(100 * mean, 100 * row['sd'], '{:.1f}'.format)} %", mean, row["left_out"],
                 kind="error" if row["metric"] == "mean_error" else "",
                 bar=(mean, row["smallest"], row["largest"]))  # fmt: skip


def other_section(run: Results, scores: pd.DataFrame) -> Section:
    """Every scenario whose plugin adds no section: one row per cell and metric."""
    own = {str(cell["scenario"]) for cell in run.known.values() if cell["record"].scenario.sections}
    rest = scores[~scores["scenario"].isin(own)]
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    found = []
    for i, ((scenario, threat), part) in enumerate(groups(rest, ("scenario", "threat"))):
        names, caption = split_constant(part, ("budget", *WHERE))
        rows = [
            (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
             Entry(spoken(row["metric"]) if row["n"] else "–"), metric_entry(row, flags[row["run_id"]]),
             counted(row["n"], number(row["n"]) if row["n"] else "–"), Entry(row["status"], kind=row["status"]),
             Entry(why(row, flags[row["run_id"]])))
            for row in part.to_dict("records")
        ]  # fmt: skip
        columns = (*names, "attack", "defense", "measure", "value", "n", "status", "notes")
        found.append(Table(f"other-{i + 1}", f"{scenario}: {threat}", caption, columns, tuple(rows)))
    return Section("scenarios", "Other scenarios", (), tuple(found), order=55)


def one_severity(run: Results, shift: str, before: str = "") -> str:
    """`severity 3` after these words where a corruption set was asked for at one alone; else nothing."""
    asked = run.cells.loc[run.cells["shift"] == shift, "severity"].dropna().unique()
    return f"{before}severity {asked[0]:g}" if len(asked) == 1 else ""


def flags_or(row: Mapping[Any, Any]) -> str:
    """The names of a row's flags, or its sentence."""
    return str(row["flags"] or row["sentence"])


def why(row: Mapping[Any, Any], flags: str) -> str:
    """What a reader of a row should know."""
    same = f"the undefended number of {row['same_as'][:8]}" if row["status"] == "inert" and row["same_as"] else ""
    return "; ".join(part for part in (row["sentence"], same, flags) if part)


SAME = {"n": "{} images", "attacks": "{} attacks", "grade": "grade {}", "status": "{}"}
"""Columns that say the same in every row of most tables, and how a caption says it for all of them."""


def slim(table: Table) -> Table:
    """The table without columns of SAME that hold one value, which its caption says, and without empty notes.

    What is left stands on a screen, so that nobody must scroll to the reason of a refusal.
    """
    told, drop = [], set()
    for i, name in enumerate(table.columns):
        values = {row[i].text for row in table.rows}
        if name in SAME and len(table.rows) > 1 and len(values) == 1 and "–" not in values:
            told.append(SAME[name].format(*values))
        elif name != "notes" or any(values):
            continue
        drop.add(i)
    caption = "; ".join(filter(None, (table.caption, ", ".join(told))))
    columns = tuple(name for i, name in enumerate(table.columns) if i not in drop)
    rows = tuple(tuple(entry for i, entry in enumerate(row) if i not in drop) for row in table.rows)
    return replace(table, caption=caption, columns=columns, rows=rows)


LONG = 18
"""Characters of a defense's name from which on it is a letter where it would head a column or a picture."""


def letters(run: Results) -> dict[str, str]:
    """Each defense's letter, A the first of the run's, as the terminal's key has them; none where no system has one."""
    names = dict.fromkeys(run.cells["defense"])
    return {str(name): _letter(i) for i, name in enumerate(names)} if run.defended else {}


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"A{i}"


def across(run: Results, defenses: Sequence[str]) -> tuple[list[str], str]:
    """What heads the column of each defense, letters where a name is long; and the key that a caption ends with."""
    if not run.defended or all(len(plain(name)) <= LONG for name in defenses):
        return [plain(name) for name in defenses], ""
    known = letters(run)
    return [known[name] for name in defenses], "; " + ", ".join(f"{known[name]} {plain(name)}" for name in defenses)


def titled(keys: Sequence[tuple[Any, ...]], names: Sequence[str]) -> list[str]:
    """A heading for each key of (threat, budget, ...), with of its other `names` those that tell it from its like."""
    heads = [f"{key[0]}: {key[1]}" if names[1] == "budget" and key[1] else str(key[0]) for key in keys]
    alike: dict[str, list[tuple[Any, ...]]] = {}
    for head, key in zip(heads, keys, strict=True):
        alike.setdefault(head, []).append(key)
    found = []
    for head, key in zip(heads, keys, strict=True):
        varying = [i for i in range(1, len(names)) if len({other[i] for other in alike[head]}) > 1]
        said = (f"seed {key[i]}" if names[i] == "seed" else plain(str(key[i])) for i in varying)
        found.append(" · ".join([head, *said]))
    return found


def groups(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The frame by the values of `names`, in the order they first appear; nothing for an empty one."""
    if len(frame):
        yield from frame.groupby(list(names), sort=False)
