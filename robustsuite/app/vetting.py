"""The sweeps that a security engineer would choose for one model: to vet it, or to scan it for a backdoor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from robustsuite.app import flags
from robustsuite.app.flags import entry
from robustsuite.config.registry import AttackCard, cards
from robustsuite.config.threats import Access
from robustsuite.engine.sweep import Sweep, sweep_of
from robustsuite.errors import BadValue, UnknownName
from robustsuite.serve.data import Dataset, Split, load_data, parse_data
from robustsuite.serve.models import Model, load_model

LARGE = 64
"""Pixels a side above which budgets are those that ImageNet models are compared in."""

BOUNDED = 3_000_000, 3 * 64 * 64
"""Weights, and pixel values of a picture, up to which linear bounds are tried."""


class Level(NamedTuple):
    """pictures judged on; white: attacks that see everything, two families of them at their least; queries: of those
    that see scores, and labels.

    severities of each corruption; proven: pictures that a proof is tried on.
    """

    pictures: int | None
    white: list[Any]
    queries: tuple[int, int]
    severities: list[int]
    proven: int


LEVELS = {
    "screening": Level(
        128, [{"pgd": {"steps": 20}}, {"apgd": {"steps": 20}}, {"apgd": {"steps": 20, "loss": "margin"}}, "fmn"],
        (500, 500), [3], 16,
    ),
    "standard": Level(1000, [{"pgd": {"steps": 50}}, "ensemble"], (2000, 2000), [1, 3, 5], 64),
    "publication": Level(
        None, [{"pgd": {"steps": 100, "restarts": 5}}, "ensemble", "autoattack"], (5000, 10000), [1, 2, 3, 4, 5], 200
    ),
}  # fmt: skip


def vetting(
    model: str, data: Any, level: str = "screening", hosts: tuple[str, ...] = (), first: int | None = None,
    linf: tuple[str, ...] = (),
) -> Sweep:  # fmt: skip
    """One model on one data set against every adversary that what it shows allows, and every corruption.

    first: on so many pictures, instead of the level's. linf: radii, instead of 8/255, or 4/255 for pictures above 64
    pixels; l2 is 0.5, or 3 for these. Raises UnknownName and what loading does.
    """
    if level not in LEVELS:
        raise UnknownName("level", level, LEVELS)
    source, given = parse_data(data)
    dataset, judged = load_data(data)
    loaded, asked = load_model(model, dataset.space), LEVELS[level]
    n = min(first or asked.pictures or len(judged), len(judged))
    large = max(dataset.space.height, dataset.space.width) > LARGE
    radii, l2 = linf or (("4/255",) if large else ("8/255",)), 3.0 if large else 0.5
    name = "".join(c if c.isalnum() else "-" for c in f"{loaded.name}-{dataset.name}").strip("-")[:60]
    return sweep_of({
        "name": f"vet-{name}-{level}", "title": f"{loaded.name} on {dataset.name}: {level}", "models": [model],
        "data": [{source: {**given, "first": n}}], "hosts": list(hosts),
        "threats": _threats(loaded, dataset, asked, radii, l2), "shifts": _shifts(dataset, asked),
    }, "vet")  # fmt: skip


def _threats(model: Model, dataset: Dataset, level: Level, radii: tuple[str, ...], l2: float) -> dict[str, Any]:
    """By what the model shows: all of it, its scores, its labels; and proofs, where it is small enough."""
    found: dict[str, Any] = {}
    (queries, votes), several = level.queries, len(radii) > 1
    for radius in radii:
        beside = f" {radius}" if several else ""
        if Access.GRADIENTS in model.shows:
            found["linf" + beside] = {"scenario": "evasion", "access": "white_box", "budget": {"linf": radius},
                                      "attacks": level.white}  # fmt: skip
        if Access.SCORES in model.shows:
            found["scores" + beside] = {"scenario": "evasion", "access": "scores",
                                        "budget": {"linf": radius, "queries": queries},
                                        "attacks": [{"square": {"steps": queries - 1}}]}  # fmt: skip
    if Access.GRADIENTS in model.shows:
        found["l2"] = {"scenario": "evasion", "access": "white_box", "budget": {"l2": l2}, "attacks": level.white}
    found["labels"] = {"scenario": "evasion", "access": "labels", "budget": {"l2": l2, "queries": votes},
                       "attacks": [{"cgba": {"queries": votes}}]}  # fmt: skip
    weights = sum(p.numel() for p in model.net.parameters())
    if Access.WEIGHTS in model.shows and weights <= BOUNDED[0] and math.prod(dataset.space.shape) <= BOUNDED[1]:
        found["proof"] = {"scenario": "certification", "access": "white_box", "budget": {"linf": "1/255"},
                          "attacks": [{"lirpa": {"first": level.proven}}]}  # fmt: skip
    return found


def _shifts(dataset: Dataset, level: Level) -> list[Any]:
    """Corruptions, of colour pictures that are large enough for them."""
    space = dataset.space
    if space.channels != 3 or min(space.height, space.width) < 32:
        return []
    return [{"imagenet_c": {"severities": level.severities}}]


HEADER = ("scanner", "suspicion", "class", "p", "trigger works", "on clean nets", "")


def scanning(checkpoint: str, data: str, zoo: int, space: str, seed: int) -> Sweep:
    """One network against every scanner; without data against those that need no picture. Raises BadValue."""
    if data and space:
        raise BadValue("expected data, or a space in place of it, got both; leave --space out")
    if not data and zoo:
        raise BadValue("expected data to train clean networks on, got none; name the data set's, or leave --zoo out")
    found = [card for card in cards().values() if isinstance(card, AttackCard) and card.place == "scan"]
    names = [card.name for card in found if data or Access.AUX_DATA not in card.needs]
    given = entry(data, "imagefolder:DIR") if data else _pictureless(space)
    access = ["white_box", "aux_data"] if data else ["white_box"]
    scheme, _, rest = checkpoint.partition("?")[0].partition(":")
    short = f"{scheme}:{Path(rest).name}"  # of a file without its folder, which is this machine's
    name = "".join(c if c.isalnum() else "-" for c in short).strip("-")[:50].strip("-")
    return sweep_of({
        "name": f"scan-{name}", "title": f"{short}: is it trojaned?", "models": [checkpoint],
        "data": [given], "seeds": [seed],
        "threats": {"scan": {"scenario": "scan", "access": access, "zoo": zoo, "attacks": names}},
    }, "scan")  # fmt: skip


def _pictureless(space: str) -> Dataset:
    """A data set of this space without a picture. Raises BadValue."""
    sizes = flags.space(space)
    none = Split.of(torch.zeros(0, *sizes.shape), torch.zeros(0, dtype=torch.int64))
    return Dataset("no pictures", sizes, tuple(map(str, range(sizes.classes))), {"test": none})


def told(folder: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """A header and a row a scanner, and what they come to, a sentence a network."""
    from robustsuite.reports.read.runs import read
    from robustsuite.reports.sections.scanned import called, probabilities, scans, sentence

    run, rows = read([folder]), list[tuple[str, ...]]([HEADER])
    for scanners in scans(run).values():
        for name, scan in scanners.items():
            numbers = [_short(scan.number(column)) for column in ("suspicion", "p_rank", "works", "works_on_clean")]
            target = called(run, scan)
            why = "" if np.isfinite(scan.number("suspicion")) else str(scan.cell["sentence"])
            rows.append((name, numbers[0], target, *numbers[1:], why))
    for cell in run.cells.to_dict("records"):
        if cell["scenario"] == "scan" and cell["status"] not in ("done", "inert"):
            rows.append((cell["attack"], cell["status"], "–", "–", "–", "–", str(cell["sentence"])))
    return rows, [sentence(row) for row in probabilities(run).to_dict("records")]


def _short(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"
