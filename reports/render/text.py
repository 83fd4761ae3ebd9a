"""How numbers and names are written in a report: one place, so that every format says the same."""

from __future__ import annotations

import math
from collections.abc import Callable


def percent(value: float) -> str:
    """A rate in [0, 1] as `41.0 %`; a dash where there is none."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


def deviated(mean: float, sd: float, say: Callable[[float], str]) -> str:
    """A mean with its standard deviation as `41.0 ± 1.2`, each as `say` writes it; without one the mean alone."""
    return f"{say(mean)} ± {say(sd)}" if math.isfinite(sd) else say(mean)


def interval(lo: float, hi: float) -> str:
    """An interval in [0, 1] as `37.2–44.9`."""
    return f"{100 * lo:.1f}–{100 * hi:.1f}" if math.isfinite(lo) and math.isfinite(hi) else ""


def number(value: float) -> str:
    """A count or a mean, four significant digits, thousands apart."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as `0.42 s`, `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60:02d} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def size(count: float) -> str:
    """Bytes as MiB or GiB."""
    if not math.isfinite(count):
        return "–"
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def pvalue(p: float) -> str:
    """A p-value with two digits, or `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def plain(name: str) -> str:
    """A canonical name as people say it: `none` is `undefended`."""
    return "undefended" if name == "none" else name


def short(name: str, width: int) -> str:
    """A name cut to `width` characters, with an ellipsis where something is missing."""
    return name if len(name) <= width else name[: width - 1] + "…"


def words(metric: str, norm: str = "") -> str:
    """A metric's column name in words: `certified_accuracy@0.0313725` in linf is `certified accuracy at 8/255`."""
    name, _, radius = metric.partition("@")
    return name.replace("_", " ") + (f" at {_radius(float(radius), norm)}" if radius else "")


def _radius(value: float, norm: str) -> str:
    levels = round(value * 255, 3)
    return (
        f"{levels:g}/255" if norm == "linf" and value and levels * 100 % 25 == 0 else f"{value:g}"
    )


def points(difference: float) -> str:
    """A difference of two rates as `+2.0 points`, with a minus sign that is one."""
    return f"{100 * difference:+.1f} points".replace("-", "−")


def ranks(first: int, last: int) -> str:
    """A rank range: `1`, or `1–3` where the data cannot tell."""
    return "" if not first else str(first) if first == last else f"{first}–{last}"
