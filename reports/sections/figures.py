"""The figures of a report, each drawn once and saved twice: an svg that takes the page's colours and a png on white.

Nothing here measures anything: the numbers come from scores.py, worst.py and tables.py. Orange is bad and blue is good
(safe for the common kinds of colour blindness), and every cell also carries its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from robustsuite.records.schema import Budget, CellRecord

from ..measure.tables import CORRUPTIONS, corruption_grid, empirical_curves
from ..measure.worst import GROUP, worst_case
from ..read.runs import Results, once
from ..render.adversary import knows, titled, who
from ..render.draw import (
    INK,
    LEGEND,
    LINES,
    PAPER,
    SCALE,
    STYLES,
    Figure,
    bare,
    draw,
    legend,
    radius_axes,
    slug,
    told_apart,
    where,
    wrap,
)
from ..render.text import plain, short
from .generic import across

DARK = "#10202e"
"""Digits on a pale tile, in either theme."""

MOST = 16
"""Figures of a kind that are drawn; nobody looks through more of them, and each takes the time of a thousand rows."""

TILES, NAMED = 400, 40
"""Cells of a heat map that can each be read; beyond, colours alone, with so many names at most on each side."""


def heatmaps(run: Results, table: pd.DataFrame) -> list[Figure]:
    """Attack x defense: robust accuracy with its interval; hatched where it is an upper bound or there is none."""
    rows = table[(table["scenario"] == "evasion") & (table["metric"] == "robust_accuracy")]
    worst = worst_case(run)
    found = []
    for key, part, left in drawn(list(rows.groupby(list(GROUP), sort=False))):
        mine = worst[(worst[list(GROUP)] == list(key)).all(axis=1)] if len(worst) else worst
        defenses = list(dict.fromkeys(part["defense"]))
        attacks = list(dict.fromkeys(part["attack"]))
        if len(defenses) * len(attacks) > TILES:
            caption = f"Robust accuracy, attacks down, defenses across (the table has the numbers), {where(key)}{left}"
            grid = part.pivot_table(index="attack", columns="defense", values="value", sort=False, dropna=False)
            grid = grid.reindex(index=attacks, columns=defenses)
            found.append(draw(f"heatmap-{slug(key)}", caption, (10.0, 6.0), partial(_colours, grid=grid)))
            continue
        bounded = "; ≤: no verdict, an upper bound" if (part["grade"] == "PROVISIONAL").any() else ""
        caption = f"Robust accuracy in % with its 95 % interval, {where(key)}{left}{bounded}{key_of(run, defenses)}"
        caption = f"{against(run, key[0], key[1])}. {caption}"
        size = (2.2 + 1.25 * len(defenses), 1.1 + 0.46 * (len(attacks) + 2))
        found.append(
            draw(
                f"heatmap-{slug(key)}",
                caption,
                size,
                partial(
                    _heatmap, part=part, worst=mine, defenses=called(run, defenses, wrap),
                    attacks=told_apart(attacks, partial(short, width=26)),
                ),
            )
        )
    return found


def against(run: Results, threat: str, budget: str) -> str:
    """The adversary of an evasion threat in words, as a heading."""
    record = _adversaries(run)[threat, budget]
    return titled(who(record), record.threat.budget if record.threat else Budget())


def knowing(run: Results, threat: str, budget: str) -> int:
    """How much the adversary of an evasion threat has of the system: what knows most stands first."""
    return knows(_adversaries(run)[threat, budget])


@once
def _adversaries(run: Results) -> dict[tuple[str, str], CellRecord]:
    """A record of every evasion threat, by the threat's name and budget."""
    cells = run.cells[run.cells["scenario"] == "evasion"].drop_duplicates(["threat", "budget"])
    return dict(zip(zip(cells["threat"], cells["budget"], strict=True), cells["record"], strict=True))


def called(run: Results, names: Sequence[str], cut: Callable[[str], str]) -> dict[str, str]:
    """What a figure calls each defense, by its letter where a name is long; nothing where no system has one."""
    if not run.defended:
        return dict.fromkeys(names, "")
    heads, key = across(run, names)
    return dict(zip(names, heads, strict=True)) if key else told_apart(names, cut)


def key_of(run: Results, names: Sequence[str]) -> str:
    """What a caption ends with where `called` gives letters: whose they are."""
    return across(run, names)[1]


def drawn(groups: Sequence[tuple[Any, pd.DataFrame]]) -> Iterator[tuple[Any, pd.DataFrame, str]]:
    """The groups that get a figure, of several seeds (a key's last, a whole number) the first; and what its caption
    says of those that do not.
    """
    alike: dict[tuple[Any, ...], list[tuple[Any, pd.DataFrame]]] = {}
    for key, part in groups:
        alike.setdefault(key[:-1] if isinstance(key[-1], int | np.integer) else key, []).append((key, part))
    for i, ((key, part), *others) in enumerate(list(alike.values())[:MOST], 1):
        seeds = f"; the first of {len(others) + 1} seeds" if others else ""
        left = len(alike) - i if i == MOST else 0
        more = f"; {left} more are not drawn, the tables and csv files have them" if left else ""
        yield key, part, seeds + more


def _colours(canvas: Canvas, grid: pd.DataFrame) -> None:
    """The whole of a large sweep at a glance: a colour a cell, none where there is no number."""
    ax = canvas.add_subplot()
    shown = ax.imshow(grid.to_numpy(float), cmap=SCALE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for axis, names in ((ax.xaxis, grid.columns), (ax.yaxis, grid.index)):
        some = range(0, len(names), -(-len(names) // NAMED))
        axis.set_ticks(list(some), [short(plain(str(names[i])), 22) for i in some], fontsize=7)
    ax.tick_params(axis="x", rotation=90)
    bare(ax)
    canvas.colorbar(shown, ax=ax, fraction=0.03, format=lambda value, _: f"{100 * value:.0f} %")


def _heatmap(
    canvas: Canvas, part: pd.DataFrame, worst: pd.DataFrame, attacks: dict[str, str], defenses: dict[str, str]
) -> None:
    ax = canvas.add_subplot()
    cells = {(r["attack"], r["defense"]): r for r in part.to_dict("records")}
    lasts = {r["defense"]: r for r in worst.to_dict("records")}
    bottom = len(attacks) + 1.25
    for x, defense in enumerate(defenses):
        for y, attack in enumerate(attacks):
            row = cells.get((attack, defense))
            if row is not None and not np.isnan(row["value"]):
                below = "inert" if row["status"] == "inert" else _span(row["lo"], row["hi"])
                bound = "≤" if row["grade"] == "PROVISIONAL" else ""
                _cell(ax, (x, y + 1.125), row["value"], below, struck=row["grade"] == "INVALID", bound=bound)
            else:
                _numberless(ax, (x, y + 1.125), "" if row is None else str(row["status"]))
        if defense in lasts:
            last = lasts[defense]
            doubted = last["grade"] == "PROVISIONAL" or (last["unranked"] and last["missing"])
            bound = "≤" if doubted else ""
            _cell(ax, (x, 0), last["clean_accuracy"], _span(last["clean_lo"], last["clean_hi"]))
            _cell(ax, (x, bottom), last["robust_accuracy"], _span(last["lo"], last["hi"]),
                  struck=last["struck"], bound=bound)  # fmt: skip
        else:
            _numberless(ax, (x, 0), "")
            _numberless(ax, (x, bottom), "none")
    ax.set_xlim(-0.5, len(defenses) - 0.5)
    ax.set_ylim(bottom + 0.55, -0.55)
    ax.set_xticks(range(len(defenses)), list(defenses.values()))
    ax.set_yticks(
        [0, *(y + 1.125 for y in range(len(attacks))), bottom],
        ["no attack", *attacks.values(), "all attacks"],
    )
    ax.get_yticklabels()[-1].set_fontweight("bold")
    bare(ax)


def _span(lo: float, hi: float) -> str:
    return f"{100 * lo:.0f}–{100 * hi:.0f}"


def _hatch(ax: Axes, at: tuple[float, float], face: Any) -> None:
    """A hatched tile with a plain box of the same colour for its label, which no stripe runs through."""
    x, y = at
    ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=face, hatch="////", linewidth=0))
    ax.add_patch(Rectangle((x - 0.36, y - 0.35), 0.72, 0.74, facecolor=face, linewidth=0))


def _numberless(ax: Axes, at: tuple[float, float], word: str) -> None:
    _hatch(ax, at, PAPER)
    ax.text(*at, word, ha="center", va="center", fontsize=8.5, color=INK, fontstyle="italic")


def _tile(ax: Axes, at: tuple[float, float], value: float) -> str:
    """A coloured tile; returns the text colour that is legible on it."""
    ax.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.46), 0.96, 0.92, facecolor=SCALE(value), linewidth=0))
    return "#ffffff" if value < 0.13 or value > 0.83 else DARK


def _cell(
    ax: Axes, at: tuple[float, float], value: float, below: str, *, struck: bool = False, bound: str = ""
) -> None:
    x, y = at
    if bound:  # no verdict: a colour that stood there whole would be good news
        _hatch(ax, at, tuple(0.62 + 0.38 * part for part in SCALE(value)[:3]))
        colour = DARK
    else:
        colour = _tile(ax, at, value)
    text = f"{bound}{100 * value:.1f}"
    ax.text(x, y - 0.13, text, ha="center", va="center", fontsize=10, color=colour, fontweight="bold")
    ax.text(x, y + 0.25, below, ha="center", va="center", fontsize=7.2, color=colour)
    if struck:
        ax.plot([x - 0.24, x + 0.24], [y - 0.13, y - 0.13], color=colour, linewidth=1.6)


def curves(run: Results) -> list[Figure]:
    """Robust accuracy against the radius, one line per defense with its pointwise band, from minimum-norm attacks."""
    table = empirical_curves(run)
    found = []
    groups = table.groupby(["threat", "norm", "dataset", "model", "seed"], sort=False)
    for key, part, left in drawn([(key, part) for key, part in groups if (part["kind"] == "curve").any()]):
        defenses = list(dict.fromkeys(part.loc[part["kind"] == "curve", "defense"]))
        part = part[part["defense"].isin(defenses)]  # a dot alone is in the heat map, and has no line to name
        caption = f"Robust accuracy against the radius (minimum-norm attacks; dots: all attacks), {where(key)}{left}"
        caption += key_of(run, defenses)
        names = called(run, defenses, partial(short, width=LEGEND))
        found.append(draw(f"curve-{slug(key)}", caption, (7.2, 3.9), partial(_curves, part=part, names=names)))
    return found


def _curves(canvas: Canvas, part: pd.DataFrame, names: dict[str, str]) -> None:
    ax = canvas.add_subplot()
    for i, (defense, rows) in enumerate(part.groupby("defense", sort=False)):
        colour, line = LINES[i % len(LINES)], rows[rows["kind"] == "curve"]
        ax.plot(line["radius"], 100 * line["value"], color=colour, linestyle=STYLES[i % 4], linewidth=1.8,
                label=names[str(defense)])  # fmt: skip
        ax.fill_between(line["radius"], 100 * line["lo"], 100 * line["hi"], color=colour, alpha=0.13, linewidth=0)
        dot = rows[rows["kind"] == "point"]
        ax.plot(dot["radius"], 100 * dot["value"], "o", color=colour, markersize=5)
    radius_axes(ax, str(part["norm"].iloc[0]), "robust accuracy, %", float(part["radius"].max()))
    if any(names.values()):
        legend(canvas)


def corruption_panels(run: Results) -> list[Figure]:
    """Accuracy by corruption and severity, one heat map per defense."""
    grid = corruption_grid(run)
    found = []
    for key, part, left in drawn(list(grid.groupby(["shift", "dataset", "model", "seed"], sort=False))):
        present = list(dict.fromkeys(part["corruption"]))
        size_of = 4 * max(3, len(set(part["severity"].dropna()))) + 3
        titles = called(run, list(dict.fromkeys(part["defense"])), partial(wrap, width=size_of))
        names = [c for c in CORRUPTIONS if c in present] + [c for c in present if c not in CORRUPTIONS]
        levels = sorted(set(part["severity"].dropna()))
        defenses = list(dict.fromkeys(part["defense"]))
        columns = min(4, len(defenses))
        rows = -(-len(defenses) // columns)
        size = (1.7 + columns * (0.45 * max(3, len(levels)) + 0.25), rows * (0.32 * len(names) + 0.95) + 0.3)
        caption = f"Accuracy in % by corruption and severity, {where(key)}{left}{key_of(run, defenses)}"
        found.append(
            draw(f"corruptions-{slug(key)}", caption, size,
                  partial(_panels, part=part, defenses=titles, sides=(names, levels), shape=(rows, columns)))
        )  # fmt: skip
    return found


def _panels(
    canvas: Canvas,
    part: pd.DataFrame,
    defenses: dict[str, str],
    sides: tuple[list[str], list[float]],
    shape: tuple[int, int],
) -> None:
    names, levels = sides
    axes = canvas.subplots(*shape, squeeze=False, sharey=True).ravel()
    for ax, defense in zip(axes, defenses, strict=False):
        mine = part[part["defense"] == defense].to_dict("records")
        cells = {(r["corruption"], r["severity"]): (r["accuracy"], r["struck"]) for r in mine}
        for y, name in enumerate(names):
            for x, level in enumerate(levels):
                value, struck = cells.get((name, level), (float("nan"), False))
                if np.isnan(value):
                    _numberless(ax, (x, y), "")
                    continue
                colour = _tile(ax, (x, y), value)
                ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
                if struck:
                    ax.plot([x - 0.25, x + 0.25], [y, y], color=colour, linewidth=1.4)
        ax.set_xlim(-0.5, len(levels) - 0.5)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        ax.set_title(defenses[defense], fontsize=8.5, pad=8)
        bare(ax)
    for ax in axes[len(defenses) :]:
        ax.set_visible(False)
