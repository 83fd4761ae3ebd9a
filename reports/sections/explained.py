"""Explanation: how faithful each method's maps are to each system, beside a map that knows nothing, and shape bias.

Systems are compared on the pictures that all of them get right: a system that is wrong elsewhere is asked about other
pictures. Insertion and deletion are areas under the class's probability, so a system that is surer of itself has more
of both; what they are of its probability at the whole picture stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.maths import stats

from ..measure.classes import named
from ..measure.grades import shown
from ..measure.scores import flag_names, measured_as
from ..measure.worst import worst_case
from ..read.extra import part as reported
from ..read.runs import Results, once
from ..render.document import Entry, Part, Section, Table, accuracy, counted, split_constant, words
from ..render.draw import LEGEND, LINES, MUTED, Figure, draw, legend, slug, told_apart, where, wrap
from ..render.text import number, percent, plain, points, short
from .figures import drawn
from .generic import slim

WHERE = ("threat", "dataset", "model", "defense", "seed")
ALIKE = ("threat", "dataset", "seed")
"""Systems that are the same in these are compared on the same pictures."""

FLOOR = "random"
MEASURES = ("insertion", "deletion", "insertion_share", "deletion_share", "pointed", "on_object", "diffroar")
NOT_MEASURED = Entry("–", -9.0, "not measured")
UNKNOWN = Entry("–", -9.0, "the data set does not say where its objects are")

LEAD = (
    "A method says of each pixel how much it speaks for the class that the system answers. Insertion gives a blurred "
    "picture its pixels back in that order, deletion takes them away; both are the mean probability of the class on "
    "the way. A good map has a large insertion and a small deletion. The map named random knows nothing: what does not "
    "differ from it says nothing. The probabilities are the system's own, so one that is seldom sure has little of "
    "both; the columns with p divide by its probability at the whole picture.",
)

MANY = 10
"""Systems that a figure can name."""


def explained(run: Results) -> pd.DataFrame:
    """One row a cell: n pictures that it gets right, of each of MEASURES its mean there with lo and hi.

    common: pictures that all systems of the same threat, data set and seed get right; common_<measure> with lo and hi
    are of these. object_area: what a map that knows nothing has on the object. NaN of what was not measured.
    """
    cells = [(cell, run.columns(source["run_id"])) for cell in run.known.values()
             if cell["scenario"] == "explanation" and (source := measured_as(cell, run.known)) is not None]  # fmt: skip
    right: dict[tuple[Any, ...], set[int]] = {}
    for cell, rows in cells:
        mine = set(np.asarray(rows["index"])[np.asarray(rows["clean_ok"], bool)].tolist())
        key = tuple(cell[name] for name in ALIKE)
        right[key] = right[key] & mine if key in right else mine
    found = []
    for cell, rows in cells:
        ok, index = np.asarray(rows["clean_ok"], bool), np.asarray(rows["index"])
        common = np.isin(index, list(right[tuple(cell[name] for name in ALIKE)]))
        base = {name: cell[name] for name in ("run_id", *WHERE, "attack", "grade", "sentence")}
        base |= {"flags": flag_names(cell), "n": int(ok.sum()), "common": int(common.sum()), "of": len(ok)}
        base["object_area"] = _mean(rows.get("object_area"), ok)[0]
        for name in MEASURES:
            base |= _spread(name, rows.get(name), np.ones_like(ok) if name == "diffroar" else ok)
            base |= _spread(f"common_{name}", rows.get(name), common)
        found.append(base)
    return pd.DataFrame(found)


def _spread(name: str, column: Any, among: Any) -> dict[str, float]:
    value, lo, hi = _mean(column, among)
    return {name: value, f"{name}_lo": lo, f"{name}_hi": hi}


def _mean(column: Any, among: Any) -> tuple[float, float, float]:
    """The mean with its bootstrap interval; NaN where there is no column, no picture, or a value that is missing."""
    values = np.zeros(0) if column is None else np.asarray(column, np.float64)[among]
    if not len(values) or not np.isfinite(values).all():
        return np.nan, np.nan, np.nan
    return (float(values.mean()), *stats.bootstrap_interval(values, 0))


@once
def shape_bias(run: Results) -> pd.DataFrame:
    """One row a system and class, '' for all: shape and texture answers, of n pictures whose cues contradict.

    edges, silhouettes: its accuracy on outlines and on filled shapes; NaN where they are not in the run.
    """
    keys = ("shift", "dataset", "model", "defense", "seed")
    cells = [cell for cell in run.known.values() if cell["scenario"] == "shift" and cell["status"] == "done"]
    found = []
    for cell in cells:
        if "by_either" not in {column.name for column in cell["record"].columns}:
            continue
        rows, same = run.examples(cell["run_id"]), [c for c in cells if all(c[k] == cell[k] for k in keys)]
        base: dict[str, Any] = {name: cell[name] for name in (*keys, "grade")}
        for name in ("edges", "silhouettes"):
            twins = [c["run_id"] for c in same if c["corruption"] == name]
            base[name] = float(run.columns(twins[0])["robust"].mean()) if twins else np.nan
        call = named(run, cell["dataset"])
        kinds = rows["file"].str.split("/").str[-2] if "file" in rows else rows["label"].map(call)
        for kind, part in (("", rows), *rows.groupby(kinds, sort=True)):
            found.append({**base, "class": kind, "shape": int(part["by_shape"].sum()), "n": len(part),
                          "texture": int(part["by_texture"].sum())})  # fmt: skip
    return pd.DataFrame(found)


def bias(row: Mapping[Any, Any]) -> Entry:
    """Answers by shape among those by shape or texture, with Wilson's interval; '–' where there is no such answer."""
    k, n = int(row["shape"]), int(row["shape"] + row["texture"])
    if not n:
        return Entry("–", -1.0, "no answer goes by shape or by texture")
    return accuracy(k / n, *stats.wilson(k, n), note=f"{k} of {n}", struck=row["grade"] == "INVALID")


def shape_tables(run: Results) -> Iterator[Table]:
    """Shape bias of each system, and by class; nothing where no set of contradicting cues is in the run."""
    found = shape_bias(run)
    if not len(found):
        return
    names, caption = split_constant(found, ("shift", "dataset", "model", "seed"))
    whole = found[found["class"] == ""].to_dict("records")
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["defense"]), bias(row), _of(row["shape"]),
         _of(row["texture"]), _of(row["n"] - row["shape"] - row["texture"]), _of(row["n"]), _part(row["edges"]),
         _part(row["silhouettes"]))
        for row in whole
    )  # fmt: skip
    caption += "; answers by shape among those by shape or by texture, Wilson's 95 % interval"
    columns = (*names, "defense", "shape bias", "by shape", "by texture", "by neither", "n", "edges", "silhouettes")
    yield Table("shape_bias", "Shape or texture", caption.lstrip("; "), columns, rows, csv="shape_bias.csv")
    each = found[found["class"] != ""]
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["defense"]), words(row["class"]), bias(row),
         _of(row["shape"]), _of(row["texture"]), _of(row["n"]))
        for row in each.to_dict("records")
    )  # fmt: skip
    columns = (*names, "defense", "class of the shape", "shape bias", "by shape", "by texture", "n")
    yield slim(Table("shape_bias_classes", "Shape or texture, by class", caption.lstrip("; "), columns, rows,
                     csv="shape_bias.csv"))  # fmt: skip


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What explanations add to a report."""
    found = explained(run)
    if not len(found):
        return Part((Section("explanation", "Explanation"),))
    beside = robustness(run, found)
    tables = (*_systems(beside), _maps(found))
    section = Section("explanation", "Explanation", LEAD, tables, tuple(_figures(beside)), order=49)
    return Part((section,), frames={"explanation": found.drop(columns=["run_id"])})


def robustness(run: Results, found: pd.DataFrame) -> pd.DataFrame:
    """The rows with robust, its lo and hi, of the same system, one for each evasion threat; none where there is none.

    standing: the grade of that number. shape_bias: the system's, NaN where it was not measured; shape_grade: its grade.
    evasion: the threat.
    """
    worst, shape = worst_case(run).to_dict("records"), shape_bias(run).to_dict("records")
    rows = []
    for row in found.to_dict("records"):
        system = {name: row[name] for name in ("dataset", "model", "defense", "seed")}
        shaped = [s for s in shape if not s["class"] and system.items() <= s.items()]
        n = sum(s["shape"] + s["texture"] for s in shaped)
        known = sum(s["shape"] for s in shaped) / n if n else np.nan
        for w in worst:
            if system.items() <= w.items():
                told = {"robust": w["robust_accuracy"], "robust_lo": w["lo"], "robust_hi": w["hi"],
                        "standing": w["grade"], "evasion": f"{w['threat']}: {w['budget']}"}  # fmt: skip
                rows.append(row | told | {"shape_bias": known, "shape_grade": "".join(s["grade"] for s in shaped[:1])})
    return pd.DataFrame(rows)


def _systems(beside: pd.DataFrame) -> Iterator[Table]:
    """A table a threat, a row a system: robust accuracy, each method's insertion and deletion on the same pictures."""
    for i, (threat, part) in enumerate(beside.groupby("threat", sort=False) if len(beside) else ()):
        names, caption = split_constant(part, ("dataset", "seed", "evasion", "model"))
        methods, rows = list(dict.fromkeys(part["attack"])), []
        for _, group in part.groupby([*WHERE, "evasion"], sort=False):
            cells, first = {row["attack"]: row for row in group.to_dict("records")}, group.iloc[0]
            robust = shown(accuracy(first["robust"], first["robust_lo"], first["robust_hi"]), first["standing"])
            shape = replace(_part(first["shape_bias"]), struck=first["shape_grade"] == "INVALID")
            rows.append((
                *(words(first[name]) for name in names), words(first["defense"]), robust, shape,
                *(_both(cells.get(method)) for method in methods), _of(first["common"]),
            ))  # fmt: skip
        caption += "; insertion / deletion, on the pictures that all these systems get right"
        columns = (*names, "defense", "robust accuracy", "shape bias", *methods, "n")
        yield Table(f"explanation_systems-{i + 1}", f"Robustness beside explanation: {threat}", caption.lstrip("; "),
                    columns, tuple(rows), csv="explanation.csv")  # fmt: skip


def _both(row: Mapping[Any, Any] | None) -> Entry:
    if row is None or np.isnan(row["common_insertion"]) or np.isnan(row["common_deletion"]):
        return NOT_MEASURED
    note = "; ".join(f"{name} {_spanned(row, f'common_{name}')}" for name in ("insertion", "deletion"))
    return Entry(f"{row['common_insertion']:.2f} / {row['common_deletion']:.2f}", row["common_insertion"], note,
                 struck=row["grade"] == "INVALID")  # fmt: skip


def _spanned(row: Mapping[Any, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_lo']:.3f}–{row[f'{name}_hi']:.3f})"


def _maps(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, (*ALIKE, "model"))
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["defense"]), words(row["attack"]),
         *(_area(row, name) for name in MEASURES[:4]), _share(row, "pointed"), _share(row, "on_object"),
         _part(row["object_area"], UNKNOWN), _roar(row), _of(row["n"]), Entry(row["sentence"] or row["flags"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, "defense", "method", "insertion", "deletion", "insertion / p", "deletion / p", "points at it",
               "on the object", "object's area", "DiffROAR", "n", "notes")  # fmt: skip
    caption += "; over the pictures that each system gets right, bootstrap 95 % intervals"
    return slim(Table("explanation", "How faithful the maps are", caption.lstrip("; "), columns, rows,
                      csv="explanation.csv"))  # fmt: skip


def _area(row: Mapping[Any, Any], name: str) -> Entry:
    if np.isnan(row[name]):
        return NOT_MEASURED
    return Entry(_spanned(row, name), row[name], struck=row["grade"] == "INVALID")


def _share(row: Mapping[Any, Any], name: str) -> Entry:
    if np.isnan(row[name]):
        return UNKNOWN
    return accuracy(row[name], row[f"{name}_lo"], row[f"{name}_hi"], struck=row["grade"] == "INVALID")


def _roar(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["diffroar"]):
        return Entry("–", -9.0, "no network was trained anew: the threat does not ask for it")
    text = f"{points(row['diffroar'])} ({100 * row['diffroar_lo']:.1f} to {100 * row['diffroar_hi']:.1f})"
    return Entry(text, row["diffroar"], struck=row["grade"] == "INVALID")


def _of(count: float) -> Entry:
    return counted(count, number(count))


def _part(value: float, missing: Entry = NOT_MEASURED) -> Entry:
    return missing if np.isnan(value) else counted(value, percent(value))


def _figures(beside: pd.DataFrame) -> Iterator[Figure]:
    """One a threat, data set and seed: insertion and deletion of each method, the systems by their robust accuracy."""
    groups = [(key, rows) for key, rows in (beside.groupby(["evasion", *ALIKE], sort=False) if len(beside) else ())
              if len(rows.groupby(["model", "defense"])) > 1 and rows["attack"].nunique() > 2]  # fmt: skip
    for key, rows, left in drawn(groups):
        caption = "Insertion (higher is better) and deletion (lower is better) of each method, the systems from the "
        caption += "least to the most robust, with 95 % intervals, on the pictures that all of them get right; dotted: "
        caption += f"the map that knows nothing, {where(key)}{left}"
        yield draw(f"explanation-{slug(key)}", caption, (10.0, 4.6), partial(_paint, rows=rows))


def _paint(canvas: Canvas, rows: pd.DataFrame) -> None:
    known = rows.drop_duplicates(["model", "defense"]).sort_values("robust", kind="stable")
    several = known["model"].nunique() > 1
    systems = {(r["model"], r["defense"]): i for i, r in enumerate(known.to_dict("records"))}
    said = [f"{wrap(plain(f'{m} {d}' if several else d), 14)}\n{100 * robust:.0f} % robust"
            for (m, d), robust in zip(systems, known["robust"], strict=True)]  # fmt: skip
    methods = sorted(dict.fromkeys(rows["attack"]), key=lambda name: name == FLOOR)
    names = told_apart(methods, partial(short, width=LEGEND))
    for ax, score in zip(canvas.subplots(1, 2), ("insertion", "deletion"), strict=True):
        for i, method in enumerate(names):
            mine = rows[(rows["attack"] == method) & rows[f"common_{score}"].notna()]
            mine = mine.sort_values("robust", kind="stable")
            places = [systems[key] for key in zip(mine["model"], mine["defense"], strict=True)]
            at = np.array(places) + 0.06 * (i - len(names) / 2)
            value = mine[f"common_{score}"].to_numpy()
            around = np.abs(np.stack([mine[f"common_{score}_lo"], mine[f"common_{score}_hi"]]) - value)
            colour, style = (MUTED, ":") if method == FLOOR else (LINES[i % len(LINES)], "-")
            ax.errorbar(at, value, yerr=around, color=colour, linestyle=style, marker="o", markersize=4, linewidth=1.1,
                        elinewidth=0.8, label=names[method] if score == "insertion" else None)  # fmt: skip
        ax.set_xticks(range(len(said)), said if len(said) <= MANY else [""] * len(said), fontsize=7.5)
        ax.set_ylabel(score)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        ax.tick_params(length=0)
    legend(canvas)
