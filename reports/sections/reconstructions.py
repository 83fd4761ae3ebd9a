"""Gradient inversion: how near an observer came to the clients' pictures, and what a defense costs in learning.

PSNR and SSIM are means over all pictures, failed ones counted as mid-grey, with bootstrap intervals; "identified" is
the share whose reconstruction is nearest to its own original among all of the split (chance is 1 / n), and the control
is the PSNR of the same reconstructions against another client's originals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.maths import stats

from ..measure.scores import average, measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, accuracy, counted, split_constant, words
from ..render.text import number, percent

WHERE = ("threat", "budget", "dataset", "model", "seed")
MEANS = ("psnr", "ssim")
RATES = ("label_ok", "label_found", "identified", "failed")


def inversions(run: Results) -> pd.DataFrame:
    """One row a cell: mean, lo, hi of psnr (dB) and ssim; median psnr; counts of n for labels, identified, failed.

    control: mean psnr against other clients' originals. learnt: accuracy of a short federated training; NaN without.
    """
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "inversion" else None
        if source is not None:
            base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "defense", "sentence")}
            rows.append({**base, **_reconstructed(run.examples(source["run_id"]))})
    figures = [f"{m}{part}" for m in MEANS for part in ("", "_lo", "_hi")]
    names = ["run_id", *WHERE, "attack", "defense", "sentence", "n", *figures, *RATES, "median", "control", "learnt"]
    return pd.DataFrame(rows, columns=names)


def _reconstructed(examples: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {"n": len(examples), "median": float(examples["psnr"].median())}
    for name in MEANS:
        score = average(name, examples[name])
        found |= {name: score.value, f"{name}_lo": score.lo, f"{name}_hi": score.hi}
    found |= {name: int(examples[name].sum()) for name in RATES}
    learnt = examples["federated_accuracy"].mean() if "federated_accuracy" in examples else np.nan
    return found | {"control": float(examples["control_psnr"].mean()), "learnt": float(learnt)}


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What gradient inversion adds to a report."""
    return Part((inversion_section(run),))


def inversion_section(run: Results) -> Section:
    """Every inversion against every share-stage defense."""
    found = inversions(run)
    if not len(found):
        return Section("inversion", "Gradient inversion")
    names, caption = split_constant(found, WHERE)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]), _mean(row, "psnr", 1),
         _plain(row["median"], 1), _plain(row["control"], 1), _mean(row, "ssim", 3), _rate(row, "label_ok"),
         _rate(row, "identified"), counted(row["failed"], number(row["failed"])),
         Entry("–", -1.0) if np.isnan(row["learnt"]) else counted(row["learnt"], percent(row["learnt"])),
         counted(row["n"], number(row["n"])), Entry(row["sentence"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attack", "defense", "PSNR, dB", "median", "control", "SSIM", "label", "identified", "failed",
               "federated accuracy", "n", "notes")  # fmt: skip
    lead = (
        "Higher PSNR and SSIM are better for the observer. What a defense costs is the accuracy of a short federated "
        "training under it, beside the undefended one.",
    )
    table = Table("inversion", "Every inversion, every share-stage defense", caption, columns, rows)
    return Section("inversion", "Gradient inversion", lead, (table,), order=45)


def _mean(row: Mapping[Any, Any], name: str, digits: int) -> Entry:
    value, lo, hi = (row[f"{name}{part}"] for part in ("", "_lo", "_hi"))
    return counted(value, f"{value:.{digits}f} ({lo:.{digits}f}–{hi:.{digits}f})")


def _rate(row: Mapping[Any, Any], name: str) -> Entry:
    k, n = int(row[name]), int(row["n"])
    return accuracy(k / n, *stats.clopper_pearson(k, n))


def _plain(value: float, digits: int) -> Entry:
    return Entry("–", -1.0) if np.isnan(value) else counted(value, f"{value:.{digits}f}")
