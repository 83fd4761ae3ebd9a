"""What a verdict costs against how many images it leaves standing: a figure and a table of what verdicts.py has kept.

    python benchmarks/peers/pareto.py --out RESULTS [--only WORD ...] [--figure FILE.png]

RESULTS is the folder of verdicts.py; of the settings whose name holds a WORD, those that have the autoattack are taken,
and of the attacks those that every one of them has. Passes are forwards plus backwards over all images; standing is the
judge's count of the images that were right. An attack is on the front if no other leaves as few for fewer passes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

REFERENCE, DPI = "autoattack", 110


class Point(NamedTuple):
    """An attack over all settings: passes an image, images that stand, and those more or fewer than the reference's."""

    attack: str
    passes: float
    standing: int
    missed: int
    more: int


def points(folder: Path, only: list[str]) -> tuple[list[str], int, int, list[Point]]:
    """(settings, images, right ones, the attacks that all settings have, cheapest first)."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text())
        if not only or any(word in row["setting"] for word in only):
            found.setdefault(row["setting"], {})[row["attack"]] = row
    found = {name: rows for name, rows in found.items() if REFERENCE in rows}
    if not found:
        raise SystemExit(f"expected results of {REFERENCE} in {folder}, got none; run verdicts.py --out there first")
    shared = set.intersection(*(set(rows) for rows in found.values()))
    n = sum(rows[REFERENCE]["n"] for rows in found.values())
    right = sum(len(rows[REFERENCE]["clean"]) for rows in found.values())
    return sorted(found), n, right, sorted((_point(attack, found, n) for attack in shared), key=lambda p: p.passes)


def _point(attack: str, found: dict[str, dict[str, dict[str, Any]]], n: int) -> Point:
    passes = sum(rows[attack]["forwards"] + rows[attack]["backwards"] for rows in found.values())
    pairs = [(set(rows[attack]["standing"]), set(rows[REFERENCE]["standing"])) for rows in found.values()]
    return Point(attack, passes / n, sum(len(a) for a, _ in pairs), sum(len(a - b) for a, b in pairs),
                 sum(len(b - a) for a, b in pairs))  # fmt: skip


def front(found: list[Point]) -> set[str]:
    """The attacks that no other beats in one and equals in the other."""
    return {
        p.attack
        for p in found
        if not any((q.passes, q.standing) != (p.passes, p.standing) and q.passes <= p.passes
                   and q.standing <= p.standing for q in found)
    }  # fmt: skip


def drawn(file: Path, found: list[Point], right: int, title: str) -> None:
    """Passes an image on a log axis against the share of the right images that stands; all play the same images."""
    best = front(found)
    figure, axes = plt.subplots(figsize=(8, 5), dpi=DPI)
    places = [(point.passes, 100 * point.standing / right) for point in found]
    steps = sorted(place for place, point in zip(places, found, strict=True) if point.attack in best)
    axes.step(*zip(*steps, strict=True), where="post", color="tab:blue", linewidth=0.8)
    for place, point in zip(places, found, strict=True):
        axes.plot(*place, "o", color="tab:blue" if point.attack in best else "0.6")
    axes.set(xscale="log", xlabel="forward and backward passes an image", title=title)
    axes.set_ylabel("right images that stand (%), lower is stronger")
    taken = [tuple(axes.transData.transform(place)) for place in places]
    for number, place in enumerate(places):  # the nearest place above or below where no mark or number stands
        x, y = axes.transData.transform(place)
        free = (up for up in (14, -14, 28, -28, 42, -42)
                if all(abs(x - a) > 16 or abs(y + up - b) > 13 for a, b in taken))  # fmt: skip
        lift = next(free, 56)
        taken.append((x, y + lift))
        how = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
        axes.annotate(f"{number + 1}", place, (0, lift * 72 / DPI), **how)
    names = "\n".join(f"{number + 1} {point.attack}" for number, point in enumerate(found))
    figure.text(0.92, 0.5, names, va="center", fontsize=8)
    figure.savefig(file, dpi=DPI, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    names, n, right, found = points(args.out, args.only)
    print(f"{len(names)} settings, {n} images, {right} right: {'; '.join(names)}")
    price = next(p.passes for p in found if p.attack == REFERENCE)
    best = front(found)
    print(f"    {'attack':36} {'passes':>8} {'price':>8} {'stand':>6} {'missed':>7} {'more':>5}  on the front")
    for number, p in enumerate(found):
        cost = f"1/{price / p.passes:.1f}" if p.passes <= price else f"{p.passes / price:.1f}"
        mark = "yes" if p.attack in best else ""
        print(f"{number + 1:3} {p.attack:36} {p.passes:8.0f} {cost:>8} {p.standing:6} {p.missed:7} {p.more:5}  {mark}")
    if args.figure:
        drawn(args.figure, found, right, f"{len(names)} networks, {right} images that they classify right")


if __name__ == "__main__":
    main()
