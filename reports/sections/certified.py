"""Certification in a report: what is proven at several radii, and the proofs beside the attacks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..measure import tables
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, counted, split_constant, words
from ..render.draw import Figure
from ..render.text import number
from ..render.text import words as spoken
from .figures import sandwiches
from .generic import WHERE, groups, metric_entry, why


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What certification adds to a report."""
    return Part((certified_section(run, scores, sandwiches(run)),))


def certified_section(run: Results, scores: pd.DataFrame, drawn: Sequence[Figure]) -> Section:
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
                         *(metric_entry(values.get(metric), flags[str(run_id)]) for metric in metrics),
                         counted(first["n"], number(first["n"]) if first["n"] else "–"),
                         Entry(why(first, flags[str(run_id)]))))  # fmt: skip
        columns = (
            *names,
            "defense",
            "certifier",
            "status",
            *(spoken(m, run.budgets[str(budget)][1]) for m in metrics),
            "n",
            "notes",
        )
        found.append(Table(f"certified-{i + 1}", f"{threat}: {budget}", caption, columns, tuple(rows)))
    lead = (
        "A proof holds for every perturbation inside its radius, an attack shows one that breaks; the truth lies "
        "between.",
    )
    return Section("certified", "Certified robustness", lead, tuple(found), tuple(drawn), order=20)
