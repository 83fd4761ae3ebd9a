"""Backdoors and unlearnable data: what the victim still gets right, and what the adversary got for its poison.

Success is counted over triggered pictures the trigger is meant for, never over the target class itself; a rejected
picture is neither right nor a success. Detectors are read at their own threshold and, by AUROC, at all of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from robustsuite.maths import stats

from ..measure.kinds import auc, tpr_at
from ..measure.scores import measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, accuracy, counted, split_constant, words
from ..render.text import number
from .repairs import WHERE, figures, tables

RATES = {"tpr_1": 0.01, "tpr_5": 0.05}
"""False-positive rates at which a detector is read."""

DETECTION = ("auroc", *RATES)

RATED = (("clean_ok", "n"), ("hits", "eligible"), ("recovered", "eligible"))
"""Counts of a victim and what they are counted over; struck through where a check failed."""


def backdoors(run: Results) -> pd.DataFrame:
    """One row a victim: counts clean_ok, hits (of `eligible`), recovered, flagged_clean, flagged (of `eligible`) of n.

    psnr: mean over the eligible, dB. auroc, tpr_1, tpr_5: of the detector's score, see `detected`.
    """
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "poisoning" else None
        if source is not None:
            examples = run.examples(source["run_id"])
            base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "defense", "sentence", "grade")}
            rows.append({**base, **victim(examples)})
    columns = ["run_id", *WHERE, "attack", "defense", "sentence", "grade", "n", "clean_ok", "eligible", "hits",
               "recovered", "flagged_clean", "flagged", "psnr", *DETECTION]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def victim(examples: pd.DataFrame) -> dict[str, float]:
    """What `backdoors` says of one cell's examples."""
    meant = examples[examples["eligible"].astype(bool)]
    counts = {name: int(meant[name].sum()) for name in ("recovered", "flagged")}
    return {
        "n": len(examples), "clean_ok": int(examples["clean_ok"].sum()), "eligible": len(meant),
        "hits": int(meant["triggered_as_target"].sum()), "flagged_clean": int(examples["flagged_clean"].sum()),
        "psnr": float(meant["psnr"].mean()) if len(meant) else np.nan, **detected(examples), **counts,
    }  # fmt: skip


def detected(examples: pd.DataFrame) -> dict[str, float]:
    """A detector at all thresholds: area under its curve, and the triggered found at 1 % and 5 % of clean ones.

    score_triggered of eligible pictures answered with the target against score_clean of those answered right; rejected
    pictures count, mistaken clean ones do not. NaN without a detector or where one of the two is empty.
    """
    if "score_clean" not in examples:
        return dict.fromkeys(DETECTION, float("nan"))
    clean = examples.loc[examples["clean_ok"] | examples["flagged_clean"], "score_clean"]
    reached = examples["triggered_as_target"] | examples["flagged"]
    triggered = examples.loc[examples["eligible"] & reached, "score_triggered"]
    truth, scores = np.r_[np.zeros(len(clean)), np.ones(len(triggered))] > 0, np.r_[clean, triggered]
    at = {name: tpr_at(scores, truth, fpr) if len(truth) else np.nan for name, fpr in RATES.items()}
    return {"auroc": auc(scores, truth), **at}


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What backdoors add to a report: attacks against defenses, their ranks, a figure, a table of all victims."""
    found = backdoors(run)
    shown = (*tables(run, found), *_backdoor_tables(found))
    return Part((Section("poisoning", "Poisoned training data", (), shown, figures(run, found), order=40),))


@reported
def unlearnable_part(run: Results, scores: pd.DataFrame) -> Part:
    """What unlearnable data adds to a report: what was trained on it."""
    return Part((Section("unlearnable", "Unlearnable training data", (), _unlearnable_tables(run), order=41),))


def _backdoor_tables(found: pd.DataFrame) -> tuple[Table, ...]:
    if not len(found):
        return ()
    names, caption = split_constant(found, WHERE)
    detects = bool(found["auroc"].notna().any())
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]),
         *(_rate(row[k], row[n], row["grade"] == "INVALID") for k, n in RATED),
         *((_rate(row["flagged_clean"], row["n"]), _rate(row["flagged"], row["eligible"]),
            *(_plain(row[name], 3) for name in DETECTION)) if detects else ()),
         _plain(row["psnr"], 1), counted(row["n"], number(row["n"])), Entry(row["sentence"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attack", "defense", "clean accuracy", "attack success", "recovered",
               *(("clean rejected", "triggered rejected", "AUROC", "TPR at 1 % FPR", "TPR at 5 % FPR") if detects
                 else ()), "trigger PSNR, dB", "n", "notes")  # fmt: skip
    return (Table("backdoors", "Backdoors", caption, columns, rows),)


def _unlearnable_tables(run: Results) -> tuple[Table, ...]:
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "unlearnable" else None
        if source is not None:
            right = run.examples(source["run_id"])["clean_ok"]
            base = {name: cell[name] for name in (*WHERE, "attack", "defense", "sentence")}
            rows.append({**base, "k": int(right.sum()), "n": len(right)})
    if not rows:
        return ()
    found = pd.DataFrame(rows)
    names, caption = split_constant(found, WHERE)
    shown = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]), _rate(row["k"], row["n"]),
         counted(row["n"], number(row["n"])), Entry(row["sentence"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attack", "defense", "clean accuracy", "n", "notes")
    return (Table("unlearnable", "Unlearnable data: what can still be learnt", caption, columns, shown),)


def _rate(k: float, n: float, struck: bool = False) -> Entry:
    return accuracy(k / n, *stats.clopper_pearson(int(k), int(n)), struck=struck) if n else Entry("–", -1.0)


def _plain(value: float, digits: int) -> Entry:
    return Entry("–", -1.0) if np.isnan(value) else counted(value, f"{value:.{digits}f}")
