"""The figures of a report, each drawn once and saved twice: an svg that takes the page's colours and a png on white.

Nothing here measures anything: the numbers come from scores.py, worst.py and tables.py. Orange is bad and blue is good
(safe for the common kinds of colour blindness), and every cell also carries its number.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from .read import Run
from .tables import CORRUPTIONS, certified_curves, corruption_grid, empirical_curves
from .text import plain, short
from .worst import GROUP, worst_case

INK, MUTED, RULE = "#1c2733", "#5b6776", "#cbd3db"
# The page swaps these three for its own variables, so one drawing serves the light and the dark theme.
_PAGE = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)"}
SCALE = LinearSegmentedColormap.from_list("bad_good", ["#bf4f17", "#eeb98c", "#eef0ee", "#9fc3e0", "#1b5e97"])
LINES = ("#0072b2", "#d55e00", "#009e73", "#b565a0", "#c98a00", "#3f9fd8", "#7a6ff0", "#8a8f98")
STYLES = ("-", "--", "-.", ":")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans",
    "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.titlesize": 9.5, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": RULE, "grid.linewidth": 0.6, "legend.frameon": False,
    "hatch.color": RULE, "hatch.linewidth": 0.8,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A drawn figure: `svg` to stand inside a page, `png` bytes to stand in a file."""

    name: str
    caption: str
    svg: str
    png: bytes


def figures(run: Run, table: pd.DataFrame) -> list[Figure]:
    """Every figure the run has rows for; `table` is what `scores(run)` returned."""
    return [*heatmaps(run, table), *curves(run), *sandwiches(run), *corruption_panels(run)]


def heatmaps(run: Run, table: pd.DataFrame) -> list[Figure]:
    """Attack x defense: robust accuracy with its interval; hatched where there is none, struck where it is flagged."""
    rows = table[(table["scenario"] == "evasion") & (table["metric"] == "robust_accuracy")]
    worst = worst_case(run)
    found = []
    for key, part in rows.groupby(list(GROUP), sort=False):
        mine = worst[(worst[list(GROUP)] == list(key)).all(axis=1)] if len(worst) else worst
        defenses = list(dict.fromkeys(part["defense"]))
        attacks = list(dict.fromkeys(part["attack"]))
        caption = f"Robust accuracy in % with its 95 % interval, {_where(key)}"
        size = (2.2 + 1.25 * len(defenses), 1.1 + 0.46 * (len(attacks) + 2))
        found.append(
            _draw(f"heatmap-{_slug(key)}", caption, size, lambda c, p=part, m=mine, a=attacks, d=defenses: _heatmap(c, p, m, a, d))
        )
    return found


def _heatmap(canvas: Canvas, part: pd.DataFrame, worst: pd.DataFrame, attacks: list[str], defenses: list[str]) -> None:
    ax = canvas.add_subplot()
    cells = {(r["attack"], r["defense"]): r for r in part.to_dict("records")}
    lasts = {r["defense"]: r for r in worst.to_dict("records")}
    for x, defense in enumerate(defenses):
        if defense in lasts:
            last = lasts[defense]
            _cell(ax, x, 0, last["clean_accuracy"], f"{100 * last['clean_lo']:.0f}–{100 * last['clean_hi']:.0f}")
            _cell(ax, x, len(attacks) + 1.25, last["robust_accuracy"], f"{100 * last['lo']:.0f}–{100 * last['hi']:.0f}",
                  struck=last["struck"])  # fmt: skip
        for y, attack in enumerate(attacks, start=1):
            row = cells.get((attack, defense))
            if row is None or np.isnan(row["value"]):
                _cell(ax, x, y + 0.125, float("nan"), "" if row is None else str(row["status"]))
            else:
                below = "inert" if row["status"] == "inert" else f"{100 * row['lo']:.0f}–{100 * row['hi']:.0f}"
                _cell(ax, x, y + 0.125, row["value"], below, struck=bool(row["flags"]))
    ax.set_xlim(-0.5, len(defenses) - 0.5)
    ax.set_ylim(len(attacks) + 1.8, -0.55)
    ax.set_xticks(range(len(defenses)), [_wrap(plain(d)) for d in defenses])
    ax.set_yticks([0, *(y + 1.125 for y in range(len(attacks))), len(attacks) + 1.25],
                  ["no attack", *(short(a, 26) for a in attacks), "all attacks"])  # fmt: skip
    ax.get_yticklabels()[-1].set_fontweight("bold")
    _bare(ax)


def _cell(ax: Axes, x: float, y: float, value: float, below: str, *, struck: bool = False) -> None:
    if np.isnan(value):
        box = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor="none", edgecolor=RULE, hatch="////", linewidth=0.8)
        ax.add_patch(box)
        ax.text(x, y, below, ha="center", va="center", fontsize=8.5, color=INK, fontstyle="italic")
        return
    ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SCALE(value), linewidth=0))
    colour = "#ffffff" if value < 0.13 or value > 0.83 else "#10202e"
    ax.text(x, y - 0.13, f"{100 * value:.1f}", ha="center", va="center", fontsize=10, color=colour, fontweight="bold")
    ax.text(x, y + 0.25, below, ha="center", va="center", fontsize=7.2, color=colour)
    if struck:
        ax.plot([x - 0.24, x + 0.24], [y - 0.13, y - 0.13], color=colour, linewidth=1.6)


def curves(run: Run) -> list[Figure]:
    """Robust accuracy against the radius, one line per defense with its pointwise band, from minimum-norm attacks."""
    table = empirical_curves(run)
    found = []
    for key, part in table.groupby(["threat", "norm", "dataset", "model", "seed"], sort=False):
        if (part["kind"] == "curve").any():
            caption = f"Robust accuracy against the radius (minimum-norm attacks; dots: all attacks), {_where(key)}"
            found.append(_draw(f"curve-{_slug(key)}", caption, (7.2, 3.9), lambda c, p=part: _curves(c, p)))
    return found


def _curves(canvas: Canvas, part: pd.DataFrame) -> None:
    ax = canvas.add_subplot()
    for i, (defense, rows) in enumerate(part.groupby("defense", sort=False)):
        colour, line = LINES[i % len(LINES)], rows[rows["kind"] == "curve"]
        ax.plot(line["radius"], 100 * line["value"], color=colour, linestyle=STYLES[i % 4], linewidth=1.8,
                label=short(plain(str(defense)), 34))  # fmt: skip
        ax.fill_between(line["radius"], 100 * line["lo"], 100 * line["hi"], color=colour, alpha=0.13, linewidth=0)
        dot = rows[rows["kind"] == "point"]
        ax.plot(dot["radius"], 100 * dot["value"], "o", color=colour, markersize=5)
    _axes(ax, str(part["norm"].iloc[0]), "robust accuracy, %", float(part["radius"].max()))
    ax.legend(loc="upper right", fontsize=8.5, labelcolor=INK)


def sandwiches(run: Run) -> list[Figure]:
    """Proof below, attack above: the truth lies in the shaded gap; a proof above an attack is a contradiction."""
    proofs, attacked = certified_curves(run), empirical_curves(run)
    found = []
    if not len(proofs):
        return found
    for key, part in proofs.groupby(["norm", "dataset", "model", "seed"], sort=False):
        upper = attacked[(attacked[["norm", "dataset", "model", "seed"]] == list(key)).all(axis=1)]
        defenses = list(dict.fromkeys(part["defense"]))
        columns = min(3, len(defenses))
        rows = -(-len(defenses) // columns)
        caption = f"Certified (solid) and empirical (dashed, dots) accuracy by radius, {_where(key)}"
        found.append(
            _draw(f"sandwich-{_slug(key)}", caption, (2.9 * columns + 0.6, 2.5 * rows + 0.3),
                  lambda c, p=part, u=upper, d=defenses, s=(rows, columns): _sandwich(c, p, u, d, s))
        )  # fmt: skip
    return found


def _sandwich(canvas: Canvas, part: pd.DataFrame, upper: pd.DataFrame, defenses: list[str], shape: tuple[int, int]) -> None:
    axes = canvas.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    top = float(part["radius"].max())
    for ax, defense in zip(axes, defenses, strict=False):
        for i, (certifier, rows) in enumerate(part[part["defense"] == defense].groupby("certifier", sort=False)):
            ax.plot(rows["radius"], 100 * rows["value"], color=LINES[0], linestyle=("-", "-.", ":")[i % 3], linewidth=1.8,
                    label=f"proof: {short(str(certifier), 18)}")  # fmt: skip
            ax.fill_between(rows["radius"], 0, 100 * rows["value"], color=LINES[0], alpha=0.16, linewidth=0)
        attack = upper[(upper["defense"] == defense) & (upper["radius"] <= top)]
        line, dot = attack[attack["kind"] == "curve"], attack[attack["kind"] == "point"]
        if len(line):
            ax.plot(line["radius"], 100 * line["value"], color=LINES[1], linestyle="--", linewidth=1.6, label="attack")
        if len(dot):
            error = [100 * (dot["value"] - dot["lo"]), 100 * (dot["hi"] - dot["value"])]
            ax.errorbar(dot["radius"], 100 * dot["value"], yerr=error, fmt="o", color=LINES[1], markersize=4, capsize=2)
        ax.set_title(short(plain(defense), 32))
        _axes(ax, str(part["norm"].iloc[0]), "accuracy, %" if ax is axes[0] else "", top)
    for ax in axes[len(defenses):]:
        ax.set_visible(False)
    axes[0].legend(loc="upper right", fontsize=7.5, labelcolor=INK)


def corruption_panels(run: Run) -> list[Figure]:
    """Accuracy by corruption and severity, one heat map per defense."""
    grid = corruption_grid(run)
    found = []
    for key, part in grid.groupby(["shift", "dataset", "model", "seed"], sort=False):
        present = list(dict.fromkeys(part["corruption"]))
        names = [c for c in CORRUPTIONS if c in present] + [c for c in present if c not in CORRUPTIONS]
        levels = sorted(set(part["severity"].dropna()))
        defenses = list(dict.fromkeys(part["defense"]))
        columns = min(4, len(defenses))
        rows = -(-len(defenses) // columns)
        size = (1.7 + columns * (0.45 * max(3, len(levels)) + 0.25), rows * (0.32 * len(names) + 0.75) + 0.3)
        caption = f"Accuracy in % by corruption and severity, {_where(key)}"
        found.append(
            _draw(f"corruptions-{_slug(key)}", caption, size,
                  lambda c, p=part, d=defenses, n=names, v=levels, s=(rows, columns): _panels(c, p, d, (n, v), s))
        )  # fmt: skip
    return found


def _panels(
    canvas: Canvas, part: pd.DataFrame, defenses: list[str], sides: tuple[list[str], list[float]], shape: tuple[int, int]
) -> None:
    names, levels = sides
    axes = canvas.subplots(*shape, squeeze=False, sharey=True).ravel()
    for ax, defense in zip(axes, defenses, strict=False):
        cells = part[part["defense"] == defense].set_index(["corruption", "severity"])["accuracy"].to_dict()
        for y, name in enumerate(names):
            for x, level in enumerate(levels):
                value = cells.get((name, level), float("nan"))
                missing = bool(np.isnan(value))
                ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor="none" if missing else SCALE(value),
                                       edgecolor=RULE, linewidth=0.8 if missing else 0, hatch="////" if missing else None))  # fmt: skip
                colour = "#ffffff" if value < 0.13 or value > 0.83 else "#10202e"
                if not missing:
                    ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
        ax.set_xlim(-0.5, len(levels) - 0.5)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        ax.set_title(short(plain(defense), 6 + 5 * len(levels)), fontsize=8.5, pad=16)
        _bare(ax)
    for ax in axes[len(defenses):]:
        ax.set_visible(False)


def _axes(ax: Axes, norm: str, ylabel: str, top: float) -> None:
    ax.set_xlim(0, top)
    ax.set_ylim(0, 102)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    if norm == "linf":
        step = next(s for s in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if top * 255 / s <= 8)
        ticks = np.arange(0, top * 255 + 1e-9, step)
        ax.set_xticks(ticks / 255, [f"{t:g}" for t in ticks])
    ax.set_xlabel("linf radius, 1/255" if norm == "linf" else f"{norm} radius")
    ax.set_ylabel(ylabel)


def _bare(ax: Axes) -> None:
    ax.tick_params(length=0, labeltop=True, labelbottom=False, top=False, bottom=False)
    for tick in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        tick.set_color(INK)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw(name: str, caption: str, size: tuple[float, float], paint: Callable[[Canvas], None]) -> Figure:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        paint(canvas)
        png, svg = io.BytesIO(), io.StringIO()
        canvas.savefig(png, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Figure(name, caption, _for_page(svg.getvalue(), caption), png.getvalue())


def _for_page(svg: str, caption: str) -> str:
    """The svg as an inline element: no prolog, no metadata, no names of other hosts, the page's colours and fonts."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg"):], flags=re.S)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    width = float(box[1].split()[2]) if box else 600.0
    for colour, swapped in _PAGE.items():
        rest = rest.replace(colour, swapped)
    rest = re.sub(r"'?DejaVu Sans'?(, *'?[A-Za-z ]+'?)*", "var(--sans)", rest)
    label = escape(caption, quote=True)
    style = f"width:{width * 1.25:.0f}px"
    return f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{label}" style="{style}">{rest.strip()}'


def _wrap(name: str) -> str:
    words: Sequence[str] = re.split(r"(?<=[_+(, ])", short(name, 48))
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 16:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines[:3])


def _where(key: tuple[Any, ...]) -> str:
    return " · ".join(plain(str(part)) for part in key if str(part) not in ("", "0"))


def _slug(key: tuple[Any, ...]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, key)).lower()).strip("-")[:80]
