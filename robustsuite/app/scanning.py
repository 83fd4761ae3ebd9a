"""The sweep of `robustsuite scan`, and what its run says in a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from robustsuite.app.flags import entry
from robustsuite.config.registry import AttackCard, cards
from robustsuite.config.threats import Access
from robustsuite.engine.sweep import Sweep, sweep_of
from robustsuite.errors import BadValue, quoted
from robustsuite.serve.data import Dataset, InputSpace, Split

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
    name = "".join(c if c.isalnum() else "-" for c in checkpoint.partition("?")[0]).strip("-")[-50:].strip("-")
    return sweep_of({
        "name": f"scan-{name}", "title": f"{checkpoint.partition('?')[0]}: is it trojaned?", "models": [checkpoint],
        "data": [given], "seeds": [seed],
        "threats": {"scan": {"scenario": "scan", "access": access, "zoo": zoo, "attacks": names}},
    }, "scan")  # fmt: skip


def _pictureless(space: str) -> Dataset:
    """A data set of this space without a picture. Raises BadValue."""
    parts = space.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        got = quoted(space) if space else "none"
        raise BadValue(f"expected data, or --space as channels x height x width x classes, got {got}; write 3x32x32x10")
    channels, height, width, classes = map(int, parts)
    none = Split.of(torch.zeros(0, channels, height, width), torch.zeros(0, dtype=torch.int64))
    names = tuple(map(str, range(classes)))
    return Dataset("no pictures", InputSpace(channels, height, width, classes), names, {"test": none})


def told(folder: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """A header and a row a scanner, and what they come to, a sentence a network."""
    from robustsuite.reports.read.runs import read
    from robustsuite.reports.sections.scanned import called, probabilities, scans, sentence

    run, rows = read([folder]), [HEADER]
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
