"""Numbers that others published, read from RobustBench's files (Croce et al. 2021, arXiv:2010.09670).

One JSON file a model, at model_info/<data set>/<Linf, L2 or corruptions>/<model>.json; its numbers are strings in per
cent. They stand on a leaderboard beside our own, marked as not measured here, and are never ranked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustsuite.errors import BadData

MARK = "published, not measured here"
NORMS = {"linf": "linf", "l2": "l2", "corruptions": ""}


@dataclass(frozen=True)
class Published:
    """One published row: rates in [0, 1]; `norm` is '' for common corruptions, `robust` the lowest number on record."""

    model: str
    title: str
    authors: str
    venue: str
    link: str
    architecture: str
    dataset: str
    norm: str
    eps: float | None
    clean: float
    robust: float
    notes: tuple[str, ...]


def read_published(paths: Sequence[Path]) -> list[Published]:
    """The rows of these files, and of every .json below these folders; raises BadData where one does not fit."""
    return [_row(file) for path in paths for file in _files(Path(path))]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(path.rglob("*.json"))
        if not found:
            raise BadData(f"expected RobustBench result files below {str(path)!r}, got none; name model_info/...")
        yield from found
    else:
        yield path


def _row(file: Path) -> Published:
    try:
        facts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"expected a RobustBench result file at {str(file)!r}, got {error}; leave it out") from error
    folder = file.parent.name.lower()
    if not isinstance(facts, dict) or folder not in NORMS:
        raise BadData(
            f"expected model_info/<data set>/<Linf, L2 or corruptions>/<model>.json, got {str(file)!r}; keep the "
            f"folders' names, they say the norm"
        )
    norm = NORMS[folder]
    keys = ("autoattack_acc", "external") if norm else ("corruptions_acc",)
    known = {key: _rate(facts.get(key)) for key in keys}
    rates = [rate for rate in known.values() if rate is not None]
    clean, eps = _rate(facts.get("clean_acc")), _eps(facts.get("eps"), file)
    if not rates or clean is None or (norm and eps is None):
        raise BadData(f"expected eps, clean_acc and {keys[0]} in {str(file)!r}, got {sorted(facts)}; leave it out")

    def word(key: str) -> str:
        return str(facts.get(key) or "")

    return Published(
        file.stem, word("name"), word("authors"), word("venue"), _link(facts.get("link")), word("architecture"),
        word("dataset") or file.parent.parent.name, norm, eps if norm else None, clean, min(rates),
        tuple(_notes(facts, known)),
    )  # fmt: skip


def _notes(facts: dict[str, Any], known: dict[str, float | None]) -> Iterator[str]:
    yield MARK
    external, standard = known.get("external"), known.get("autoattack_acc")
    if external is not None and (standard is None or external < standard):
        yield "an attack outside AutoAttack found less" + (f" than its {100 * standard:.2f} %" if standard else "")
    if facts.get("unreliable") is True:
        yield "its publishers call the evaluation unreliable"
    if facts.get("additional_data") is True:
        yield "trained on additional data"
    if (passes := facts.get("number_forward_passes")) not in (None, 1):
        yield f"{passes} forward passes an image"


def _rate(value: Any) -> float | None:
    try:
        rate = float(value) / 100
    except (TypeError, ValueError):
        return None
    return rate if 0 <= rate <= 1 else None


def _eps(value: Any, file: Path) -> float | None:
    if value is None:
        return None
    try:
        return float(Fraction(str(value).replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise BadData(f"expected eps such as '8/255' in {str(file)!r}, got {value!r}; leave it out") from error


def _link(value: Any) -> str:
    # Only a web address becomes a link: "javascript:" in somebody's file would run in the reader's browser.
    text = str(value or "")
    return text if text.startswith(("https://", "http://")) else ""
