"""Attacked pictures to look at: what was changed, by how much, and what the system took them for.

Shown are pictures that a run kept, of the strongest attack of each threat, and only those that count as broken. All of
them together take a bounded number of bytes of the page, dealt out one picture a gallery at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.errors import BadData
from robustsuite.records.cells import FILE
from robustsuite.records.examples import Columns
from robustsuite.records.schema import radius_words

from ..measure.classes import named, shown_systems, strongest
from ..measure.scores import flag_names
from ..measure.worst import GROUP
from ..read.runs import Results, radius_of
from ..render.document import Gallery, Section, Shot
from ..render.draw import raster, slug
from ..render.pictures import magnified, painted, png, sampled, size_of
from ..render.text import number, plain
from ..sections.figures import MOST
from ..sections.generic import titled

PICTURES = 6
"""Pictures of one system under one threat."""

MOST_BYTES = 2 << 20
"""What all pictures of a page may take, as they stand in it."""

SIDE = 112
"""Pixels of the longer side of a picture as a page shows it."""

NAME = 60
"""Characters of a file's name; its end tells more than its beginning."""


class Chosen(NamedTuple):
    """A cell whose pictures are looked at: its GROUP without the seed, who was attacked, and by what."""

    key: tuple[Any, ...]
    defense: str
    attack: str
    cell: Mapping[Any, Any]


@dataclass(frozen=True)
class Found:
    """The shots that a cell has, how many of how many pictures get another answer, and a picture's shape (C, H, W)."""

    chosen: Chosen
    shots: tuple[Shot, ...]
    broke: int
    n: int
    shape: tuple[int, ...]


def gallery_section(run: Results) -> Section:
    """A gallery for the undefended model and the best defense under each threat that pictures are kept of."""
    found: list[Found] = []
    unread, left = [], 0
    for chosen in chosen_cells(run):
        if len(found) == MOST:
            left += 1
            continue
        try:
            some = _found(run, chosen)
        except BadData as error:
            unread.append(f"Pictures of {plain(chosen.defense)} under {chosen.attack} cannot be shown: {error}.")
            continue
        found += [some] if some else []
    shots = affordable([each.shots for each in found])
    titles = titled([each.chosen.key for each in found], GROUP[:-1])
    galleries = tuple(_gallery(run, *each) for each in zip(found, titles, shots, strict=True) if each[2])
    left += len(found) - len(galleries)
    lead = (
        "Pictures that get another answer under the strongest attack of a threat: as they were, as they were attacked "
        "(of poisoned training data: with the trigger), and what was added, around grey, so that what is plain grey "
        "was left alone. Each is magnified by its own factor, which stands below it: how strong a change is, its "
        "distance says, not how strong it looks. They were judged in full precision and are rounded to 8 bits here.",
        *((f"Of {left} more systems nothing is shown: {MOST} galleries and {MOST_BYTES >> 20} MiB are the most.",)
          if left else ()),
        *unread,
    )  # fmt: skip
    return Section("pictures", "What the attacks changed", lead, order=11, galleries=galleries)


def cell_gallery(run: Results, run_id: str, most: int = PICTURES) -> Gallery | None:
    """Of one cell the first pictures that are kept and get another answer; None without any that can be read."""
    cell = run.known[run_id]
    if cell["scenario"] not in ("evasion", "poisoning") or cell["status"] != "done":
        return None
    key = tuple(cell[name] for name in GROUP[:-1])
    try:
        found = _found(run, Chosen(key, cell["defense"], cell["attack"], cell), most)
    except BadData:  # `verify` says so
        return None
    return _gallery(run, found, "", found.shots) if found else None


def chosen_cells(run: Results) -> Iterator[Chosen]:
    """Whose pictures are looked at: under each threat the undefended model and the best defense."""
    for member in shown_systems(run):
        yield Chosen(member.group[:-1], member.defense, member.strongest, strongest(run, member))
    yield from _victims(run)


def _victims(run: Results) -> Iterator[Chosen]:
    """Of poisoned systems the undefended one and the hardest to trigger, each under its most successful attack."""
    rates: dict[tuple[Any, ...], dict[str, list[tuple[float, Chosen]]]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for cell in run.known.values():
        if cell["scenario"] != "poisoning" or cell["status"] != "done":
            continue
        key, rows = tuple(cell[name] for name in GROUP[:-1]), run.columns(cell["run_id"])
        meant = rows["eligible"].astype(bool)
        if cell["seed"] == first.setdefault(key, cell["seed"]) and meant.any():
            chosen = Chosen(key, cell["defense"], cell["attack"], cell)
            rate = float(rows["triggered_as_target"][meant].mean())
            rates.setdefault(key, {}).setdefault(cell["defense"], []).append((rate, chosen))
    for systems in rates.values():
        most = {name: max(cells, key=lambda pair: pair[0]) for name, cells in systems.items()}
        defended = [pair for name, pair in most.items() if name != "none"]
        yield from ([most["none"][1]] if "none" in most else [])
        yield from ([min(defended, key=lambda pair: pair[0])[1]] if defended else [])


def _broken(rows: Columns, scenario: str) -> NDArray[np.bool_] | None:
    """Which (N,) get another answer, as the adversary wanted; None where the rows do not say what was answered."""
    poisoned = scenario == "poisoning"
    needed = {"eligible", "triggered_as_target"} if poisoned else {"clean_ok", "robust", "in_budget"}
    if not {"label", "answer", *needed} <= set(rows):
        return None
    if poisoned:
        hit = rows["eligible"].astype(bool) & rows["triggered_as_target"].astype(bool)
        hit &= rows["answer"] != rows.get("prediction", rows["label"])
    else:
        hit = rows["clean_ok"].astype(bool) & ~rows["robust"].astype(bool) & rows["in_budget"].astype(bool)
    return np.asarray(hit & (rows["answer"] >= 0) & (rows["answer"] != rows["label"]))


def _found(run: Results, chosen: Chosen, most: int = PICTURES) -> Found | None:
    """The first broken pictures that are kept of a cell, by index; None without any."""
    cell, run_id = chosen.cell, chosen.cell["run_id"]
    broken = _broken(run.columns(run_id), cell["scenario"])
    if broken is None or not broken.any():
        return None
    rows = run.examples(run_id)[broken].set_index("index", drop=False)
    shots, shape = list[Shot](), ()
    for part in run.pictures(run_id):
        for example, clean, attacked in zip(*part, strict=True):
            if len(shots) < most and example in rows.index:
                shots.append(_shot(run, cell, rows.loc[example], clean, attacked))
                shape = clean.shape
        if len(shots) == most:
            break
    return Found(chosen, tuple(shots), int(broken.sum()), len(broken), shape) if shots else None


def _shot(
    run: Results, cell: Mapping[Any, Any], row: pd.Series, clean: NDArray[np.float32], attacked: NDArray[np.float32]
) -> Shot:
    difference, times = magnified(clean, attacked)
    name, shown = named(run, cell["dataset"]), size_of(clean, SIDE)
    before, after = int(row.get("prediction", row["label"])), int(row["answer"])
    of = "" if before == row["label"] else f" (it is of {name(int(row['label']))})"
    return Shot(
        png(clean, SIDE), png(attacked, SIDE), png(sampled(difference, SIDE)), times, shown,
        enlarged=max(shown) > max(clean.shape[1:]), words=f"{name(before)} → {name(after)}{of}",
        facts=tuple(_facts(cell, row)),
    )  # fmt: skip


def _facts(cell: Mapping[Any, Any], row: pd.Series) -> Iterator[str]:
    """How far it was moved, what was asked, which example it is."""
    budget, eps = cell["record"].threat.budget, radius_of(cell)
    if "distance" in row and budget.norm:
        allowed = f" of {radius_words(eps, budget.norm)} allowed" if eps is not None and np.isfinite(eps) else ""
        yield f"{budget.norm} distance {length(float(row['distance']), budget.norm)}{allowed}"
    if "psnr" in row:
        yield f"PSNR of the trigger {row['psnr']:.1f} dB"
    if "queries" in row and budget.queries is not None:
        yield f"{number(row['queries'])} of {number(budget.queries)} queries"
    elif "queries" in row and budget.queries_total is not None:
        yield f"{number(row['queries'])} queries"
    if row.get("below_a_bit", False):
        yield "right again once it is saved in 8 bits"
    file = str(row.get(FILE) or "")
    file = file if len(file) <= NAME else "…" + file[1 - NAME :]
    yield f"example {int(row['index'])}" + (f", {file}" if file else "")


def length(value: float, norm: str) -> str:
    """A distance with its unit: 8/255 in linf, 0.497 in another norm."""
    return f"{255 * value:.3g}/255" if norm == "linf" else number(value)


def affordable(shots: Sequence[Sequence[Shot]], most: int = MOST_BYTES) -> list[tuple[Shot, ...]]:
    """Of each gallery's shots as many as `most` bytes in base64 allow, dealt out one a gallery at a time."""
    taken: list[list[Shot]] = [[] for _ in shots]
    full = set[int]()
    for turn in zip_longest(*shots):
        for i, shot in enumerate(turn):
            if shot is None or i in full:
                continue
            size = sum(4 * -(-len(data) // 3) for data in (shot.clean, shot.attacked, shot.difference))
            if size > most:
                full.add(i)
            else:
                most -= size
                taken[i].append(shot)
    return [tuple(each) for each in taken]


def _gallery(run: Results, found: Found, title: str, shots: tuple[Shot, ...]) -> Gallery:
    chosen, (height, width), shown = found.chosen, found.shape[1:], shots[0].shown
    who = f"{plain(chosen.defense)} under {chosen.attack}" if run.defended else chosen.attack
    few = len(shots)
    said = [shown_of(few, found.broke, found.n)]
    if chosen.cell["grade"] == "INVALID":
        said.append(f"the number of these pictures failed a check: {flag_names(chosen.cell).replace(';', ', ')}")
    if max(width, height) > SIDE:
        said.append(f"shown smaller: {width} × {height} pixels at {shown[0]} × {shown[1]}, "
                    "differences by leaving pixels out")  # fmt: skip
    elif shots[0].enlarged:
        said.append(f"{width} × {height} pixels, {shown[0] // width} times enlarged")
    return Gallery(
        f"gallery-{slug((*chosen.key, chosen.defense, chosen.attack))}", f"{title} · {who}" if title else "",
        "; ".join(said) + ".", shots, lambda: raster((1.1 + 1.35 * few, 4.6), partial(painted, shots=shots)),
    )  # fmt: skip


def shown_of(few: int, broke: int, n: int) -> str:
    """How many of the broken pictures are shown, in words."""
    if broke == 1:
        return f"The only picture, of {n}, that gets another answer"
    if few == broke:
        return f"All {broke} pictures, of {n}, that get another answer"
    return f"{few} of the {broke} pictures, of {n}, that get another answer, the first that are kept"
