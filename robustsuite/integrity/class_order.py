"""What the answers to all clean pictures say: of the classes' order, of chance, of how much is rejected."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from robustsuite.integrity.checks import ENOUGH, Flag

WNID = re.compile(r"n\d{8}\b")

MADE_UP = re.compile(r"(?:label|class)?\s*(\d+)")
"""What a position is called where a class has no name."""


def class_order(
    model: tuple[str, ...], data: tuple[str, ...], y: NDArray[Any], right: NDArray[np.bool_]
) -> Flag | None:
    """The flag of names that do not meet at their positions; y (N,) labels, right (N,) verdicts on clean pictures.

    It fails where both are one set in two orders, whatever the answers, and warns where the answers do not confirm
    the order: at least `ENOUGH` pictures of the classes in doubt, more than half of them right.
    """
    odd, permuted = apart(model, data)
    if not odd:
        return None
    at = f"output {odd[0]} is {model[odd[0]][:40]!r} to the model and {data[odd[0]][:40]!r} in the data"
    if permuted:
        words = f"{len(odd)} of {len(data)} classes stand in another order: {at}; number the labels as the model does"
        return Flag("class_order", words, "fail")
    asked = np.isin(y, odd)
    k, n = int(right[asked].sum()), int(asked.sum())
    if n >= ENOUGH and 2 * k > n:
        return None
    words = f"{len(odd)} of {len(data)} classes share no name: {at}; {k} of {n} of their pictures are right"
    return Flag("class_order", words, "warn")


@lru_cache(maxsize=64)
def apart(model: tuple[str, ...], data: tuple[str, ...]) -> tuple[tuple[int, ...], bool]:
    """Positions whose names do not meet, and whether there the two are one set in two orders.

    None where the sides have other numbers of them, or one has no names but its positions' and the other has others.
    """
    ours, theirs = ([called(name) for name in names] for names in (model, data))
    mute = (_numbered(ours) or _numbered(theirs)) and set(ours) != set(theirs)
    if mute or len(ours) != len(theirs):
        return (), False
    odd = tuple(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not a & b)
    places = defaultdict[str, set[int]](set)
    for j in odd:
        for name in theirs[j]:
            places[name].add(j)
    meant = [set[int]().union(*(places[name] for name in ours[i] if name in places)) for i in odd]
    single = [next(iter(found)) for found in meant if len(found) == 1]
    return odd, bool(odd) and len(set(single)) == len(odd)


def called(name: str) -> frozenset[str]:
    """The ways a class is called: 'n01440764 tench, Tinca_tinca' is n01440764, tench and 'tinca tinca'."""
    lowered = name.lower().strip()
    found = {wnid[0]} if (wnid := WNID.match(lowered)) else set[str]()
    rest = lowered[len(wnid[0]) :] if wnid else lowered
    plain = (re.sub(r"[\W_]+", " ", part).strip() for part in rest.split(","))
    return frozenset(found | {made[1] if (made := MADE_UP.fullmatch(part)) else part for part in plain if part})


def _numbered(names: Sequence[frozenset[str]]) -> bool:
    return all(name <= {str(i)} for i, name in enumerate(names))


def at_chance(right: int, n: int, classes: int, hint: str = "class order, normalisation and labels") -> Flag | None:
    """The flag of an accuracy that a guesser reaches once in twenty tries or more, or does not even reach."""
    if bdtrc(right - 1, n, 1 / classes) < 0.05:
        return None
    return Flag("clean_at_chance", f"{right} of {n} right among {classes} classes; check {hint}")


def over_rejecting(refused: int, n: int, rates: Sequence[float]) -> list[Flag]:
    """The flag of more clean pictures rejected than twice what the defenses say they reject; none say, nothing said.

    Twice, since they speak of right answers, and wrong ones are rejected more often.
    """
    most = min(1.0, 2 * sum(rates))
    if not rates or bdtrc(refused - 1, n, most) >= 0.001:
        return []
    words = f"{refused} of {n} clean pictures are rejected, where {sum(rates):.1%} were said"
    return [Flag("over_rejecting", words)]
