"""Evasion in a report: who survives every attack at once, every attack alone, which differences are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ...measure import tables
from ...measure.grades import alone, label, shown
from ...measure.worst import GROUP, by_rank, paired, worst_case
from ...read.extra import part as reported
from ...read.runs import Results
from ...render.document import Entry, Part, Section, Table, accuracy, counted, split_constant, words
from ...render.draw import Figure
from ...render.text import number, percent, points, pvalue, ranks
from .. import figures
from ..generic import WHERE, flags_or, groups, slim, titled, why
from .ordered import ordered, ordered_section
from .queries import distances, query_section
from .query_costs import cost_tables, query_costs
from .query_curves import query_curve_section, query_curves

THREAT = GROUP[:-1]
"""What one table is about; several seeds of it stand in that table."""


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What evasion adds to a report."""
    worst = worst_case(run)
    sections = (
        worst_section(run, worst), attack_section(run, scores, [*figures.heatmaps(run, scores), *figures.curves(run)]),
        query_curve_section(run), query_section(run), ordered_section(run), paired_section(run),
    )  # fmt: skip
    frames = {
        "worst_case": worst, "paired": paired(run), "queries": distances(run).drop(columns="reached"),
        "query_costs": query_costs(run), "query_curves": query_curves(run), "ordered_topk": ordered(run),
    }  # fmt: skip
    return Part(sections, frames=frames)


def worst_section(run: Results, worst: pd.DataFrame) -> Section:
    """The ranking under each threat, worst case over its attacks, with its adversary in words."""
    found, parts = [], sorted(groups(worst, THREAT), key=lambda group: -figures.knowing(run, *group[0][:2]))
    for i, ((key, part), title) in enumerate(zip(parts, titled([key for key, _ in parts], THREAT), strict=True)):
        seeds = list(groups(part, ("seed",)))
        apart = len(seeds) > 1
        rivals = part["defense"].nunique()
        rows = tuple((*((counted(seed[0], str(seed[0])),) if apart else ()), *_worst_row(row, rivals))
                     for seed, mine in seeds for row in by_rank(mine).to_dict("records"))  # fmt: skip
        columns = (
            *(("seed",) if apart else ()),
            *(("rank",) if rivals > 1 else ()),
            "defense",
            "all attacks at once",
            "grade",
            "no attack",
            "strongest attack",
            "attacks",
            "n",
            "notes",
        )
        caption = f"{figures.against(run, key[0], key[1])}; {_constant(key, part)}"
        found.append(slim(Table(f"worst-{i + 1}", title, caption, columns, rows, "worst_case.csv")))
    lead = (
        "Robust accuracy: the share of images classified right under every attack of the threat at once, with its "
        "exact 95 % interval; one that ends rejected, or in a tie, is not right."
    )
    if any("rank" in table.columns for table in found):
        lead += " Equal rank ranges are ties: a paired test on the same images cannot tell them apart."
    said = lead if found else "No attack was measured."
    return Section("ranking", "Worst case over attacks", (said,), tuple(found), order=10)


def _worst_row(row: Mapping[Any, Any], rivals: int) -> tuple[Entry, ...]:
    notes = [doubt(row, rivals), f"without {row['missing'].replace(';', ', ')}" if row["missing"] else "",
             f"flagged {row['flags'].replace(';', ', ')}" if row["flags"] else "",
             "inert: same as undefended" if row["inert"] else "",
             no_answer(row),
             f"{row['foreign']} fell to foreign pictures alone" if row["foreign"] else "",
             f"on the {row['n']} of {row['of']} images that every attack met" if row["n"] < row["of"] else "",
    ]  # fmt: skip
    if row["unranked"]:
        notes[1] = ""
    faced, absent = len(row["attacks"].split(";")), row["missing"].count(": ")
    robust = shown(accuracy(row["robust_accuracy"], row["lo"], row["hi"]), row["grade"], row["flags"])
    if row["missing"] and not row["inert"] and not robust.text.startswith("≤"):
        robust = Entry(f"≤ {robust.text}", robust.key, "an upper bound: some attacks have no verdict", robust.struck,
                       bar=robust.bar)  # fmt: skip
    place = Entry(ranks(row["rank_first"], row["rank_last"]) or "–", row["rank_first"] or 10**6)
    return (
        *((place,) if rivals > 1 else ()), words(row["defense"]), robust,
        label(row["grade"], row["screening"]),
        counted(row["clean_accuracy"], percent(row["clean_accuracy"])), words(row["strongest"]),
        counted(faced, f"{faced} of {faced + absent}"), counted(row["n"], number(row["n"])),
        Entry("; ".join(note for note in notes if note)),
    )  # fmt: skip


def doubt(row: Mapping[Any, Any], rivals: int) -> str:
    """Why a row of the worst-case table has no rank; of one system, which needs none, what is wrong with its number."""
    return str(row["unranked"]) if rivals > 1 else str(row["unranked"]).removeprefix("not ranked: ")


def no_answer(row: Mapping[Any, Any]) -> str:
    """What of a row of the worst-case table is right, gone (rejected, tied) and either; '' where none is gone."""
    gone = row["or_no_answer"] - row["robust_accuracy"]
    if not gone > 0:
        return ""
    right, kept = percent(row["robust_accuracy"]), percent(row["or_no_answer"])
    return f"{right} right; {percent(gone)} get no answer, counted as wrong; {kept} if that were counted as safe"


def attack_section(run: Results, scores: pd.DataFrame, drawn: Sequence[Figure]) -> Section:
    """Every attack against every defense."""
    evasion = scores[scores["scenario"] == "evasion"]
    clean_rates = evasion[evasion["metric"] == "clean_accuracy"].set_index("run_id")["value"].to_dict()
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    head = evasion[evasion["metric"] == "robust_accuracy"]
    names, caption = split_constant(head, ("threat", "budget", *WHERE))
    rows = []
    for row in head.to_dict("records"):
        clean, note = clean_rates.get(row["run_id"], float("nan")), why(row, flags[row["run_id"]])
        rows.append((*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
                     *_value(run, row, flags[row["run_id"]]), Entry(note), counted(_or(clean), percent(clean)),
                     counted(row["n"], number(row["n"]) if row["n"] else "–"),
                     Entry(row["run_id"][:8], row["run_id"], kind="code")))  # fmt: skip
    columns = (*names, "attack", "defense", "robust accuracy", "status", "notes", "no attack", "n", "run")
    every = "Every attack, every defense" if run.defended else "Every attack"
    table = slim(Table("attacks", every, caption, columns, tuple(rows)))
    lead = (
        "Struck numbers failed an integrity check, those behind a ≤ raised a warning and are upper bounds. In a "
        "figure, hatched: an upper bound, no verdict; cells without a number say why below.",
        *(("SOUND is said of one attack where no check raised anything and the attacks that its adversary has are, "
           "together, strong enough. One that is weak alone, below its card's least or of no family that counts, may "
           "leave standing what a stronger one breaks: its number says nothing by itself.",)
          if any(entry.kind == "weak" for row in rows for entry in row) else ()),
    )  # fmt: skip
    found = (table, *cost_tables(run)) if rows else ()
    title = "Attacks and defenses" if run.defended else "Attacks"
    return Section("attacks", title, lead, found, tuple(drawn), order=11)


def _value(run: Results, row: Mapping[Any, Any], flags: str) -> tuple[Entry, Entry]:
    status = Entry(row["status"], row["status"], row["sentence"], kind=row["status"])
    if np.isnan(row["value"]):
        return Entry("–", -1.0, row["sentence"]), status
    return shown(accuracy(row["value"], row["lo"], row["hi"]), row["grade"], flags), _ended(run, row, status)


def _ended(run: Results, row: Mapping[Any, Any], status: Entry) -> Entry:
    """The grade where there is a number, the status where there is none or another cell's."""
    if row["status"] != "done" or not row["grade"]:
        return status
    return replace(alone(row["grade"], row["screening"], run.known[row["run_id"]]["record"]), note=flags_or(row))


def paired_section(run: Results) -> Section:
    """Which differences between defenses are real."""
    pairs = paired(run)
    found, parts = [], list(groups(pairs, THREAT))
    for i, ((key, part), title) in enumerate(zip(parts, titled([key for key, _ in parts], THREAT), strict=True)):
        apart = part["seed"].nunique() > 1
        rows = tuple(
            (*((counted(row["seed"], str(row["seed"])),) if apart else ()), words(row["a"]), words(row["b"]),
             counted(row["difference"], points(row["difference"])),
             counted(row["only_a"], str(row["only_a"])), counted(row["only_b"], str(row["only_b"])),
             counted(row["p_holm"], pvalue(row["p_holm"])),
             Entry("different" if row["different"] else "tie", kind="done" if row["different"] else "tie"))
            for row in part.to_dict("records")
        )  # fmt: skip
        columns = (*(("seed",) if apart else ()), "a", "b", "a − b", "only a right", "only b right", "p (Holm)",
                   "outcome")  # fmt: skip
        title += " · defenses in pairs"
        found.append(Table(f"paired-{i + 1}", title, _constant(key, part), columns, rows, "paired.csv"))
    family = "each seed of a table" if len(pairs) and pairs["seed"].nunique() > 1 else "each table"
    lead = (f"Exact two-sided McNemar tests on the same images under all attacks, Holm-corrected within {family}.",)
    return Section("paired", "Which differences are real", lead, tuple(found), order=70)


def _constant(key: Sequence[Any], part: pd.DataFrame) -> str:
    """What a table of one threat, data set and model is about, with its seed where it has one."""
    said = [*zip(THREAT[2:], key[2:], strict=True), *((("seed", part["seed"].iloc[0]),) * (part["seed"].nunique() < 2))]
    return ", ".join(f"{name} {value}" for name, value in said if str(value))


def _or(value: float) -> float:
    return -1.0 if np.isnan(value) else float(value)
