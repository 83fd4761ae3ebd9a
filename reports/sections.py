"""From DataFrames to sections, the answer first: who survives which adversary, how surely, and what broke the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import tables
from .document import Entry, Section, Table, accuracy, counted, split_constant, words
from .draw import Figure
from .integrity import shown
from .query_costs import cost_tables
from .read import Run
from .scores import HEADLINE
from .shifts import shift_tables
from .text import number, percent, points, pvalue, ranks
from .text import words as spoken
from .worst import GROUP, by_rank, paired

WHERE = ("dataset", "model", "seed")


def worst_section(worst: pd.DataFrame) -> Section:
    """The ranking under each threat, worst case over its attacks."""
    found = []
    for i, (key, part) in enumerate(groups(worst, GROUP)):
        rows = tuple(_worst_row(row) for row in by_rank(part).to_dict("records"))
        title = f"{key[0]}: {key[1]}" if key[1] else str(key[0])
        caption = ", ".join(f"{name} {value}" for name, value in zip(GROUP[2:], key[2:], strict=True) if str(value))
        columns = (
            "rank",
            "defense",
            "all attacks at once",
            "verdict",
            "no attack",
            "strongest attack",
            "attacks",
            "n",
            "notes",
        )
        found.append(Table(f"worst-{i + 1}", title, caption, columns, rows))
    lead = (
        "Robust accuracy: the share of images classified right under every attack of the threat at once, with its "
        "exact 95 % interval. Equal rank ranges are ties: a paired test on the same images cannot tell them apart.",
    )
    return Section("ranking", "Worst case over attacks", lead if found else ("No attack was measured.",), tuple(found))


def _worst_row(row: Mapping[Any, Any]) -> tuple[Entry, ...]:
    notes = [row["unranked"], f"without {row['missing'].replace(';', ', ')}" if row["missing"] else "",
             f"flagged {row['flags'].replace(';', ', ')}" if row["flags"] else "",
             "inert: same as undefended" if row["inert"] else ""]  # fmt: skip
    if row["unranked"]:
        notes[1] = ""
    faced, absent = len(row["attacks"].split(";")), row["missing"].count(": ")
    robust = shown(accuracy(row["robust_accuracy"], row["lo"], row["hi"]), row["verdict"], row["flags"])
    if row["missing"] and not row["inert"] and not robust.text.startswith("≤"):
        robust = Entry(f"≤ {robust.text}", robust.key, "an upper bound: some attacks have no verdict", robust.struck,
                       bar=robust.bar)  # fmt: skip
    place = ranks(row["rank_first"], row["rank_last"])
    return (
        Entry(place or "–", row["rank_first"] or 10**6), words(row["defense"]), robust,
        Entry(row["verdict"], kind=row["verdict"].lower()),
        counted(row["clean_accuracy"], percent(row["clean_accuracy"])), words(row["strongest"]),
        counted(faced, f"{faced} of {faced + absent}"), counted(row["n"], number(row["n"])),
        Entry("; ".join(note for note in notes if note)),
    )  # fmt: skip


def attack_section(run: Run, scores: pd.DataFrame, drawn: Sequence[Figure]) -> Section:
    """Every attack against every defense."""
    evasion = scores[scores["scenario"] == "evasion"]
    clean_rates = evasion[evasion["metric"] == "clean_accuracy"].set_index("run_id")["value"].to_dict()
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    head = evasion[evasion["metric"] == "robust_accuracy"]
    names, caption = split_constant(head, ("threat", "budget", *WHERE))
    rows = []
    for row in head.to_dict("records"):
        clean, note = clean_rates.get(row["run_id"], float("nan")), _why(row, flags[row["run_id"]])
        rows.append((*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
                     *_value(row, flags[row["run_id"]]), counted(_or(clean), percent(clean)),
                     counted(row["n"], number(row["n"]) if row["n"] else "–"),
                     Entry(note), Entry(row["run_id"][:8], row["run_id"], kind="code")))  # fmt: skip
    columns = (*names, "attack", "defense", "robust accuracy", "status", "no attack", "n", "notes", "run")
    table = Table("attacks", "Every attack, every defense", caption, columns, tuple(rows))
    lead = (
        "Struck numbers failed an integrity check, those behind a ≤ raised a warning and are upper bounds; hatched "
        "cells have no number, and say why below.",
    )
    return Section("attacks", "Attacks and defenses", lead, (table, *cost_tables(run)) if rows else (), tuple(drawn))


def _value(row: Mapping[Any, Any], flags: str) -> tuple[Entry, Entry]:
    status = Entry(row["status"], row["status"], row["sentence"], kind=row["status"])
    if np.isnan(row["value"]):
        return Entry("–", -1.0, row["sentence"]), status
    return shown(accuracy(row["value"], row["lo"], row["hi"]), row["verdict"], flags), _ended(row, status)


def _ended(row: Mapping[Any, Any], status: Entry) -> Entry:
    """The verdict where there is a number, the status where there is none or another cell's."""
    done = row["status"] == "done" and row["verdict"]
    return Entry(row["verdict"], row["verdict"], flags_or(row), kind=row["verdict"].lower()) if done else status


def flags_or(row: Mapping[Any, Any]) -> str:
    """The names of a row's flags, or its sentence."""
    return str(row["flags"] or row["sentence"])


def _why(row: Mapping[Any, Any], flags: str) -> str:
    same = f"the undefended number of {row['same_as'][:8]}" if row["status"] == "inert" and row["same_as"] else ""
    return "; ".join(part for part in (row["sentence"], same, flags) if part)


def certified_section(run: Run, scores: pd.DataFrame, drawn: Sequence[Figure]) -> Section:
    """Certified accuracy at several radii, one row a certifier and system."""
    rows_of = scores[scores["scenario"] == "certification"]
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    found = []
    for i, ((threat, budget), part) in enumerate(groups(rows_of, ("threat", "budget"))):
        names, caption = split_constant(part, WHERE)
        metrics = [m for m in dict.fromkeys(part["metric"]) if m != "certified_accuracy"]
        rows = []
        for run_id, cell in part.groupby("run_id", sort=False):
            first = cell.iloc[0].to_dict()
            values = {row["metric"]: row for row in cell.to_dict("records")}
            rows.append((*(words(first[name]) for name in names), words(first["defense"]), words(first["attack"]),
                         Entry(first["status"], kind=first["status"]),
                         *(_metric(values.get(metric), flags[str(run_id)]) for metric in metrics),
                         counted(first["n"], number(first["n"]) if first["n"] else "–"),
                         Entry(_why(first, flags[str(run_id)]))))  # fmt: skip
        columns = (
            *names,
            "defense",
            "certifier",
            "status",
            *(spoken(m, str(budget)) for m in metrics),
            "n",
            "notes",
        )
        found.append(Table(f"certified-{i + 1}", f"{threat}: {budget}", caption, columns, tuple(rows)))
    lead = (
        "A proof holds for every perturbation inside its radius, an attack shows one that breaks; the truth lies "
        "between.",
    )
    return Section("certified", "Certified robustness", lead, tuple(found), tuple(drawn))


def _metric(row: Mapping[Any, Any] | None, flags: str) -> Entry:
    if row is None or np.isnan(row["value"]):
        return Entry("–", -1.0, "" if row is None else row["sentence"])
    if row["k"] >= 0:
        return shown(accuracy(row["value"], row["lo"], row["hi"]), row["verdict"], flags)
    text = f"{number(row['value'])} ({number(row['lo'])}–{number(row['hi'])})"
    return Entry(text, float(row["value"]), flags, row["verdict"] == "INVALID")


def shift_section(run: Run, drawn: Sequence[Figure]) -> Section:
    """Common corruptions and natural shifts, against the paired clean images."""
    return Section("shifts", "Distribution shift", (), tuple(shift_tables(run)), tuple(drawn))


def other_section(run: Run, scores: pd.DataFrame) -> Section:
    """Every scenario without a table of its own: one row per cell and metric."""
    rest = scores[~scores["scenario"].isin(list(HEADLINE))]
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    found = []
    for i, ((scenario, threat), part) in enumerate(groups(rest, ("scenario", "threat"))):
        names, caption = split_constant(part, ("budget", *WHERE))
        rows = [
            (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
             Entry(spoken(row["metric"]) if row["n"] else "–"), _metric(row, flags[row["run_id"]]),
             counted(row["n"], number(row["n"]) if row["n"] else "–"), Entry(row["status"], kind=row["status"]),
             Entry(_why(row, flags[row["run_id"]])))
            for row in part.to_dict("records")
        ]  # fmt: skip
        columns = (*names, "attack", "defense", "measure", "value", "n", "status", "notes")
        found.append(Table(f"other-{i + 1}", f"{scenario}: {threat}", caption, columns, tuple(rows)))
    return Section("scenarios", "Other scenarios", (), tuple(found))


def paired_section(run: Run) -> Section:
    """Which differences between defenses are real."""
    pairs = paired(run)
    found = []
    for i, (key, part) in enumerate(groups(pairs, GROUP)):
        caption = ", ".join(f"{name} {value}" for name, value in zip(GROUP[2:], key[2:], strict=True) if str(value))
        rows = tuple(
            (words(row["a"]), words(row["b"]), counted(row["difference"], points(row["difference"])),
             counted(row["only_a"], str(row["only_a"])), counted(row["only_b"], str(row["only_b"])),
             counted(row["p_holm"], pvalue(row["p_holm"])),
             Entry("different" if row["different"] else "tie", kind="done" if row["different"] else "tie"))
            for row in part.to_dict("records")
        )  # fmt: skip
        columns = ("a", "b", "a − b", "only a right", "only b right", "p (Holm)", "verdict")
        found.append(Table(f"paired-{i + 1}", f"{key[0]}: {key[1]}" if key[1] else str(key[0]), caption, columns, rows))
    lead = ("Exact two-sided McNemar tests on the same images under all attacks, Holm-corrected within each table.",)
    return Section("paired", "Which differences are real", lead, tuple(found))


def unmeasured_section(run: Run) -> Section:
    """What has no number, and why; what has one that is not to be trusted; what could not be read."""
    found = []
    missing, flags = tables.not_measured(run), tables.flagged(run)
    for name, title, frame in (
        ("missing", "Cells without a number of their own", missing),
        ("flags", "Flagged", flags),
    ):
        if len(frame):
            columns = [c for c in frame.columns if c not in ("code", "same_as") and (frame[c].astype(str) != "").any()]
            rows = tuple(
                tuple(Entry(str(row[c]), kind=str(row[c])) if c == "status" else words(row[c]) for c in columns)
                for row in frame.to_dict("records")
            )
            found.append(Table(name, title, "", tuple(columns), rows))
    if run.skipped:
        rows = tuple(tuple(words(part) for part in line.split(": ", 1)) for line in run.skipped)
        found.append(Table("skipped", "Unreadable cell folders, left out", "", ("cell", "reason"), rows))
    return Section("missing", "What was not measured", (), tuple(found))


def groups(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The frame by the values of `names`, in the order they first appear; nothing for an empty one."""
    if len(frame):
        yield from frame.groupby(list(names), sort=False)


def _or(value: float) -> float:
    return -1.0 if np.isnan(value) else float(value)
