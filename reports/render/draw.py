"""Drawing tools: the style, the colours, and one canvas saved twice (an svg for the page, a png for a file)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

from .text import number, plain, short

INK, MUTED, RULE, PAPER = "#1c2733", "#5b6776", "#cbd3db", "#fcfcfa"
# The page swaps these four for its own variables, so one drawing serves the light and the dark theme.
_PAGE = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--page)"}
HATCH = "#7d8a97"
"""Stripes that are seen on a pale tile and on the page, light or dark."""

SCALE = LinearSegmentedColormap.from_list("bad_good", ["#bf4f17", "#eeb98c", "#eef0ee", "#9fc3e0", "#1b5e97"])
LINES = ("#0072b2", "#d55e00", "#009e73", "#b565a0", "#c98a00", "#3f9fd8", "#7a6ff0", "#8a8f98")
STYLES = ("-", "--", "-.", ":")
LEGEND = 46
"""Characters of a legend's line, two of which stand side by side."""
_STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans",
    "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.titlesize": 9.5, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": RULE, "grid.linewidth": 0.6, "legend.frameon": False,
    "hatch.color": HATCH, "hatch.linewidth": 0.8,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A drawn figure: `svg` to stand inside a page, `png` bytes to stand in a file."""

    name: str
    caption: str
    svg: str
    png: bytes


def draw(name: str, caption: str, size: tuple[float, float], paint: Callable[[Canvas], None]) -> Figure:
    """Paint one canvas of `size` inches and save it both ways; the same numbers give the same bytes."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas, svg = _painted(size, paint), io.StringIO()
        png = _png(canvas)
        canvas.set_layout_engine("none")  # it is laid out: once is enough for both
        canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Figure(name, caption, _for_page(svg.getvalue(), caption), png)


def raster(size: tuple[float, float], paint: Callable[[Canvas], None]) -> bytes:
    """Paint one canvas of `size` inches as PNG bytes alone, for a file."""
    with mpl.rc_context(_STYLE):
        return _png(_painted(size, paint))


def _painted(size: tuple[float, float], paint: Callable[[Canvas], None]) -> Canvas:
    canvas = Canvas(figsize=size, layout="constrained")
    FigureCanvasAgg(canvas)
    paint(canvas)
    return canvas


def _png(canvas: Canvas) -> bytes:
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _for_page(svg: str, caption: str) -> str:
    """The svg as an inline element: no prolog, no metadata, no names of other hosts, the page's colours and fonts."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    width = float(box[1].split()[2]) if box else 600.0
    for colour, swapped in _PAGE.items():
        rest = rest.replace(colour, swapped)
    rest = re.sub(r"'?DejaVu Sans'?(, *'?[A-Za-z ]+'?)*", "var(--sans)", rest)
    label = escape(caption, quote=True)
    style = f"--own:{width * 1.25:.0f}px"
    return f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{label}" style="{style}">{rest.strip()}'


def radius_axes(ax: Axes, norm: str, ylabel: str, top: float) -> None:
    """Axes of percent against a radius from 0 to `top`; linf radii are written in 255ths."""
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


def query_axes(ax: Axes, ticks: Sequence[float], xlabel: str, ylabel: str) -> None:
    """Axes of percent against queries, logarithmic, with these ticks alone."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [number(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 102)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0, which="both")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)


def legend(canvas: Canvas) -> None:
    """The legend above the axes in two columns, where it hides no line."""
    canvas.legend(loc="outside upper left", ncols=2, fontsize=8.5, labelcolor=INK)


def bare(ax: Axes) -> None:
    """A heat map's axes: labels above and left, no ticks, no frame."""
    ax.tick_params(length=0, labeltop=True, labelbottom=False, top=False, bottom=False)
    for tick in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        tick.set_color(INK)
    for spine in ax.spines.values():
        spine.set_visible(False)


def wrap(name: str, width: int = 16) -> str:
    """A name broken after its separators into at most four lines of about `width` characters."""
    words: Sequence[str] = re.split(r"(?<=[_+, ])|(?=\()", short(name, 48))
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines[:4])


def told_apart(names: Sequence[str], cut: Callable[[str], str]) -> dict[str, str]:
    """What a figure calls each name, cut to fit; of two that would read alike one is numbered."""
    found: dict[str, str] = {}
    for name in names:
        label, k = cut(plain(name)), 1
        while label in found.values():
            k += 1
            label = f"{cut(plain(name))} #{k}"
        found[name] = label
    return found


def where(key: tuple[Any, ...]) -> str:
    """What a figure is about, from its group key; its one whole number is the seed."""
    said = (f"seed {part}" if isinstance(part, int | np.integer) else plain(str(part)) for part in key)
    return " · ".join(part for part in said if part not in ("", "seed 0"))


def slug(key: tuple[Any, ...]) -> str:
    """A file name for a group key: its words, and six digits that keep two keys apart."""
    text = re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, key)).lower()).strip("-")[:60].rstrip("-")
    return f"{text}-{sha256(repr([str(part) for part in key]).encode()).hexdigest()[:6]}"
