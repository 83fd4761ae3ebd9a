"""What differs from one run of a sweep to the next: what it cost, and on what it ran. Kept apart from the scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ...measure import tables
from ...read.runs import Results
from ...render.document import Entry, Section, Table, counted, split_constant, words
from ...render.text import duration, number, size

_FACTS = ("suite_version", "commit", "dirty", "device", "dtype", "packages", "canaries")
_HASHES = (
    (["model", "defense"], "weights_sha256", ("seed", "seed {:g}")),
    (["dataset", "shift", "corruption", "severity"], "data_sha256", ("n", "{:g} images")),
)
"""Hashes, what tells apart the things that they are of, and what does where that is not enough, in words."""


def cost_section(run: Results) -> Section:
    """Seconds, forward and backward passes, queries and peak memory of every cell that ran."""
    costs = tables.costs(run)
    if not len(costs):
        return Section("cost", "Cost", passing=True)
    names, caption = split_constant(costs, ("dataset", "model", "seed", "device"))
    optional = [
        n
        for n in ("shift", "corruption", "severity")
        if (costs[n].notna() & (costs[n].astype(str) != "")).any()
    ]
    rows = tuple(
        (words(row["threat"]), *(words(row[n]) for n in names), words(row["attack"] or "–"), words(row["defense"]),
         *(_axis(row[n]) for n in optional),
         counted(row["n"], number(row["n"])), counted(row["seconds"], duration(row["seconds"])),
         _per_image(row["seconds"], row["n"]),
         counted(row["forwards"], number(row["forwards"])), counted(row["backwards"], number(row["backwards"])),
         counted(row["queries"], number(row["queries"])), counted(row["peak_bytes"], size(row["peak_bytes"])))
        for row in costs.to_dict("records")
    )  # fmt: skip
    columns = ("threat", *names, "attack", "defense", *optional, "n", "time", "per image", "forward", "backward",
               "queries", "peak memory")  # fmt: skip
    total = f"{len(costs)} cells ran for {duration(float(costs['seconds'].sum()))} in all."
    found = Table("cost", "Cost of every cell", caption, columns, rows, "costs.csv")
    bills = tuple(f"Service {bill}." for bill in run.bills)
    return Section("cost", "Cost", (total, *bills), (found,), passing=True, order=90)


def _axis(value: Any) -> Entry:
    if isinstance(value, float):
        return counted(value, f"{value:g}") if value == value else Entry("–", -1.0)
    return words(value or "–")


def _per_image(seconds: float, n: float) -> Entry:
    return counted(1e3 * seconds / n, f"{1e3 * seconds / n:.3g} ms") if n and n == n else Entry("–", -1.0)


def provenance_section(run: Results) -> Section:
    """Versions, commit, device, canaries and hashes: what a reader needs to ask for the same numbers again."""
    rows = made_with(run)
    started = sorted(value for value in run.cells["started"] if value)
    if started:
        rows.append((words("first cell started"), Entry(started[0])))
        rows.append((words("last cell started"), Entry(started[-1])))
    table = Table("provenance", "Made with", "", ("what", "value"), tuple(rows), "")
    return Section("provenance", "Provenance", (), (table,), passing=True, order=91)


def made_with(run: Results) -> list[tuple[Entry, Entry]]:
    """Versions, commit, device, canaries and hashes, each value once."""
    rows = [
        (words(name.replace("_", " ")), Entry(value))
        for name in _FACTS
        for value in _distinct(run.cells[name])
    ]
    for what, name, (last, said) in _HASHES:
        found = run.cells.loc[run.cells[name] != "", [*what, last, name]].drop_duplicates().to_dict("records")
        known = {row[name]: (_called([row[key] for key in what]), said.format(row[last])) for row in reversed(found)}
        times = Counter(called for called, _ in known.values())
        for value, (called, apart) in reversed(known.items()):
            of = f"{called}, {apart}" if times[called] > 1 else called
            rows.append((words(f"sha256 of {of}"), Entry(value, kind="code")))
    return [*rows, *((words("root of the run's seal"), Entry(root, kind="code")) for root in run.roots)]


def _called(parts: Sequence[Any]) -> str:
    """What a hash is of, in words: 'scenes, imagenet_c, fog, 3', 'cnn, crossmax'."""
    said = [f"{part:g}" if isinstance(part, float) else str(part) for part in parts if part == part]
    return ", ".join(part for part in said if part not in ("", "none", "clean"))


def _distinct(values: pd.Series) -> Iterator[str]:
    texts = [_text(value) for value in values if value is not None and str(value) not in ("", "nan")]
    yield from dict.fromkeys(text for text in texts if text)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(value[key])}" for key in sorted(value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
