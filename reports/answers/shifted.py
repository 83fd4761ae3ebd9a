"""Distribution shifts in short: what ordinary corruptions and other pictures cost, with no adversary at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..measure.kinds import average
from ..measure.mce import ALEXNET_EXTRA
from ..measure.scores import rate
from ..measure.seeds import over_seeds
from ..measure.tables import corruption_errors
from ..read.runs import Results
from ..render.adversary import begun, share
from ..render.document import Answer, Entry, accuracy, error
from ..render.text import number, plain
from ..sections.generic import groups, one_severity
from ..sections.natural import Member, members
from . import cards
from .cards import SHIFT, VERDICT, WHERE, Row

WRONG, RIGHT = "wrong", "right"
FIXTURE = "embedded procedural fixture"
"""In the note of a data set that we render ourselves: what its shift sets show are imitations of the named ones."""

FEW = 3
"""Corruptions that a sentence names."""

IMITATION = "a synthetic imitation, not the set of that name"

SETS = {
    "imagenet_r": "renditions: drawings, toys, sculptures", "imagenet_a": "pictures that networks are known to fail on",
    "imagenet_e": "edited background, size, position", "imagenet_w": "a watermark added",
    "imagenet_sketch": "sketches", "imagenetv2": "a test set collected anew",
}  # fmt: skip
"""What is on the pictures of a natural shift set, by its name in the registry."""


def corrupted(run: Results) -> Iterator[Answer]:
    """One answer a corruption set, over seeds where there are several."""
    errors, several = corruption_errors(run), over_seeds(run)
    several = several[several["metric"] == "mean_error"]
    for (shift, *where), part in groups(errors, ("shift", *WHERE[:-1])):
        facts = dict(zip(("shift", *WHERE[:-1]), (shift, *where), strict=True))
        means = part[part["corruption"] == "mean"].sort_values("error", kind="stable")
        named = part[part["corruption"] != "mean"]
        inside = ~named["corruption"].isin(ALEXNET_EXTRA)
        named = named[inside] if inside.any() else named
        many = list(named["corruption"].unique())
        meant = f"mean of {len(many)} corruption{'s' if len(many) > 1 else ''}{one_severity(run, shift, ' at ')}"
        which = meant if len(many) > FEW else cards.listed([str(name).replace("_", " ") for name in many])
        worst = begun(str(named.groupby("corruption", sort=False)["error"].mean().idxmax()).replace("_", " "))
        title = f"Ordinary corruptions ({plain(str(shift))}){_named(cards.subject(run, facts))}"
        sentences: tuple[str, ...] = (f"{worst} costs most; {meant}.",)
        over = cards.of(several, facts)
        if len(over):
            over = over.sort_values("mean", kind="stable")
            figures, bars, sentences = cards.over_seeds(run, WRONG, over, sentences)
            rows = over.assign(error=over["mean"]).to_dict("records")
        else:
            struck = _struck(run, facts)
            bars = tuple(("", cards.called(run, r["defense"], WRONG), _error(r, r["defense"] in struck))
                         for r in means.to_dict("records"))  # fmt: skip
            rows = means[~means["defense"].isin(struck)].to_dict("records")
            figures = cards.numbers(run, WRONG, *_two(rows, "error"), "error")
        seed = 0 if len(over) or not len(part) else part["seed"].iloc[0]
        n = int(means["n"].min()) if len(means) else 0
        said = _corrupted(run, facts, rows, part, which, n) if rows else ()
        yield Answer(title, cards.place((*where, seed), str(shift)), figures, bars, sentences, n, said,
                     (VERDICT, SHIFT, 0.0, 0.0))  # fmt: skip


def _struck(run: Results, facts: Mapping[str, Any]) -> set[str]:
    """The defenses with a cell of this set that failed a check."""
    cells = cards.of(run.cells, facts)
    return set(cells.loc[cells["grade"] == "INVALID", "defense"])


def _error(row: Row, struck: bool) -> Entry:
    entry = error(row["error"], row["lo"], row["hi"])
    return Entry(entry.text, entry.key, "failed a check", struck=True) if struck else entry


def _two(rows: Sequence[Row], value: str) -> tuple[Row | None, Row | None]:
    """The model's own row and its best defense's, of rows the best first."""
    own = next((row for row in rows if row["defense"] == "none"), None)
    return own, next((row for row in rows if row["defense"] != "none" and np.isfinite(row[value])), None)


def _corrupted(
    run: Results, facts: Mapping[str, Any], rows: Sequence[Row], part: pd.DataFrame, which: str, n: int
) -> tuple[str, ...]:  # fmt: skip
    """What the corruptions make wrong of the model, and of its best defense."""
    own, best = _two(rows, "error")
    lead = own or best
    if lead is None or not np.isfinite(lead["error"]):
        return ()
    clean = part.loc[part["defense"] == lead["defense"], "clean_error"].mean()
    by = "" if lead["defense"] == "none" else f" with {plain(lead['defense'])}"
    said = f"With no attacker at all, ordinary corruptions ({which}) make {cards.subject(run, facts)}{by} wrong on "
    said += f"{share(lead['error'])} of {number(n)} images"
    said += f", without them {share(clean)}." if np.isfinite(clean) else "."
    if own is None or best is None:
        return (said,)
    wrong = f"wrong on {share(best['error'])}"
    if best["error"] >= own["error"] or share(best["error"]) == share(own["error"]):
        return said, f"{cards.no_help(best['defense'], wrong)}."
    if n < cards.FEW or ("hi" in best and not _differ(run, facts, best["defense"])):  # a mean over seeds has no `hi`
        return said, f"{cards.untold(best['defense'], f'is {wrong}')}."
    return said, f"The best defense, {plain(best['defense'])}, is {wrong}."


def _differ(run: Results, facts: Mapping[str, Any], defense: str) -> bool:
    """Whether the defense's errors differ from the model's own, image by image: 0 lies outside the interval of their
    mean difference.
    """
    cells = cards.of(run.cells, facts)
    inside = ~cells["corruption"].isin(ALEXNET_EXTRA)
    cells = cells[inside] if inside.any() else cells
    cells = cells[(cells["status"] == "done") & cells["severity"].notna()]
    right = []
    for name in ("none", defense):
        rows = [run.columns(i) for i in cells.loc[cells["defense"] == name, "run_id"]]
        each = pd.concat(pd.Series(row["robust"], row["index"], float) for row in rows)
        right.append(each.groupby(level=0).mean())
    score = average("difference", (right[1] - right[0]).dropna())
    return not score.lo <= 0 <= score.hi


def natural(run: Results) -> Iterator[Answer]:
    """One answer a natural shift set, model and seed; of each model and seed the first says all sets in a sentence."""
    found = [member for member in members(run) if member["shift"] != "clean"]
    systems: dict[tuple[Any, ...], dict[str, list[Member]]] = {}
    for member in found:
        where = tuple(member[name] for name in WHERE)
        systems.setdefault(where, {}).setdefault(member["shift"], []).append(member)
    for where, sets in systems.items():
        said = _natural(run, dict(zip(WHERE, where, strict=True)), sets)
        for i, (shift, several) in enumerate(sets.items()):
            yield _set(run, shift, where, several, said if i == 0 else ())


def _rows(several: Sequence[Member]) -> list[dict[str, Any]]:
    """A row a system: its accuracy with the interval and that on the matching clean pictures, the best first."""
    rows = []
    for member in several:
        score = rate("accuracy", member["pooled"]["robust"])
        clean = float("nan") if member["control"] is None else float(member["control"]["robust"].mean())
        rows.append({"defense": member["defense"], "value": score.value, "lo": score.lo, "hi": score.hi,
                     "n": score.n, "clean": clean, "struck": member["struck"]})  # fmt: skip
    return sorted(rows, key=lambda row: -float(row["value"]))


def _set(run: Results, shift: str, where: Sequence[Any], several: Sequence[Member], said: tuple[str, ...]) -> Answer:
    rows = _rows(several)
    sound = [row for row in rows if not row["struck"]]
    figures = cards.numbers(run, RIGHT, *_two(sound, "value"), "value")
    if len(rows) == 1 and np.isfinite(rows[0]["clean"]):
        figures += ((f"{RIGHT}, clean pictures", f"{100 * rows[0]['clean']:.1f} %", "", ""),)
    bars = tuple(("", cards.called(run, row["defense"], RIGHT), _right(row)) for row in rows)
    own = next((row for row in rows if row["defense"] == "none"), rows[0])
    clean = own["clean"]
    sentences = (f"Of the clean pictures of the same classes {share(clean)} are right.",) if np.isfinite(clean) else ()
    kind = "; ".join(filter(None, (SETS.get(several[0]["set"], ""), IMITATION if _imitated(run, where[0]) else "")))
    name = cards.subject(run, dict(zip(WHERE, where, strict=True)))
    title = f"Other pictures: {plain(shift)}" + (f" ({kind})" if kind else "") + _named(name)
    return Answer(title, cards.place(where, shift), figures, bars, sentences, int(min(row["n"] for row in rows)), said,
                  (VERDICT, SHIFT, 1.0, 0.0))  # fmt: skip


def _imitated(run: Results, dataset: str) -> bool:
    """Whether the shift sets of this data are rendered as the data is; of several data sets it goes by their name."""
    alone = run.cells["dataset"].nunique() == 1
    return FIXTURE in run.note and (alone or str(dataset).partition("(")[0] == "scenes")


def _named(subject: str) -> str:
    """What a title ends with, where there are several models."""
    return "" if subject == "the model" else f", {subject}"


def _right(row: Row) -> Entry:
    entry = accuracy(row["value"], row["lo"], row["hi"])
    return Entry(entry.text, entry.key, "failed a check", struck=True) if row["struck"] else entry


def _natural(run: Results, facts: Mapping[str, Any], sets: Mapping[str, Sequence[Member]]) -> tuple[str, ...]:
    """What the model by itself, or its only system, still gets right on each set, and where every defense has less."""
    told, clean, worse = [], [], []
    of = "an imitation of " if _imitated(run, str(facts["dataset"])) else ""
    for shift, several in sets.items():
        rows = [row for row in _rows(several) if not row["struck"]]
        own = next((row for row in rows if row["defense"] == "none"), rows[0] if rows else None)
        if own is None:
            continue
        # Where the undefended number failed a check, or nobody asked for it, a defended one stands here, by its name.
        whose = "" if own["defense"] == "none" else f" with {plain(own['defense'])}"
        told.append(f"{share(own['value'])} of {of}{plain(shift)}{whose} ({_counted(own['n'])})")
        clean += [own["clean"]] if np.isfinite(own["clean"]) else []
        best = max((row["value"] for row in rows if row is not own), default=None)
        if own["defense"] == "none" and best is not None and best < own["value"]:
            worse.append(f"{plain(shift)} (at most {share(best)})")
    if not told:
        return ()
    before = ""
    if clean:
        low, high = share(min(clean)), share(max(clean))
        before = f"; of the matching clean pictures on {low if low == high else f'{low} to {high}'}"
    seed = f" (seed {facts['seed']})" if facts["seed"] else ""
    said = f"On other kinds of pictures {cards.subject(run, facts)} is right on {cards.listed(told)}{seed}{before}."
    return (said, f"With every defense it is right on fewer of {cards.listed(worse)}.") if worse else (said,)


def _counted(n: float) -> str:
    return f"{number(n)} image{'s' if n != 1 else ''}"
