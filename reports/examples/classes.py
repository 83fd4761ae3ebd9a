"""Class by class in a report: which fall first under a threat, and what broken pictures are taken for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..measure import classes
from ..measure.classes import MOST_ROWS, NO_ANSWER, confusions, matrices, per_class, strongest
from ..measure.grades import shown
from ..measure.worst import GROUP
from ..read.runs import Results
from ..render.document import Entry, Section, Table, accuracy, counted, words
from ..render.draw import INK, SCALE, Figure, bare, draw, slug, told_apart, where
from ..render.text import number, percent, plain, short
from ..sections.figures import MOST
from ..sections.generic import groups, titled

THREAT = GROUP[:-1]
WORST = 10
"""Classes, and pairs of classes, that a page shows of one system."""

FEW = 40
"""Threats with a table, and systems that a table has; the csv files have the others."""

DRAWN = 20
"""Classes up to which a confusion is drawn."""


def classes_section(run: Results) -> Section:
    """The worst classes of each system under each threat, and what they are taken for under the strongest attack."""
    rates, pairs = per_class(run), confusions(run)
    found = (*_tables(rates, "classes", "classes", _rate_row), *_tables(pairs, "confusions", "taken for", _pair_row))
    lead = (
        "Robust accuracy of each class under all attacks of a threat at once. The class with the lowest upper end of "
        "its 95 % interval stands first, so a class is not the worst for having few images.",
        *(("Taken for: broken images by their class and the answer they get under the strongest attack alone; the "
           "share is of all that end with a wrong answer (their number stands behind it), which can be fewer than are "
           "broken.",) if len(pairs) else ()),
        *_left(run, rates, pairs),
    )  # fmt: skip
    return Section("classes", "Class by class", lead, found, tuple(_maps(run)), order=12)


def _left(run: Results, rates: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[str]:
    """What is not shown, and what is not in the csv files either."""
    if (threats := len(rates[list(THREAT)].drop_duplicates())) > FEW:
        yield f"The first {FEW} of {threats} threats, data sets and models have tables; the csv files have the others."
    if max(len(rates), len(pairs)) > MOST_ROWS:
        yield f"The csv files have the first of {len(classes.own(run))} systems alone, in {MOST_ROWS} rows."


def _tables(
    frame: pd.DataFrame, name: str, what: str, row_of: Callable[[Mapping[Any, Any]], dict[str, Entry]]
) -> Iterator[Table]:
    """A table a threat with the first rows of each of its systems."""
    some = islice(groups(frame, THREAT), FEW)
    parts = [(key, part) for key, part in some if name != "classes" or part["class"].nunique() > 1]
    for i, ((key, part), title) in enumerate(zip(parts, titled([key for key, _ in parts], THREAT), strict=True)):
        apart = part["seed"].nunique() > 1
        systems = list(groups(part, ("seed", "defense")))
        rows: list[tuple[Entry, ...]] = []
        columns: tuple[str, ...] = ()
        for (seed, defense), mine in systems[:FEW]:
            for row in mine.head(WORST).to_dict("records"):
                entries = row_of(row)
                columns = (*(("seed",) if apart else ()), "defense", *entries)
                rows.append((*((counted(seed, str(seed)),) if apart else ()), words(defense), *entries.values()))
        yield Table(f"{name}-{i + 1}", f"{title} · {what}", _caption(key, name, systems), columns, tuple(rows),
                    "per_class.csv" if name == "classes" else "confusions.csv")  # fmt: skip


def _caption(key: Sequence[Any], name: str, systems: Sequence[tuple[Any, pd.DataFrame]]) -> str:
    """What is constant over the table, and what part of everything it shows."""
    said = [f"{axis} {value}" for axis, value in zip(THREAT[2:], key[2:], strict=True) if str(value)]
    most = max(len(mine) for _, mine in systems)
    if name == "classes":
        said += [f"the {WORST} worst of {most} classes with images"] if most > WORST else [f"{most} classes"]
        n = max(int(mine["n"].max()) for _, mine in systems)
        said += [f"no class has more than {n} image{'s' * (n > 1)}, too few to call one the worst"] if n < WORST else []
    elif most > WORST:
        said.append(f"the {WORST} most frequent of up to {most} pairs")
    said += [f"the first {FEW} of {len(systems)} systems"] if len(systems) > FEW else []
    return ", ".join(said)


def _rate_row(row: Mapping[Any, Any]) -> dict[str, Entry]:
    rate = accuracy(row["robust_accuracy"], row["lo"], row["hi"])
    return {
        "class": Entry(row["name"]), "all attacks at once": shown(rate, row["grade"]),
        "no attack": counted(row["clean_accuracy"], percent(row["clean_accuracy"])),
        "n": counted(row["n"], number(row["n"])),
    }  # fmt: skip


def _pair_row(row: Mapping[Any, Any]) -> dict[str, Entry]:
    return {
        "attack": words(row["attack"]), "class": Entry(row["label_name"]), "taken for": Entry(row["answer_name"]),
        "images": counted(row["count"], number(row["count"])),
        "share": counted(row["share"], percent(row["share"])),
        "of wrong answers": counted(row["wrong"], number(row["wrong"])),
        "broken": counted(row["broken"], number(row["broken"])),
    }  # fmt: skip


def _maps(run: Results) -> Iterator[Figure]:
    """Label against answer without and under the strongest attack, for the undefended model and the best defense."""
    some = []
    for member in classes.shown_systems(run):
        both = matrices(run.columns(strongest(run, member)["run_id"]), DRAWN)
        if both is not None:
            some.append((member, both))
    left = f"; {len(some) - MOST} more are not drawn, confusions.csv has them" if len(some) > MOST else ""
    for member, both in some[:MOST]:
        k = len(both[0])
        name = classes.named(run, str(member.group[3]))
        names = list(told_apart([name(i) for i in range(k)], partial(short, width=14)).values())
        who = f"{plain(member.defense)}, " if run.defended else ""
        caption = (f"Images by class (down) and answer (across), blue where it is right, without attack and under "
                   f"{member.strongest}: {who}{where(member.group)}{left}")  # fmt: skip
        yield draw(f"confusion-{slug((*member.group, member.defense))}", caption, (2.6 + 0.54 * k, 1.5 + 0.27 * k),
                   partial(_paint, both=both, names=names, attack=member.strongest))  # fmt: skip
        left = ""


def _paint(canvas: Canvas, both: Sequence[NDArray[np.int64]], names: list[str], attack: str) -> None:
    gone = any(counts[:, -1].any() for counts in both)
    for ax, counts, title in zip(canvas.subplots(1, 2, sharey=True), both, ("no attack", attack), strict=True):
        _map(ax, counts if gone else counts[:, :-1], [*names, NO_ANSWER] if gone else names, names)
        ax.set_xlabel(short(title, 40))


def _map(ax: Axes, counts: NDArray[np.int64], across: list[str], down: list[str]) -> None:
    """Counts with a colour by their share of the row, blue where the answer is right and orange where it is not."""
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    height, width = counts.shape
    right = np.arange(height)[:, None] == np.arange(width)
    tone = 0.5 + np.where(right, 0.5, -0.5) * share
    ax.add_patch(Rectangle((-0.5, -0.5), width, height, facecolor=SCALE(0.5), linewidth=0))
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_aspect("equal")
    for y, x in zip(*np.nonzero(counts), strict=True):
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SCALE(tone[y, x]), linewidth=0))
        colour = "#ffffff" if abs(tone[y, x] - 0.5) > 0.34 else "#10202e"
        ax.text(x, y, number(counts[y, x]), ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(across)), across, rotation=90, fontsize=7.5)
    ax.set_yticks(range(len(down)), down, fontsize=7.5)
    bare(ax)
    ax.xaxis.label.set_color(INK)
