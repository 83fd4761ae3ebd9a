"""Means over seeds with their deviation, one table a threat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..measure.seeds import TOGETHER, over_seeds
from ..read.runs import Results
from ..render.document import Entry, Section, Table, counted, split_constant, words
from ..render.text import number, percent
from ..render.text import words as spoken
from ..sections.generic import groups, mean_entry

CLEAN = "clean_accuracy"
WITHIN = ("dataset", "model", "corruption")


def seeds_section(run: Results) -> Section:
    """Systems down: the mean over seeds with its sample standard deviation, the smallest and the largest seed."""
    means = over_seeds(run)
    shown = means[(means["scenario"] != "evasion") | (means["attack"] == TOGETHER)]
    found = []
    for i, (key, part) in enumerate(groups(shown, ("scenario", "threat", "budget", "goal", "shift"))):
        scenario, threat, budget, goal, shift = (str(value) for value in key)
        heads = part[part["metric"] != CLEAN] if (part["metric"] != CLEAN).any() else part
        names, caption = split_constant(heads, WITHIN)
        keys, apart = [*WITHIN, "defense", "attack"], set(heads["attack"]) - {TOGETHER, ""}
        beside = part[part["metric"] == CLEAN] if heads["metric"].ne(CLEAN).any() else part[:0]
        clean, short = beside.set_index(keys).to_dict("index"), heads["left_out"].ne("").any()
        rows = tuple(
            (*(words(row[name]) for name in names), words(row["defense"]),
             *((words(row["attack"] or "–"),) if apart else ()), mean_entry(row), *_ends(row),
             *((mean_entry(clean.get(tuple(row[name] for name in keys))),) if clean else ()),
             counted(row["sound"], f"{row['sound']} of {row['seeds']}"), counted(row["n"], number(row["n"])),
             *((Entry(row["left_out"]),) if short else ()))
            for row in heads.sort_values("mean", ascending=False, kind="stable").to_dict("records")
        )  # fmt: skip
        norm = run.budgets[budget][1] if budget in run.budgets else ""
        measure = " or ".join(spoken(metric, norm) for metric in dict.fromkeys(heads["metric"]))
        columns = (
            *names, "defense", *(("attack",) if apart else ()), f"{measure}, mean ± sd", "smallest", "largest",
            *(("no attack, mean ± sd",) if clean else ()), "seeds", "n",
            *(("left out",) if short else ()),
        )  # fmt: skip
        head = f"{threat}: {budget}" if budget else shift or threat or scenario
        title = " · ".join(said for said in (head, goal.replace("untargeted", ""), "over seeds") if said)
        found.append(Table(f"seeds-{i + 1}", title, caption, columns, rows, "over_seeds.csv"))
    lead = (
        "Mean ± sample standard deviation over the seeds whose number is sound; the thin line spans the "
        "seeds. A seed that failed a check, or has no verdict for an attack that another seed has, is left out and "
        "named; fewer than two sound seeds have no deviation. ≤: a seed in the mean is an upper bound.",
    )
    return Section("seeds", "Over seeds", lead if found else (), tuple(found), order=9)


def _ends(row: Mapping[Any, Any]) -> tuple[Entry, Entry]:
    say = percent if row["rate"] else number
    ends = (row["smallest"], row["largest"])
    smallest, largest = (Entry("–", -1.0) if np.isnan(end) else counted(end, say(end)) for end in ends)
    return smallest, largest
