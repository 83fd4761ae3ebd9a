"""Ordered top-K attacks: how often the exact list was reached over several draws of lists, and at what size of change.

A mean over an attack's own successes favours the attack that only succeeds where it is easy, so every energy is also
given over the images on which all compared attacks succeed (Paniagua, Grainger, Wu, 2023, arXiv:2312.11510, report the
former for the best, mean and worst of five draws).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from robustsuite.records.schema import CellRecord

from ...measure.scores import measured_as
from ...read.runs import Results
from ...render.document import Entry, Section, Table, counted, split_constant, words
from ...render.text import number, percent

WHERE = ("threat", "goal", "budget", "dataset", "model", "defense")
NORMS = ("l1", "l2", "linf")


def ordered(run: Results) -> pd.DataFrame:
    """One row a system, list length and attack: success `best`, `mean`, `worst` over `draws` (seeds) of `n` images.

    <norm>: mean energy over its successes; <norm>_all: over the `shared` (image, draw) pairs on which every attack of
    the same system and length succeeds. NaN where there is none.
    """
    asked = run.cells[[_lists(cell) for cell in run.cells["record"]]]
    rows: list[dict[str, Any]] = []
    for key, part in asked.groupby(list(WHERE), sort=False):
        found = _examples(run, part)
        if found is None:
            continue
        attacks = found["attack"].nunique()
        hits = found[found["hit"]]
        everywhere = hits.groupby(["seed", "index"])["attack"].transform("nunique") == attacks
        for attack, mine in found.groupby("attack", sort=False):
            own, rates = hits[hits["attack"] == attack], mine.groupby("seed")["hit"].mean()
            both = own[everywhere[own.index]]
            base = {**dict(zip(WHERE, key, strict=True)), "attack": attack, "best": rates.max(), "mean": rates.mean()}
            sizes = {norm: _mean(own, norm) for norm in NORMS} | {f"{e}_all": _mean(both, e) for e in NORMS}
            rows.append({**base, "worst": rates.min(), "draws": len(rates), "n": len(mine) / len(rates),
                         **sizes, "successes": len(own), "shared": len(both)})  # fmt: skip
    columns = [*WHERE, "attack", "best", "mean", "worst", "draws", "n", *NORMS, "successes",
               *(f"{norm}_all" for norm in NORMS), "shared"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _lists(record: CellRecord) -> bool:
    """Whether a cell's goal is an ordered list."""
    return record.threat is not None and record.threat.goal.name == "ordered_topk"


def _examples(run: Results, part: pd.DataFrame) -> pd.DataFrame | None:
    """The attacked images of these cells below each other, with their attack, seed and whether the list was reached."""
    frames = []
    for cell in part.to_dict("records"):
        source = measured_as(cell, run.known)
        if source is not None:
            examples = run.examples(source["run_id"])
            examples = examples[examples["clean_ok"].astype(bool)]
            kept = examples[["index", *(c for c in NORMS if c in examples)]]
            frames.append(kept.assign(hit=~examples["robust"].astype(bool), attack=cell["attack"], seed=cell["seed"]))
    return pd.concat(frames, ignore_index=True) if any(len(f) for f in frames) else None


def _mean(rows: pd.DataFrame, column: str) -> float:
    return float(rows[column].mean()) if len(rows) and column in rows else float("nan")


def ordered_section(run: Results) -> Section:
    """Success over draws of lists, and both kinds of mean energy; empty where no such attack was run."""
    table = ordered(run)
    if not len(table):
        return Section("ordered", "Ordered top-K")
    names, caption = split_constant(table, WHERE)
    rows = [
        (*(words(row[name]) for name in names), words(row["attack"]),
         *(counted(row[rate], percent(row[rate])) for rate in ("best", "mean", "worst")),
         counted(row["n"], f"{number(row['n'])} × {row['draws']}"),
         *(_size(row[e]) for e in NORMS), *(_size(row[f"{e}_all"]) for e in NORMS),
         counted(row["shared"], f"{row['shared']} of {row['successes']}"))
        for row in table.to_dict("records")
    ]  # fmt: skip
    columns = (*names, "attack", "best success", "mean", "worst", "n × draws", *NORMS,
               *(f"{e}, shared" for e in NORMS), "shared successes")  # fmt: skip
    lead = (
        "Success is the exact list, in order, at the top of the served system's answer, over the images it gets right; "
        "best, mean and worst are over the draws of lists (the sweep's seeds). Energies are means over an attack's own "
        "successes; 'shared' ones over the images on which all attacks of the threat succeed.",
    )
    found = Table("ordered", "Lists reached", caption, columns, tuple(rows), "ordered_topk.csv")
    return Section("ordered", "Ordered top-K", lead, (found,), order=13)


def _size(value: float) -> Entry:
    return counted(value, number(value)) if np.isfinite(value) else Entry("–", np.inf)
