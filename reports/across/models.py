"""Models down, attacks across, one table a threat: what every attack leaves of every model, and all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..measure.grades import shown
from ..measure.seeds import TOGETHER, over_seeds
from ..measure.worst import worst_case
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, words
from ..sections.figures import NAMED
from ..sections.generic import groups, mean_entry, titled

THREAT = ("threat", "budget", "goal", "dataset")


def models_section(run: Results, scores: pd.DataFrame) -> Section:
    """One table a threat and data set of several models; none with more rows or attacks than anybody reads."""
    head = scores[(scores["scenario"] == "evasion") & (scores["metric"] == "robust_accuracy")]
    several = head.groupby(list(THREAT), sort=False)["model"].transform("nunique") > 1
    parts = [(key, part) for key, part in groups(head[several], THREAT) if _readable(part)]
    entries, found = _entries(run, head) if parts else {}, []
    for i, ((key, part), title) in enumerate(zip(parts, titled([key for key, _ in parts], THREAT), strict=True)):
        attacks, defenses = (list(dict.fromkeys(part[name])) for name in ("attack", "defense"))
        systems = list(dict.fromkeys(zip(part["defense"], part["model"], strict=True)))
        systems.sort(key=lambda system: defenses.index(system[0]))
        rows = tuple(
            (*(words(name) for name in system),
             *(entries.get((*key, *system, attack), Entry("–", -1.0)) for attack in (*attacks, TOGETHER)))
            for system in systems
        )  # fmt: skip
        seeds = part["seed"].nunique()
        caption = ", ".join((*(f"{n} {v}" for n, v in zip(THREAT[2:], key[2:], strict=True) if str(v)),
                             *((f"mean ± standard deviation over {seeds} seeds",) if seeds > 1 else ())))  # fmt: skip
        columns = ("defense", "model", *attacks, _together(run, part))
        found.append(Table(f"models-{i + 1}", f"{title} · model by attack", caption, columns, rows))
    lead = ("Robust accuracy; struck numbers failed a check, those behind a ≤ are upper bounds.",)
    return Section("models", "Models against attacks", lead if found else (), tuple(found), order=10)


def _together(run: Results, part: pd.DataFrame) -> str:
    """What the union over attacks is called, where pictures made against other systems count in it as well."""
    put = {pair.target for pair in run.transfers}
    return f"{TOGETHER}, with foreign pictures" if set(part["run_id"]) & put else TOGETHER


def _readable(part: pd.DataFrame) -> bool:
    return max(len(part[["defense", "model"]].drop_duplicates()), part["attack"].nunique()) <= NAMED


def _entries(run: Results, head: pd.DataFrame) -> dict[tuple[Any, ...], Entry]:
    """By threat, system and attack: the number of the one seed, or the mean over several."""
    names = [*THREAT, "defense", "model", "attack"]
    single = head.drop_duplicates(names)  # of several seeds any stands here until their mean does
    found = {tuple(row[name] for name in names): _alone(row) for row in single.to_dict("records")}
    for row in worst_case(run).assign(attack=TOGETHER).drop_duplicates(names).to_dict("records"):
        found[tuple(row[name] for name in names)] = _united(row)
    means = over_seeds(run)
    means = means[(means["scenario"] == "evasion") & (means["metric"] == "robust_accuracy")]
    for row in means.to_dict("records"):
        entry, part = mean_entry(row), row["sound"] < row["seeds"]
        said = f"{entry.text} ({row['sound']} of {row['seeds']} seeds)" if part else entry.text
        found[tuple(row[name] for name in names)] = replace(entry, text=said)
    return found


def _alone(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["value"]):
        return Entry(row["status"], -1.0, row["sentence"])
    return shown(accuracy(row["value"], row["lo"], row["hi"]), row["grade"], row["flags"])


def _united(row: Mapping[Any, Any]) -> Entry:
    entry = shown(accuracy(row["robust_accuracy"], row["lo"], row["hi"]), row["grade"], row["flags"])
    if row["missing"] and not row["inert"] and not entry.text.startswith("≤"):
        return replace(entry, text=f"≤ {entry.text}", note="an upper bound: some attacks have no verdict")
    return entry
