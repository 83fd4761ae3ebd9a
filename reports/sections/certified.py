"""Certification in a report: what is proven at several radii, and the proofs beside the attacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Canvas

from ..measure import tables
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, counted, split_constant, words
from ..render.draw import INK, LINES, Figure, draw, radius_axes, slug, told_apart, where
from ..render.text import number, short
from ..render.text import words as spoken
from .figures import called, drawn, key_of
from .generic import WHERE, groups, metric_entry, slim, why
from .votes import voted

REACH = 16
"""An attack's point stands beside the proofs up to so many times their radius; further out, proofs would be a dot."""


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What certification adds to a report."""
    return Part((certified_section(run, scores, [*sandwiches(run), *voted(run)]),))


def certified_section(run: Results, scores: pd.DataFrame, drawn: Sequence[Figure]) -> Section:
    """Certified accuracy at several radii, one row a certifier and system."""
    rows_of = scores[scores["scenario"] == "certification"]
    flags = {cell["run_id"]: tables.flags_of(cell) for cell in run.known.values()}
    found = []
    for i, ((threat, budget), part) in enumerate(groups(rows_of, ("threat", "budget"))):
        names, caption = split_constant(part, WHERE)
        metrics = [m for m in dict.fromkeys(part["metric"]) if m != "certified_accuracy"]
        rows = []
        for run_id, cell in part.groupby("run_id", sort=False):
            first = cell.iloc[0].to_dict()
            values = {row["metric"]: row for row in cell.to_dict("records")}
            rows.append((*(words(first[name]) for name in names), words(first["defense"]), words(first["attack"]),
                         Entry(first["status"], kind=first["status"]),
                         Entry(why(first, flags[str(run_id)])),
                         *(metric_entry(values.get(metric), flags[str(run_id)]) for metric in metrics),
                         counted(first["n"], number(first["n"]) if first["n"] else "–")))  # fmt: skip
        columns = (
            *names,
            "defense",
            "certifier",
            "status",
            "notes",
            *(spoken(m, run.budgets[str(budget)][1]) for m in metrics),
            "n",
        )
        found.append(slim(Table(f"certified-{i + 1}", f"{threat}: {budget}", caption, columns, tuple(rows))))
    lead = (
        "A proof holds for every perturbation inside its radius, an attack shows one that breaks; the truth lies "
        "between.",
    )
    return Section("certified", "Certified robustness", lead, tuple(found), tuple(drawn), order=20)


def sandwiches(run: Results) -> list[Figure]:
    """Proof below, attack above, on the same images: the truth lies between; a proof above an attack contradicts it."""
    proofs, attacked = tables.bounds(run)
    found: list[Figure] = []
    if not len(proofs):
        return found
    for key, part, left in drawn(list(proofs.groupby(["norm", "dataset", "model", "seed"], sort=False))):
        upper = attacked[(attacked[["norm", "dataset", "model", "seed"]] == list(key)).all(axis=1)]
        defenses = list(dict.fromkeys(part["defense"]))
        columns = min(3, len(defenses))
        rows = -(-len(defenses) // columns)
        caption = (
            f"Certified (blue lines) and empirical (orange, dots or dashed) accuracy by radius on the same images, "
            f"{where(key)}{left}; a certified line ends where nothing larger was asked for or could be proven"
            f"{key_of(run, defenses)}"
        )
        found.append(
            draw(f"sandwich-{slug(key)}", caption, (2.9 * columns + 0.6, 2.5 * rows + 0.3),
                  partial(_sandwich, part=part, upper=upper, shape=(rows, columns),
                          defenses=called(run, defenses, partial(short, width=32))))
        )  # fmt: skip
    return found


def _sandwich(
    canvas: Canvas, part: pd.DataFrame, upper: pd.DataFrame, defenses: dict[str, str], shape: tuple[int, int]
) -> None:
    axes = canvas.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    last = float(part["radius"].max())
    points = upper.loc[upper["defense"].isin(defenses) & (upper["kind"] == "point"), "radius"]
    top = 1.08 * max([last, *(radius for radius in points if radius <= REACH * last)])
    proofs = told_apart(list(dict.fromkeys(part["certifier"])), partial(short, width=18))
    for ax, defense in zip(axes, defenses, strict=False):
        for i, (certifier, rows) in enumerate(part[part["defense"] == defense].groupby("certifier", sort=False)):
            kind = "INVALID" if rows["struck"].any() else "proof"  # what failed a check is not seen as a proof
            ax.plot(rows["radius"], 100 * rows["value"], color=LINES[0], linestyle=("-", "-.", ":")[i % 3],
                    linewidth=1.8, label=f"{kind}: {proofs[str(certifier)]}, n = {rows['n'].iloc[0]}")  # fmt: skip
            ax.plot(rows["radius"].iloc[-1:], 100 * rows["value"].iloc[-1:], "|", color=LINES[0], markersize=13)
            ax.fill_between(rows["radius"], 0, 100 * rows["value"], color=LINES[0], alpha=0.16, linewidth=0)
        attack = upper[(upper["defense"] == defense) & (upper["radius"] <= top)]
        n = ", ".join(map(str, sorted(set(attack["n"])))) if len(attack) else ""
        line, dot = attack[attack["kind"] == "curve"], attack[attack["kind"] == "point"]
        dot = dot.sort_values("value", kind="stable").drop_duplicates("radius")  # of a radius the strongest adversary's
        if len(line):
            ax.plot(
                line["radius"],
                100 * line["value"],
                color=LINES[1],
                linestyle="--",
                linewidth=1.6,
                label=f"attack, n = {n}",
            )
        if len(dot):
            error = [100 * (dot["value"] - dot["lo"]), 100 * (dot["hi"] - dot["value"])]
            ax.errorbar(
                dot["radius"],
                100 * dot["value"],
                yerr=error,
                fmt="o",
                color=LINES[1],
                markersize=4,
                capsize=2,
                label="" if len(line) else f"attack, n = {n}",
            )
        ax.set_title(defenses[defense])
        radius_axes(ax, str(part["norm"].iloc[0]), "accuracy, %" if ax is axes[0] else "", top)
        ax.legend(loc="best", fontsize=7.5, labelcolor=INK)
    for ax in axes[len(defenses) :]:
        ax.set_visible(False)
