"""Scans: what each scanner says of a checkpoint, and the probability that they come to where they are calibrated.

A scalar alone is no evidence: it stands with its rank among clean networks like the suspect. Where no such networks are
known there is no probability, and the table says so; what could not be measured is never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from robustsuite.errors import BadData
from robustsuite.maths import stats
from robustsuite.methods.backdoors.calibrated import Calibration, natural, shipped, summary

from ..measure.classes import named
from ..measure.scores import measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Answer, Entry, Gallery, Part, Section, Shot, Table, counted, split_constant, words
from ..render.draw import INK, LINES, MUTED, Figure, draw, legend, raster, slug
from ..render.pictures import magnified, painted, png, sampled, size_of
from ..render.text import number, percent

WHERE = ("threat", "dataset", "model", "defense", "seed")
SILENT = "on networks of its kind these scanners told no more than chance"
ELSEWHERE = "ranks alone: what was fitted on some architectures told no more than chance of another"
"""Why there is no probability."""

ALARM = 0.5
"""The probability from which on a network is called suspicious."""

SIDE = 112
"""Pixels of the longer side of a picture as a page shows it."""

GROUPS = {"seen": "attacks fitted on", "kept_out": "attacks not fitted on", "arch": "architecture not fitted on"}


class Scan(NamedTuple):
    """One scanner's cell: its facts, its rows, and the numbers that are the network's."""

    cell: Mapping[Any, Any]
    rows: pd.DataFrame

    def number(self, name: str) -> float:
        """One of the network's numbers; NaN where it has none."""
        return float(self.rows[name].iloc[0]) if name in self.rows and len(self.rows) else np.nan

    @property
    def target(self) -> int:
        """The class that is most suspicious, -1 for none."""
        named = self.rows["most"].to_numpy().astype(bool)
        return int(self.rows["index"].to_numpy()[named][0]) if named.any() else -1


def scans(run: Results) -> dict[tuple[Any, ...], dict[str, Scan]]:
    """By WHERE and scanner, what was measured."""
    found: dict[tuple[Any, ...], dict[str, Scan]] = {}
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "scan" else None
        if source is not None:
            rows = run.examples(source["run_id"])
            found.setdefault(tuple(cell[name] for name in WHERE), {})[cell["attack"]] = Scan(cell, rows)
    return found


def called(run: Results, scan: Scan) -> str:
    """The most suspicious class by its name, '–' for none."""
    return named(run, scan.cell["dataset"])(scan.target) if scan.target >= 0 else "–"


def joined(scanners: Mapping[str, Scan]) -> tuple[float, int, str]:
    """The probability that the network is trojaned, to which class; NaN, -1 and why where there is none."""
    known = shipped()
    if known is None:
        return np.nan, -1, "there is no calibration"
    if missing := [name for name in known.scanners if name not in scanners]:
        return np.nan, -1, f"not scanned by {', '.join(missing)}"
    own = [scanners[name] for name in known.scanners]
    if lost := [scan.cell["attack"] for scan in own if not np.isfinite(scan.number("suspicion"))]:
        return np.nan, -1, f"{', '.join(lost)} could not measure"
    if any(not np.isfinite(scan.number("deviation")) for scan in own):
        return np.nan, -1, "not calibrated for this kind of network"
    if any(int(scan.number("calibration")) != known.digest for scan in own):
        return np.nan, -1, "calibrated by another version of the suite"
    kind = known.kind(int(own[0].number("kind")))
    if (key := known.key(kind)) in known.silent:
        return np.nan, -1, SILENT if key else ELSEWHERE
    p = known.probability({scan.cell["attack"]: scan.number("deviation") for scan in own}, kind)
    target = known.target({scan.cell["attack"]: scan.rows["class_deviation"].tolist() for scan in own}, kind)
    return p, target, "" if key else "joined by weights that were fitted on other architectures"


def probabilities(run: Results) -> pd.DataFrame:
    """One row a network and threat: probability and class, NaN and -1 with `why` where there is none."""
    rows = []
    for key, scanners in scans(run).items():
        p, target, why = joined(scanners)
        where = dict(zip(WHERE, key, strict=True))
        name = named(run, where["dataset"])(target) if target >= 0 else ""
        rows.append(where | {"probability": p, "class": target, "name": name, "why": why, "scanners": len(scanners)})
    return pd.DataFrame(rows, columns=[*WHERE, "probability", "class", "name", "why", "scanners"])


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What scans add to a report."""
    found, table = scans(run), probabilities(run)
    if not found:
        return Part((Section("scan", "Scans for backdoors"),))
    known = shipped()
    used = known is not None and any(
        int(scan.number("calibration")) == known.digest for each in found.values() for scan in each.values()
    )
    lead = (
        "A scanner looks at one network alone and says how suspicious each class is as a backdoor's target. Clean "
        "networks have classes that small triggers reach, too, so no scalar is evidence by itself: beside it stands "
        "its p-value, its rank among clean networks of the same task and architecture. All scanners are joined into "
        "a probability at even odds before, where such networks are known. A trigger that works on clean networks too "
        "is a natural one.",
    )
    tables = (_networks(table), _scanners(run, found), *((_performance(known),) if used and known else ()))
    figures = (_curves(known),) if used and known and known.judged else ()
    galleries = tuple(_galleries(run, found))
    section = Section("scan", "Scans for backdoors", lead, tables, figures, order=47, galleries=galleries)
    return Part((section,), tuple(_answers(table)), frames={"scans": table})


def _networks(table: pd.DataFrame) -> Table:
    names, caption = split_constant(table, WHERE)
    names = names or ["model"]
    rows = tuple(
        (*(words(row[name]) for name in names), _probability(row), words(row["name"] or "–"),
         counted(row["scanners"], number(row["scanners"])), Entry(row["why"]))
        for row in table.to_dict("records")
    )  # fmt: skip
    columns = (*names, "probability of a backdoor", "to class", "scanners", "notes")
    return Table("scan_probabilities", "Each network", caption, columns, rows, csv="scans.csv")


def _probability(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["probability"]):
        return Entry("–", -1.0, row["why"])
    return counted(row["probability"], percent(row["probability"]))


def _scanners(run: Results, found: Mapping[tuple[Any, ...], Mapping[str, Scan]]) -> Table:
    flat = pd.DataFrame([dict(zip(WHERE, key, strict=True)) for key in found])
    names, caption = split_constant(flat, WHERE)
    places = [WHERE.index(name) for name in names]
    rows = tuple(
        (*(words(key[i]) for i in places), words(attack), _plain(scan.number("suspicion")),
         words(called(run, scan)), _plain(scan.number("p_rank")),
         _plain(scan.number("deviation")), counted(scan.number("references"), number(scan.number("references"))),
         _share(scan.number("works")), _share(scan.number("works_on_clean")), Entry(_verdict(scan)))
        for key, scanners in found.items() for attack, scan in scanners.items()
    )  # fmt: skip
    columns = (*names, "scanner", "suspicion", "class", "p among clean", "deviations", "clean networks",
               "trigger works", "on clean networks", "notes")  # fmt: skip
    return Table("scanners", "Each scanner", caption, columns, rows)


def _verdict(scan: Scan) -> str:
    index = scan.number("anomaly_index")
    said = [scan.cell["sentence"]] if not np.isfinite(scan.number("suspicion")) else []
    said += (
        ["a natural trigger: clean networks obey it"] if natural(*map(scan.number, ("works", "works_on_clean"))) else []
    )
    said += [f"anomaly index {index:.3g}"] if np.isfinite(index) else []
    p = scan.number("p_corrected")
    said += [f"p of the largest margin {p:.3g}, corrected"] if np.isfinite(p) else []
    return "; ".join(said)


def _plain(value: float) -> Entry:
    return counted(value, f"{value:.3g}") if np.isfinite(value) else Entry("–", -9e9, "not measured")


def _share(value: float) -> Entry:
    return counted(value, percent(value)) if np.isfinite(value) else Entry("–", -1.0, "not measured")


def _performance(known: Calibration) -> Table:
    """How the calibration does on networks that it was not fitted on."""
    archs = [kind.arch for kind in known.kinds.values() if kind.arch != known.kept_out_arch]
    asked: list[tuple[str, str, str | None, str | None]] = [
        (f"{arch}, {GROUPS[group]}" + (": no probability is given" if arch in silent(known) else ""), group, None, arch)
        for arch in archs for group in ("seen", "kept_out")
    ]  # fmt: skip
    asked += [(f"{arch}, {name}, not fitted on", "kept_out", name, arch) for arch in archs if arch not in silent(known)
              for name in known.kept_out]  # fmt: skip
    asked += [(f"{known.kept_out_arch}, {GROUPS['arch']}", "arch", None, None)]
    rows = tuple(
        (Entry(said), counted(f["trojaned"], number(f["trojaned"])), counted(f["clean"], number(f["clean"])),
         counted(f["auroc"], f"{f['auroc']:.3f} ({f['lo']:.2f}–{f['hi']:.2f})"),
         counted(f["cross_entropy"], f"{f['cross_entropy']:.3f}"), _share(f["tpr_1"]), _share(f["tpr_5"]),
         _rate(f["hit"], f["trojaned"]), _rate(f["alarms"], f["clean"]), _rate(f["anomaly_2"], f["clean"]))
        for said, group, attack, arch in asked if "auroc" in (f := summary(known.judged, group, attack, arch))
    )  # fmt: skip
    columns = ("networks of the zoo", "trojaned", "clean", "AUROC", "cross-entropy", "caught at 1 % alarms",
               "at 5 %", "target named", "false alarms", "anomaly index > 2")  # fmt: skip
    caption = "the calibration's zoo, each network judged by a fit that it had no part in; false alarms: above one half"
    return Table("scan_calibration", "How far the probability can be believed", caption, columns, rows)


def silent(known: Calibration) -> set[str]:
    """Architectures on which the scanners tell no more than chance."""
    return {known.kinds[kind].arch for kind in known.silent if kind}


def _rate(k: int, n: int) -> Entry:
    lo, hi = stats.clopper_pearson(k, n)
    return counted(k / n, f"{percent(k / n)} ({100 * lo:.0f}–{100 * hi:.0f})")


def _curves(known: Calibration) -> Figure:
    caption = ("The calibration on networks that it was not fitted on: how many trojaned ones are caught at how many "
               "false alarms, and how many of a stated probability are trojaned.")  # fmt: skip
    return draw("scan_calibration", caption, (7.2, 3.4), partial(_paint, known=known))


def _paint(canvas: Canvas, known: Calibration) -> None:
    left, right = canvas.subplots(1, 2)
    judged = [j for j in known.judged if j.arch not in silent(known)]
    for colour, (group, said) in zip(LINES, GROUPS.items(), strict=False):
        here = [j for j in judged if (j.group == "arch") == (group == "arch")]
        clean = np.sort([j.probability for j in here if not j.attack])
        bad = np.array([j.probability for j in here if j.attack and j.group == group])
        if len(clean) and len(bad):
            cuts = np.r_[np.inf, clean[::-1], -np.inf]
            shares = ([(values >= c).mean() for c in cuts] for values in (clean, bad))
            left.plot(*shares, color=colour, label=said)
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    left.set_xlabel("share of clean networks above", color=INK)
    left.set_ylabel("share of trojaned networks above", color=INK)
    p = np.array([j.probability for j in judged if j.group != "arch"])
    truth = np.array([bool(j.attack) for j in judged if j.group != "arch"])
    for lo in np.arange(0, 1, 0.2):
        inside = (p >= lo) & ((p < lo + 0.2) | (lo > 0.75))
        if inside.any():
            k, n = int(truth[inside].sum()), int(inside.sum())
            low, high = stats.clopper_pearson(k, n)
            right.plot([p[inside].mean()] * 2, [low, high], color=LINES[0], linewidth=1)
            right.plot(p[inside].mean(), k / n, "o", color=LINES[0], markersize=4)
            right.annotate(str(n), (p[inside].mean(), k / n), xytext=(5, -3), textcoords="offset points", fontsize=7.5)
    right.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    right.set_xlabel("stated probability", color=INK)
    right.set_ylabel("share that is trojaned", color=INK)
    legend(canvas)


def _galleries(run: Results, found: Mapping[tuple[Any, ...], Mapping[str, Scan]]) -> Iterator[Gallery]:
    """Of each network the triggers that its scanners recovered."""
    for key, scanners in found.items():
        shots = tuple(shot for attack, scan in scanners.items() for shot in _shots(run, attack, scan))
        if shots:
            facts = dict(zip(WHERE, key, strict=True))
            behind = "" if facts["defense"] == "none" else f" behind {facts['defense']}"
            caption = "A clean picture, the same with the trigger that each scanner recovered, and what was added."
            yield Gallery(f"scan-{slug(key)}", f"{facts['model']}{behind}: recovered triggers", caption, shots,
                          partial(_row, shots))  # fmt: skip


def _shots(run: Results, attack: str, scan: Scan) -> Iterator[Shot]:
    try:
        for kept in run.pictures(scan.cell["run_id"]):
            for _, clean, stamped in zip(*kept, strict=True):
                difference, times = magnified(clean, stamped)
                shown = size_of(clean, SIDE)
                yield Shot(
                    png(clean, SIDE), png(stamped, SIDE), png(sampled(difference, SIDE)), times, shown,
                    enlarged=max(shown) > max(clean.shape[1:]), words=f"{attack}: {called(run, scan)}",
                    facts=(f"works on {percent(scan.number('works'))} of clean pictures",)
                    if np.isfinite(scan.number("works")) else (),
                )  # fmt: skip
    except BadData:  # `verify` says so
        return


def _row(shots: tuple[Shot, ...]) -> bytes:
    return raster((1.1 + 1.35 * len(shots), 4.6), partial(painted, shots=shots))


def _answers(table: pd.DataFrame) -> Iterator[Answer]:
    """What each threat's networks come to: one answer a model, its defenses in it."""
    several = [name for name in ("threat", "seed") if table[name].nunique() > 1]
    for where, rows in table.groupby(["dataset", "model", "threat", "seed"], sort=False):
        known = rows[rows["probability"].notna()].sort_values("probability", ascending=False, kind="stable")
        said = [sentence(row | {"model": _system(row)}) for row in known.to_dict("records")]
        for why, silent in rows[rows["probability"].isna()].groupby("why", sort=False):
            systems = [_system(row) for row in silent.to_dict("records")]
            what = systems[0] if len(systems) == 1 else f"any of these {len(systems)} systems"
            said.append(sentence({"model": what, "probability": np.nan, "why": why}))
        bars = [("", row["defense"], _probability(row)) for row in known.to_dict("records")]
        p = percent(known["probability"].iloc[0]) if len(known) else "–"
        label = "largest probability of a backdoor" if len(known) > 1 else "probability of a backdoor"
        told = [f"seed {where[3]}" if name == "seed" else str(where[2]) for name in several]
        yield Answer(": ".join(["Scan for backdoors", *told]), f"{where[1]} · {where[0]}", ((label, p, "", ""),),
                     tuple(bars) if len(bars) > 1 else (), tuple(said), said=tuple(said))  # fmt: skip


def _system(row: Mapping[Any, Any]) -> str:
    return row["model"] if row["defense"] in ("", "none") else f"{row['model']} with {row['defense']}"


def sentence(row: Mapping[Any, Any]) -> str:
    """What a row of `probabilities` says, in words."""
    if np.isnan(row["probability"]):
        return f"Whether {row['model']} carries a backdoor is not known: {row['why']}."
    said = f"{row['model']} carries a backdoor with a probability of {percent(row['probability'])}, at even odds before"
    return f"{said}; it would lead to {row['name']}." if row["probability"] > ALARM else f"{said}."
