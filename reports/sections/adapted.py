"""Test-time adaptation: errors of each method over each stream, batch by batch, and what is left on clean pictures.

Errors are means over the stages of a stream (a corruption at a severity), as published. Intervals resample pictures: a
picture stands in every stage, and what a method made of it in one is no new evidence in the next. They say how far
other pictures would move the number on this stream, not how far another order would.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from robustsuite.maths import stats

from ..measure.scores import measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, accuracy, counted, error, split_constant, words
from ..render.draw import LEGEND, LINES, STYLES, Figure, draw, legend, slug, told_apart, where
from ..render.text import number, percent, short
from .figures import drawn

STAGE = 1 << 32
"""Ids of a stage start at a multiple of this; within it they are the pictures' own."""

WHERE = ("threat", "model", "dataset", "seed")
SMOOTH = 5
"""Batches that a point of a curve is the mean of."""

NOBODY, SOURCE = "benign", "none"


def streams(run: Results) -> pd.DataFrame:
    """One row a cell: error with its interval, before and after on clean pictures, uploads, and what others lost.

    error: mean over stages on the pictures that count. without: the same where the adversary's pictures are as they
    came, NaN where there is none; harm, harm_lo, harm_hi: the difference. uploads: pictures sent, NaN where nothing is.
    """
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "adaptation" else None
        if source is None:
            continue
        terms = source["record"].threat.budget.terms if source["record"].threat else {}
        base = {name: cell[name] for name in (*WHERE, "defense", "attack", "budget", "grade")}
        base |= {"order": terms.get("order", ""), "batch": terms.get("batch", 0), "share": terms.get("share", 0.0)}
        rows.append({**base, "run_id": source["run_id"], **_counted(run.examples(source["run_id"]))})
    return pd.DataFrame(rows)


def _counted(examples: pd.DataFrame) -> dict[str, float]:
    """The numbers of a cell from its rows."""
    counts, clean = examples["counts"].to_numpy(bool), examples["clean"].to_numpy(bool)
    part = examples[counts]
    found: dict[str, float] = {"n": int(clean.sum()), "pictures": len(part), "stages": part["stage"].nunique()}
    wrong = ~part["right"].to_numpy(bool)
    found["error"], found["lo"], found["hi"] = _over_stages(part, wrong.astype(float))
    for name, column in (("before", "before"), ("after", "right")):
        found[name] = float(examples.loc[clean, column].mean())
    found["uploads"] = float(part["uploaded"].sum()) if "uploaded" in part else np.nan
    without = ~part["right_without"].to_numpy(bool) if "right_without" in part else None
    names = ("without", "harm", "harm_lo", "harm_hi")
    found |= dict.fromkeys(names, np.nan)
    if without is not None:
        harm = _over_stages(part, wrong.astype(float) - without)
        found |= dict(zip(names, (_over_stages(part, without.astype(float))[0], *harm), strict=True))
        found["malicious"] = int(examples["malicious"].sum())
    return found


def _over_stages(part: pd.DataFrame, values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean over stages of each stage's mean, and its interval over pictures."""
    picture, stage = part["index"].to_numpy() % STAGE, part["stage"].to_numpy()
    _, row = np.unique(picture, return_inverse=True)
    _, column = np.unique(stage, return_inverse=True)
    shape = int(row.max()) + 1, int(column.max()) + 1
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row, column), values)
    np.add.at(count, (row, column), 1)

    def mean(rows: NDArray[np.int64]) -> float:
        met = count[rows].sum(0)
        return float(np.mean(total[rows].sum(0)[met > 0] / met[met > 0]))

    return mean(np.arange(shape[0])), *stats.resampled_interval(mean, shape[0], 0, draws=500)


def by_stage(run: Results, found: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and stage: its corruption and severity, k wrong of n that count."""
    rows = []
    for cell in found.to_dict("records"):
        examples = run.examples(cell["run_id"])
        for stage, part in examples[examples["counts"].astype(bool)].groupby("stage"):
            k = int((~part["right"].astype(bool)).sum())
            base = {name: cell[name] for name in (*WHERE, "defense", "attack")}
            base |= {"stage": stage, "corruption": part["split"].iloc[0], "severity": part["severity"].iloc[0]}
            rows.append({**base, "error": k / len(part), "k": k, "n": len(part)})
    return pd.DataFrame(rows)


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What test-time adaptation adds to a report."""
    found = streams(run)
    if not len(found):
        return Part((Section("adaptation", "Test-time adaptation"),))
    lead: tuple[str, ...] = (
        "A stream of corrupted pictures is asked batch by batch, and a method that adapts changes with each. Order and "
        "batch size are part of every number. The source is the same network without adapting. Errors are means over "
        "the stages of a stream, with 95 % intervals over pictures: another order is not in them. Clean accuracy is "
        "asked after the stream, of what the stream has made of the system, and before, of one that saw no other "
        "picture.",
    )
    quiet, loud = found[found["attack"] == NOBODY], found[found["attack"] != NOBODY]
    tables = [_across(quiet)] if quiet["threat"].nunique() > 1 else []
    tables += [_methods(quiet)] if len(quiet) else []
    if len(loud):
        lead += ("Where an adversary owns a share of each batch, the pictures of the others count: their error beside "
                 "the same stream with its pictures as they came. A small difference says that this attack does "
                 "little, not that none would do more.",)  # fmt: skip
        tables.append(_invaded(loud))
    frames = {"adaptation": found.drop(columns="run_id"), "adaptation_stages": by_stage(run, found)}
    section = Section("adaptation", "Test-time adaptation", lead, tuple(tables), tuple(_figures(run, found)), order=44)
    return Part((section,), frames=frames)


def _called(defense: object) -> Entry:
    return Entry("source", "") if defense == SOURCE else words(defense)


def _across(found: pd.DataFrame) -> Table:
    """A method a row, a stream a column: errors; by the first stream, lowest first."""
    names, caption = split_constant(found, ("model", "dataset", "seed"))
    threats = list(dict.fromkeys(found["threat"]))
    rows = []
    for _, part in found.groupby(["model", "dataset", "seed", "defense"], sort=False):
        met = {row["threat"]: row for row in part.to_dict("records")}
        entries = [error(met[t]["error"], met[t]["lo"], met[t]["hi"]) if t in met else Entry("–", np.inf, "not played")
                   for t in threats]  # fmt: skip
        one = part.iloc[0]
        rows.append((*(words(one[name]) for name in names), _called(one["defense"]), *entries))
    rows.sort(key=lambda row: row[len(names) + 1].key)
    columns = (*names, "method", *threats)
    return Table("adaptation_streams", "Errors by method and stream", caption, columns, tuple(rows), "adaptation.csv")


def _methods(found: pd.DataFrame) -> Table:
    """A method and stream a row: its error, and clean accuracy before and after."""
    names, caption = split_constant(found, (*WHERE, "batch"))
    several = found["uploads"].notna().any()
    rows = []
    for row in found.sort_values([*WHERE, "error"], kind="stable").to_dict("records"):
        sent = [_uploads(row)] if several else []
        rows.append((
            *(words(row[name]) for name in names), _called(row["defense"]),
            error(row["error"], row["lo"], row["hi"]), _clean(row, "before"), _clean(row, "after"), *sent,
            counted(row["stages"], number(row["stages"])), counted(row["n"], number(row["n"])),
        ))  # fmt: skip
    uploads = ("uploads",) if several else ()
    columns = (*names, "method", "error", "clean, before", "clean, after", *uploads, "stages", "pictures a stage")
    return Table("adaptation", "Errors over a stream, lowest first", caption, columns, tuple(rows), "adaptation.csv")


def _clean(row: Mapping[Any, Any], name: str) -> Entry:
    n = int(row["n"])
    return accuracy(row[name], *stats.clopper_pearson(round(row[name] * n), n))


def _uploads(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["uploads"]):
        return Entry("–", -1.0, "it sends nothing")
    return counted(row["uploads"], f"{number(row['uploads'])} ({percent(row['uploads'] / row['pictures'])})")


def _invaded(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, (*WHERE, "budget", "attack"))
    rows = tuple((
        *(words(row[name]) for name in names), _called(row["defense"]),
        counted(row["without"], percent(row["without"])), error(row["error"], row["lo"], row["hi"]), _harm(row),
        counted(row["malicious"], number(row["malicious"])), counted(row["pictures"], number(row["pictures"])),
    ) for row in found.to_dict("records"))  # fmt: skip
    columns = (*names, "method", "error without them", "error with them", "difference, points", "malicious", "others")
    return Table("adaptation_invaded", "What the pictures of others lose to malicious ones in their batch", caption,
                 columns, rows, "adaptation.csv")  # fmt: skip


def _harm(row: Mapping[Any, Any]) -> Entry:
    text = f"{100 * row['harm']:+.1f} ({100 * row['harm_lo']:+.1f} to {100 * row['harm_hi']:+.1f})"
    note = "" if row["harm_lo"] > 0 else "no harm that the interval tells from none"
    return Entry(text, float(row["harm"]), note)


def _figures(run: Results, found: pd.DataFrame) -> list[Figure]:
    """One drawing a stream and attack: the error of each batch, smoothed, a line a method."""
    figures = []
    for key, part, left in drawn(list(found.groupby(["attack", *WHERE], sort=False))):
        names = told_apart(["source" if d == SOURCE else d for d in part["defense"]], partial(short, width=LEGEND))
        curves = {names["source" if row["defense"] == SOURCE else row["defense"]]: _curve(run.examples(row["run_id"]))
                  for row in part.to_dict("records")}  # fmt: skip
        smoothed = "" if len(next(iter(curves.values()))) < 3 * SMOOTH else f", means of {SMOOTH} batches"
        said = where(key[1:] if key[0] == NOBODY else key)
        caption = f"Error over the stream, {said}{smoothed}{left}"
        figures.append(draw(f"adaptation-{slug(key)}", caption, (7.2, 4.1), partial(_lines, curves=curves)))
    return figures


def _curve(examples: pd.DataFrame) -> NDArray[np.float64]:
    """The error (B,) of each batch on the pictures that count, in order."""
    part = examples[examples["counts"].astype(bool)]
    right = part["right"].astype(float).groupby(part["batch"]).mean()
    wrong: NDArray[np.float64] = np.subtract(1.0, right.to_numpy(np.float64), dtype=np.float64)
    return wrong


def _line(i: int) -> tuple[str, str]:
    """The colour and style of the i-th line: no two of the first 32 are alike."""
    return LINES[i % len(LINES)], STYLES[(i + i // len(LINES)) % len(STYLES)]


def _lines(canvas: Canvas, curves: dict[str, NDArray[np.float64]]) -> None:
    ax = canvas.add_subplot()
    for i, (name, values) in enumerate(curves.items()):
        shown = values
        if len(values) >= 3 * SMOOTH:
            shown = pd.Series(values).rolling(SMOOTH, min_periods=1).mean().to_numpy()
        colour, style = _line(i)
        ax.plot(np.arange(1, len(shown) + 1), 100 * shown, linestyle=style, color=colour, linewidth=1.5,
                marker="o" if len(shown) < 8 else "", markersize=3.5, label=name)  # fmt: skip
    ax.set_ylim(0, 102)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.set_xlabel("batches asked")
    ax.set_ylabel("error, %")
    legend(canvas)
