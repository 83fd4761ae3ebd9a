"""The worst case over attacks, and which defenses really differ.

An example survives a threat when it survives every attack of that threat, and every picture made against another system
that an audit put to it: an AND over stored per-example rows, never a minimum of averages. Two defenses are compared on
the same images by the exact McNemar test, Holm-corrected inside one table; ranks are ranges, and equal ranges are ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.integrity.cross_cell import Verdicts, shared, standing
from robustsuite.integrity.strength import united
from robustsuite.maths import stats

from ..read.runs import Results, once
from .grades import worst_of
from .scores import flag_names, measured_as, rate

GROUP = ("threat", "budget", "goal", "dataset", "model", "seed")
LEVEL = 0.05


@dataclass(frozen=True)
class Survival:
    """One defended model under one threat: what stands after every attack, and what could not be counted.

    alone: what each attack leaves by itself, like everything here of the images that every attack met. met: the most
    that one of them met. grades: each attack's own. outlived[a, b]: how many images stand under the a-th of `alone` and
    fall to the b-th. screening: why the union is one.
    unbroken: the share that no attack brought to a wrong answer, though the right one may be gone. foreign: how many
    images stand under all of them and fall to a picture made against another system; `robust` counts them as broken.
    """

    group: tuple[Any, ...]
    defense: str
    robust: pd.Series
    clean: pd.Series
    alone: Mapping[str, float]
    missing: Mapping[str, str]
    flags: Mapping[str, str]
    inert: bool
    grade: str = ""
    grades: Mapping[str, str] = field(default_factory=dict)
    outlived: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    met: int = 0
    screening: str = ""
    unbroken: float = 0.0
    foreign: int = 0

    @property
    def strongest(self) -> str:
        """The attack that left least standing by itself; the first of equals."""
        return min(self.alone, key=lambda attack: self.alone[attack])

    @property
    def struck(self) -> bool:
        """Whether the deciding attack, or every attack, failed an integrity check."""
        return self.grade == "INVALID"


@once
def survivals(run: Results) -> list[Survival]:
    """Every (threat, dataset, model, seed, defense) of the evasion cells that at least one attack has measured."""
    cells = run.cells.loc[run.cells["scenario"] == "evasion", ["run_id", *GROUP, "defense"]]
    found = []
    for key, part in cells.groupby([*GROUP, "defense"], sort=False):
        survival = _survival(run, key[:-1], str(key[-1]), [run.known[run_id] for run_id in part["run_id"]])
        if survival is not None:
            found.append(survival)
    return found


def _survival(
    run: Results,
    group: tuple[Any, ...],
    defense: str,
    cells: Sequence[Mapping[Any, Any]],
) -> Survival | None:
    robusts, unbroken, clean, met, missing, flags, ends = [], [], [], {}, {}, {}, {}
    for cell in cells:
        source = measured_as(cell, run.known)
        if source is None:
            missing[cell["attack"]] = cell["status"]
            continue
        rows = run.columns(source["run_id"])
        robusts.append(Verdicts(rows["index"], rows["robust"].astype(bool)))
        unbroken.append(Verdicts(rows["index"], (rows["robust"] | rows.get("unanswered", False)).astype(bool)))
        clean.append(Verdicts(rows["index"], rows["clean_ok"].astype(bool)))
        met[cell["attack"]] = source
        ends[cell["attack"]] = str(cell.get("grade", ""))
        if cell["flags"]:
            flags[cell["attack"]] = flag_names(cell)
    if not robusts:
        return None
    robust, right = _all(robusts), _all(clean)
    if robust.empty:
        return None
    alone, outlived = _compared(robusts, list(met), robust.index.to_numpy())
    inert = all(cell["status"] == "inert" for cell in cells)
    white = {cell["attack"] for cell in cells if "gradients" in cell.get("needs", "")} & set(ends)
    deciding = min(alone, key=lambda attack: alone[attack])
    ended = worst_of(ends, deciding, white)
    most = max(len(v.at) for v in robusts)
    rests = "; ".join(united(met.values(), met[deciding], len(robust)))
    own = {source["run_id"] for source in met.values()}
    fell = robust.index.isin([i for pair in run.transfers if pair.target in own for i in pair.broken])
    kept = float((_all(unbroken) & ~fell).mean())
    return Survival(
        group, defense, robust & ~fell, right, alone, missing, flags, inert, ended, ends, outlived, most, rests, kept,
        int((robust & fell).sum()),
    )  # fmt: skip


def _compared(
    robusts: Sequence[Verdicts], attacks: Sequence[str], index: NDArray[Any]
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """What each attack leaves of these images, and how many stand under one and fall to another."""
    same = [v.value if len(v.at) == len(index) else v.value[np.searchsorted(v.at, index)] for v in robusts]
    stands = np.stack(same).astype(np.float64)
    return dict(zip(attacks, map(float, stands.mean(1)), strict=True)), (stands @ (1 - stands).T).astype(np.int64)


def _all(robusts: Sequence[Verdicts]) -> pd.Series:
    # On the images every attack has seen: an image one attack never met has no verdict to AND.
    index, value = standing(robusts)
    return pd.Series(value, index=pd.Index(index, name="index"))


@once
def worst_case(run: Results) -> pd.DataFrame:
    """One row per threat, dataset, model, seed and defense: robust accuracy under all attacks at once, and its rank.

    `foreign`: images of it that only pictures made against another system broke; `robust_accuracy` is without them.
    `of`: the most images that an attack on it or on a rival met, `n` those that all attacks on it met. `or_no_answer`:
    the accuracy if an answer that is gone (rejected, tied) were a defense, which it is not. A row is ranked
    only against rivals that faced the same attacks; one with a failed or unmeasured attack that a rival
    faced, or with a struck number, would look better than it is and stays unranked, with the reason.
    """
    rows: list[dict[str, Any]] = []
    for members in _by_group(survivals(run)):
        ranks, reasons = _ranks(members)
        most = max(member.met for member in members)
        for member in members:
            robust, clean = rate("robust_accuracy", member.robust), rate("clean_accuracy", member.clean)
            first, last = ranks.get(member.defense, (0, 0))
            rows.append(
                {
                    **dict(zip(GROUP, member.group, strict=True)),
                    "defense": member.defense,
                    "robust_accuracy": robust.value,
                    "lo": robust.lo,
                    "hi": robust.hi,
                    "k": robust.k,
                    "n": robust.n,
                    "of": most,
                    "or_no_answer": member.unbroken,
                    "foreign": member.foreign,
                    "clean_accuracy": clean.value,
                    "clean_lo": clean.lo,
                    "clean_hi": clean.hi,
                    "strongest": member.strongest,
                    "attacks": ";".join(member.alone),
                    "missing": ";".join(f"{attack}: {why}" for attack, why in member.missing.items()),
                    "flags": ";".join(f"{attack}: {names}" for attack, names in member.flags.items()),
                    "grade": member.grade,
                    "screening": member.screening,
                    "struck": member.struck,
                    "inert": member.inert,
                    "rank_first": first,
                    "rank_last": last,
                    "unranked": reasons.get(member.defense, ""),
                }
            )
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*GROUP, "defense", "rank_first", "n"])


def by_rank(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one group, the best first, unranked ones last."""
    table = table.assign(_last=table["rank_first"].replace(0, len(table) + 1))
    return table.sort_values(["_last", "robust_accuracy"], ascending=[True, False], kind="stable").drop(columns="_last")


@once
def paired(run: Results) -> pd.DataFrame:
    """Every two comparable defenses of a group on the images both met: difference, discordant images, Holm's p."""
    rows: list[dict[str, Any]] = []
    for members in _by_group(survivals(run)):
        for a, b, test, p in tested(comparable(members)[0]):
            rows.append(
                {
                    **dict(zip(GROUP, members[0].group, strict=True)),
                    "a": a.defense,
                    "b": b.defense,
                    "difference": test.difference,
                    "only_a": test.only_a,
                    "only_b": test.only_b,
                    "n": test.n,
                    "p": test.pvalue,
                    "p_holm": p,
                    "different": p < LEVEL,
                }
            )
    return pd.DataFrame(rows)


def _by_group(members: Sequence[Survival]) -> Iterator[list[Survival]]:
    groups: dict[tuple[Any, ...], list[Survival]] = {}
    for member in members:
        groups.setdefault(member.group, []).append(member)
    yield from groups.values()


def comparable(members: Sequence[Survival]) -> tuple[list[Survival], dict[str, str]]:
    """Who may be ranked: faced every attack a rival faced, and has a sound number; and why the others may not."""
    faced = {attack for member in members for attack in member.alone}
    reasons = {}
    for member in members:
        unmet = [f"{member.missing.get(attack, 'absent')} {attack}" for attack in sorted(faced - set(member.alone))]
        if unmet:
            reasons[member.defense] = "not ranked: " + ", ".join(unmet)
        elif member.struck:
            reasons[member.defense] = "not ranked: its deciding number failed a check"
        elif member.grade == "PROVISIONAL":
            reasons[member.defense] = "not ranked: an upper bound, see its flags"
    return [m for m in members if m.defense not in reasons], reasons


def tested(members: Sequence[Survival]) -> list[tuple[Survival, Survival, stats.Paired, float]]:
    """Every two members with the exact McNemar test on the images both met, and its p-value by Holm over all pairs."""
    pairs, tests = [], []
    verdicts = [Verdicts(member.robust.index.to_numpy(), member.robust.to_numpy()) for member in members]
    for (a, mine), (b, other) in combinations(zip(members, verdicts, strict=True), 2):
        first, second = shared(mine, other)
        if len(first):
            pairs.append((a, b))
            tests.append(stats.mcnemar_exact(first, second))
    adjusted = stats.holm([test.pvalue for test in tests])
    return [(a, b, test, float(p)) for (a, b), test, p in zip(pairs, tests, adjusted, strict=True)]


def _ranks(members: Sequence[Survival]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    contestants, reasons = comparable(members)
    return ranked(contestants), reasons


def ranked(members: Sequence[Survival]) -> dict[str, tuple[int, int]]:
    """The rank range of every member by its name: from 1 + the significantly better to k - the significantly worse."""
    place = {member.defense: i for i, member in enumerate(members)}
    better = np.zeros((len(place), len(place)), dtype=bool)
    for a, b, test, p in tested(members):
        if p < LEVEL:
            winner, loser = (a, b) if test.difference > 0 else (b, a)
            better[place[winner.defense], place[loser.defense]] = True
    ranges = stats.rank_ranges(better.tolist())
    return {defense: ranges[i] for defense, i in place.items()}
