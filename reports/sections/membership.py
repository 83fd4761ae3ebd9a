"""Membership inference: how far members are told from others, at which false positive rates, and what that proves.

An average over all examples hides the few that are betrayed, so the share of members found at small false positive
rates stands beside the area under the curve; a rate that so many others cannot show is said to be that. Epsilon is what
the guesses of one training prove at least (Steinke et al., 2023). What members are told by is how much surer a network
is of what it has seen, so its accuracy on both sides, and its shadows', stand in a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from robustsuite.maths import privacy, stats

from ..measure.kinds import operating_point
from ..measure.scores import flag_names, measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, counted, split_constant, words
from ..render.draw import INK, LEGEND, LINES, MUTED, STYLES, Figure, draw, legend, slug, told_apart, where
from ..render.text import interval, number, percent, plain, short
from .figures import drawn
from .generic import slim

WHERE = ("threat", "budget", "dataset", "model", "seed")
SHOWN = ("threat", "dataset", "model", "seed")
"""Of these what stands in the page: a threat has one budget."""

RATES = {"tpr_at_fpr_1_percent": 0.01, "tpr_at_fpr_0.1_percent": 0.001}
"""The false positive rates at which members are counted, by the score's name."""

APART = 0.01
"""Accuracy by which shadows may differ from their victim before a row says so."""

PANELS = 12
"""Defenses in one figure."""

POINTS = 120
"""Of a curve, evenly over the logarithm of the false positive rate."""

LEAD = (
    "Each example of a pool was in the training set by a coin. A guesser's area under the curve (AUC) is 0.5, and it "
    "finds as many members as it calls others members. At a false positive rate (FPR) the threshold is the lowest that "
    "lets no more others through; beside it stands the rate that was seen, with its interval: none of n others says no "
    "more than a rate of 3 / n. Epsilon is proven at 95 %, in each row by itself, by calling the twentieth with the "
    "largest scores members and the one with the smallest others, at delta 1e-5. All of these are what these attacks "
    "reach: less is no proof of privacy.",
)


def inferred(run: Results, scores: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: its scores with lo and hi (NaN of what could not be measured), and the rates that were seen.

    members, others: how many; <rate>_false: others above the threshold.
    """
    mine = scores[scores["scenario"] == "membership"]
    known = {run_id: part.set_index("metric") for run_id, part in mine.groupby("run_id", sort=False)}
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "membership" else None
        if source is None or cell["run_id"] not in known:
            continue
        base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "defense", "grade", "status")}
        found = {
            f"{metric}{end}": float(row[part])
            for metric, row in known[cell["run_id"]].iterrows()
            for end, part in (("", "value"), ("_lo", "lo"), ("_hi", "hi"))
        }
        rows.append({**base, "flags": flag_names(cell), **found, **_counted(run.examples(source["run_id"]))})
    return pd.DataFrame(rows)


def _counted(examples: pd.DataFrame) -> dict[str, int]:
    score, member = examples["score"].to_numpy(np.float64), examples["member"].to_numpy(bool)
    found = {"members": int(member.sum()), "others": int((~member).sum())}
    if found["others"]:
        found |= {f"{name}_false": int((score[~member] > operating_point(score, member, rate)).sum())
                  for name, rate in RATES.items()}  # fmt: skip
    return found


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What membership inference adds to a report."""
    found = inferred(run, scores)
    if not len(found):
        return Part((Section("membership", "Membership inference"),))
    section = Section(
        "membership", "Membership inference", LEAD, (_told(found), _networks(found)), tuple(_figures(run, found)),
        order=47,
    )  # fmt: skip
    return Part((section,), frames={"membership": found.drop(columns=["run_id"])})


def _told(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, SHOWN)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attack"]), words(row["defense"]), _area(row),
         *(_at(row, name) for name in RATES), _share(row, "balanced_accuracy"), _epsilon(row), Entry(row["flags"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    at = (f"found at FPR {100 * rate:g} %, and the FPR seen" for rate in RATES.values())
    columns = (*names, "attack", "defense", "AUC", *at, "balanced accuracy", "epsilon at least", "notes")
    return slim(Table("membership", "Members told from others", caption, columns, rows, csv="membership.csv"))


def _area(row: Mapping[Any, Any]) -> Entry:
    value = row.get("membership_auc", np.nan)
    if np.isnan(value):
        return Entry("–", -1.0)
    return Entry(f"{value:.3f} ({row['membership_auc_lo']:.3f}–{row['membership_auc_hi']:.3f})", value,
                 struck=row["grade"] == "INVALID")  # fmt: skip


def _at(row: Mapping[Any, Any], name: str) -> Entry:
    """Members found, with the exact interval, and the false positive rate that was seen, with its own."""
    n = int(row["others"])
    if np.isnan(row.get(name, np.nan)):
        least = _digits(privacy.highest_rate(0, n, 0.05))
        said = f"none of {n} others says no more than an FPR of {least} %" if n else "there are no others"
        return Entry("could not be measured", -1.0, said)
    false = int(row[f"{name}_false"])
    seen = f"{_digits(false / n)} % ({'–'.join(map(_digits, stats.clopper_pearson(false, n)))})"
    text = f"{percent(row[name])} ({interval(row[f'{name}_lo'], row[f'{name}_hi'])}), {seen}"
    return Entry(text, row[name], struck=row["grade"] == "INVALID")


def _digits(rate: float) -> str:
    return f"{100 * rate:.2g}"


def _share(row: Mapping[Any, Any], name: str) -> Entry:
    if np.isnan(row.get(name, np.nan)):
        return Entry("–", -1.0)
    text = f"{percent(row[name])} ({interval(row[f'{name}_lo'], row[f'{name}_hi'])})"
    return Entry(text, row[name], struck=row["grade"] == "INVALID")


def _epsilon(row: Mapping[Any, Any]) -> Entry:
    value = row.get("epsilon_at_least", np.nan)
    return Entry("–", -1.0) if np.isnan(value) else counted(value, f"{value:.2f}")


def _networks(found: pd.DataFrame) -> Table:
    """One row a system and threat: its accuracy on both sides, and its shadows'."""
    systems = found.groupby([*WHERE, "defense"], sort=False, dropna=False).first().reset_index()
    names, caption = split_constant(systems, SHOWN)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["defense"]), _share(row, "train_accuracy"),
         _share(row, "test_accuracy"), _gap(row), _shadows(row, "train"), _shadows(row, "test"),
         counted(row["members"], number(row["members"])), counted(row["others"], number(row["others"])),
         Entry(unlike(row)))
        for row in systems.to_dict("records")
    )  # fmt: skip
    columns = (*names, "defense", "right on members", "right on others", "gap, points", "shadows on theirs",
               "shadows on others", "members", "others", "notes")  # fmt: skip
    title = "The networks: members are told by the gap"
    return slim(Table("membership_networks", title, caption, columns, rows, csv="membership.csv"))


def _gap(row: Mapping[Any, Any]) -> Entry:
    gap = 100 * (row.get("train_accuracy", np.nan) - row.get("test_accuracy", np.nan))
    return Entry("–", -1.0) if np.isnan(gap) else counted(gap, f"{gap:+.1f}")


def _shadows(row: Mapping[Any, Any], side: str) -> Entry:
    value = row.get(f"shadow_{side}_accuracy", np.nan)
    return Entry("no shadows", -1.0) if np.isnan(value) else counted(value, percent(value))


def unlike(row: Mapping[Any, Any]) -> str:
    """Where shadows are right more or less often than their victim by more than APART; '' where they are not."""
    told = []
    for side, what in (("train", "members"), ("test", "others")):
        apart = row.get(f"shadow_{side}_accuracy", np.nan) - row.get(f"{side}_accuracy", np.nan)
        if abs(apart) > APART:  # no shadows: NaN is not
            told.append(f"{100 * apart:+.1f} points on {what}")
    return f"shadows differ from the victim by {' and '.join(told)}" if told else ""


def _figures(run: Results, found: pd.DataFrame) -> list[Figure]:
    """One a threat and model: a panel each defense, every attack's curve on logarithmic axes."""
    figures = []
    for key, rows, left in drawn([(key, rows) for key, rows in found.groupby(list(WHERE), sort=False, dropna=False)]):
        panels: dict[str, dict[str, Any]] = {}
        for row in rows.to_dict("records"):
            cell = measured_as(run.known[row["run_id"]], run.known)
            if cell is not None:
                panels.setdefault(row["defense"], {})[row["attack"]] = curve(run.examples(cell["run_id"]))
        more = f"; of {len(panels)} defenses the first {PANELS}" if len(panels) > PANELS else ""
        shown = dict(list(panels.items())[:PANELS])
        caption = "Members found against others called members, logarithmic (dotted: a guesser), "
        caption += f"{where(key)}{left}{more}"
        wide = min(2, len(shown))
        size = (7.2 if wide == 1 else 10.0, 0.8 + 3.6 * -(-len(shown) // wide))
        figures.append(draw(f"roc-{slug(key)}", caption, size, partial(_roc, panels=shown, wide=wide)))
    return figures


def curve(examples: pd.DataFrame) -> tuple[Any, Any]:
    """False and true positive rates at POINTS thresholds, each at a rank of the others; equal scores stay together."""
    score, member = examples["score"].to_numpy(np.float64), examples["member"].to_numpy(bool)
    others = np.sort(score[~member])[::-1]
    if not len(others) or not member.any():
        return np.zeros(0), np.zeros(0)
    allowed = np.unique(np.geomspace(1, len(others), POINTS).round().astype(int)) - 1
    thresholds = others[allowed]
    found = np.sort(score[member])
    above = len(found) - np.searchsorted(found, thresholds, side="right")
    false = len(others) - np.searchsorted(others[::-1], thresholds, side="right")
    return np.append(false, len(others)) / len(others), np.append(above, len(found)) / len(found)


def _roc(canvas: Canvas, panels: Mapping[str, Mapping[str, tuple[Any, Any]]], wide: int) -> None:
    names = told_apart(list(dict.fromkeys(a for one in panels.values() for a in one)), partial(short, width=LEGEND))
    rates = [false[false > 0].min() for one in panels.values() for false, _ in one.values() if len(false)]
    lowest = float(min([0.1, *rates]))
    axes = canvas.subplots(-(-len(panels) // wide), wide, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, (defense, curves) in zip(axes, panels.items(), strict=False):
        ax.plot([lowest, 1], [lowest, 1], color=MUTED, linestyle=":", linewidth=1.2)
        for i, attack in enumerate(names):
            false, true = curves.get(attack, (np.zeros(0), np.zeros(0)))
            seen = (false > 0) & (true > 0)
            ax.plot(false[seen], true[seen], color=LINES[i % len(LINES)], linestyle=STYLES[i % 4], linewidth=1.6,
                    label=names[attack] if ax is axes[0] else None)  # fmt: skip
        ax.set_title(plain(short(defense, LEGEND)) if len(panels) > 1 else "")
        _logarithmic(ax, lowest)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    canvas.supxlabel("others called members", fontsize=9, color=MUTED)
    canvas.supylabel("members found", fontsize=9, color=MUTED)
    legend(canvas)


def _logarithmic(ax: Axes, lowest: float) -> None:
    """Both axes from the lowest rate to 1, in per cent."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(lowest, 1)
    ax.set_ylim(lowest, 1.1)
    ax.grid(True, which="major")
    ax.set_axisbelow(True)
    ax.tick_params(length=0, which="both", labelcolor=INK)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axis.set_minor_formatter(lambda value, _: "")
