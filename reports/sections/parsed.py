"""Model parsing: what adversarial pictures betray of the networks that they break, over all victims of a run.

One victim cannot tell an observer that knows from one that always says the same, so each attribute is averaged over the
values that the victims have, and over the victims of each value; intervals resample victims, whose pictures are guessed
alike. Beside it stands what the observer reaches on its own nets, which is the paper's protocol, and a guesser's third.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.maths import stats

from ..measure.scores import flag_names, measured_as
from ..read.extra import part as reported
from ..read.runs import Results
from ..render.document import Entry, Part, Section, Table, accuracy, counted, split_constant, words
from ..render.text import number, percent

ATTRIBUTES = ("kernel", "activation", "sparsity")
CHANCE = 1 / 3
FEW = 3
"""Victims of a value below which resampling them says nothing."""

WHERE = ("threat", "budget", "dataset", "seed", "attack")
SHOWN = ("threat", "dataset", "seed", "attack")
"""Of these what stands in the page: a threat has one budget, whose words are long here."""

AT_CHANCE = "observer_at_chance"


def victims(run: Results) -> pd.DataFrame:
    """One row a victim and observer: n pictures that count, how many of these are right in each attribute and in all.

    <attribute>: the place of the victim's value; own_ and others_<attribute>: shares on the observer's own nets.
    """
    rows = []
    for cell in run.known.values():
        source = measured_as(cell, run.known) if cell["scenario"] == "parsing" else None
        if source is not None:
            base = {name: cell[name] for name in (*WHERE, "model", "defense", "sentence", "grade")}
            rows.append({**base, "flags": flag_names(cell), **_counted(run.examples(source["run_id"]))})
    return pd.DataFrame(rows)


def _counted(examples: pd.DataFrame) -> dict[str, float]:
    counts = examples[examples["adversarial"].astype(bool)]
    found: dict[str, float] = {"n": len(counts), "of": len(examples), "all": int(counts["all_ok"].sum()),
                               "own_pictures": int(examples["own_pictures"].iloc[0])}  # fmt: skip
    for name in ATTRIBUTES:
        found[f"{name}_right"] = int(counts[f"{name}_ok"].sum())
        found |= {said: float(examples[said].iloc[0]) for said in (name, f"own_{name}", f"others_{name}")}
    return found


def pooled(found: pd.DataFrame) -> pd.DataFrame:
    """One row an observer and attribute: right, lo, hi over victims, own nets' share; NaN where one value is all.

    values: how many of the three the victims have; victims, pictures: of those with pictures that count.
    """
    rows = []
    for facts, group in found.groupby(list(WHERE), sort=False, dropna=False):
        met = group[group["n"] > 0]
        for name in ATTRIBUTES:
            right, lo, hi = _averaged(met, name)
            rows.append({
                **dict(zip(WHERE, facts, strict=True)), "attribute": name, "victims": len(met),
                "without": len(group) - len(met), "pictures": int(met["n"].sum()), "values": met[name].nunique(),
                "right": right, "lo": lo, "hi": hi, "own": float(group[f"own_{name}"].iloc[0]),
                "own_pictures": int(group["own_pictures"].iloc[0]), "chance": CHANCE,
                "doubted": AT_CHANCE in ";".join(group["flags"]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _averaged(met: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """The mean over values of the mean over victims, NaN of one value; its interval, NaN of few victims of a value."""
    if met[name].nunique() < 2:
        return np.nan, np.nan, np.nan
    rates, values = (met[f"{name}_right"] / met["n"]).to_numpy(), met[name].to_numpy()
    kinds = np.unique(values)

    def balanced(rows: Any) -> float:
        drawn = [rates[rows][values[rows] == kind] for kind in kinds]
        return float(np.mean([part.mean() for part in drawn])) if all(len(part) for part in drawn) else np.nan

    few = min(int((values == kind).sum()) for kind in kinds) < FEW
    lo, hi = (np.nan, np.nan) if few else stats.resampled_interval(balanced, len(rates), 0)
    return balanced(np.arange(len(rates))), lo, hi


@reported
def part(run: Results, scores: pd.DataFrame) -> Part:
    """What model parsing adds to a report."""
    found = victims(run)
    if not len(found):
        return Part((Section("parsing", "Model parsing"),))
    whole = pooled(found)
    lead = (
        "An observer of pictures that break a system says what the system is made of. A guesser is right on a third of "
        "each attribute. Of one victim a share says little: whoever always answers the same is right on all pictures "
        "of some victims. So shares are means over the values that these victims have, with intervals over victims; "
        "on its own nets the observer is scored on pictures that it has not learnt on, as in the paper.",
    )
    tables = (_over_victims(whole), _each(found))
    return Part((Section("parsing", "Model parsing", lead, tables, order=46),), frames={"parsing": whole})


def _over_victims(whole: pd.DataFrame) -> Table:
    names, caption = split_constant(whole, SHOWN)
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["attribute"]), _right(row),
         _on_own(row), counted(CHANCE, percent(CHANCE)),
         counted(row["victims"], number(row["victims"])), counted(row["without"], number(row["without"])),
         counted(row["values"], f"{row['values']} of 3"), counted(row["pictures"], number(row["pictures"])))
        for row in whole.to_dict("records")
    )  # fmt: skip
    columns = (*names, "attribute", "right", "right on own nets", "chance", "victims", "without a picture", "values",
               "pictures")  # fmt: skip
    return Table("parsing", "What is told of networks that are not the observer's", caption, columns, rows,
                 csv="parsing.csv")  # fmt: skip


def _right(row: Mapping[Any, Any]) -> Entry:
    if np.isnan(row["right"]):
        return Entry("–", -1.0, "the victims have one value alone: always saying it would do")
    note = "it names what its own nets are made of as a guesser would" if row["doubted"] else ""
    if np.isnan(row["lo"]):
        return Entry(percent(row["right"]), row["right"], note or "too few victims for an interval", row["doubted"])
    return accuracy(row["right"], row["lo"], row["hi"], note=note, struck=row["doubted"])


def _on_own(row: Mapping[Any, Any]) -> Entry:
    n = int(row["own_pictures"])
    return accuracy(row["own"], *stats.clopper_pearson(round(row["own"] * n), n)) if n else Entry("–", -1.0)


def _each(found: pd.DataFrame) -> Table:
    names, caption = split_constant(found, (*SHOWN, "model", "defense"))
    rows = tuple(
        (*(words(row[name]) for name in names), *_shares(row), counted(row["n"], f"{row['n']} of {row['of']}"),
         Entry(row["sentence"]))
        for row in found.to_dict("records")
    )  # fmt: skip
    columns = (*names, *ATTRIBUTES, "all three", "pictures that count", "notes")
    return Table("parsing_victims", "Each victim", caption, columns, rows)


def _shares(row: Mapping[Any, Any]) -> Iterator[Entry]:
    """Of one victim the share of right guesses, with its exact interval over pictures."""
    for name in (*(f"{name}_right" for name in ATTRIBUTES), "all"):
        if not row["n"]:
            yield Entry("–", -1.0, "no picture counts")
        else:
            k, n = int(row[name]), int(row["n"])
            yield accuracy(k / n, *stats.clopper_pearson(k, n), struck=row["grade"] == "INVALID")
