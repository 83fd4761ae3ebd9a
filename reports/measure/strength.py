"""Which attacks are really stronger: every two attacks of a threat on one system, on the same images.

The exact McNemar test (McNemar 1947, Psychometrika 12(2)) on which images either broke alone, Holm-corrected over all
pairs of the threat's attacks on that system (Holm 1979, Scand. J. Statist. 6(2)), of which those against the strongest
are told: it was found on these very images, and a correction over its own pairs alone would ignore that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.maths import stats

from ..read.runs import Results, once
from .worst import GROUP, LEVEL, Survival, survivals

COLUMNS = (*GROUP, "defense", "strongest", "attack", "only_strongest", "only_attack", "n", "p", "p_holm", "stronger")


@once
def attack_pairs(run: Results) -> pd.DataFrame:
    """Each attack against the strongest of its threat on one system: images that only one of them broke, Holm's p.

    An attack whose number failed a check is in no pair, and a system that repeats another's numbers has none.
    """
    members = [(survival, kept) for survival in survivals(run) if len(kept := _kept(survival)) > 1]
    if not members:
        return pd.DataFrame(columns=list(COLUMNS))
    tables = [survival.outlived[np.ix_(kept, kept)] for survival, kept in members]
    pairs = [np.triu_indices(len(kept), 1) for _, kept in members]
    only_b = np.concatenate([table[at] for table, at in zip(tables, pairs, strict=True)])
    only_a = np.concatenate([table.T[at] for table, at in zip(tables, pairs, strict=True)])
    raw = stats.mcnemar_pvalues(only_a, only_b)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    start = 0
    for (survival, kept), table, at in zip(members, tables, pairs, strict=True):
        p = np.ones((2, *table.shape))
        part = raw[start : start + len(at[0])]
        start += len(at[0])
        p[0][at], p[1][at] = part, stats.holm(part)
        for name, values in _against(survival, kept, table, np.minimum(p, p.transpose(0, 2, 1))).items():
            columns[name] += values
    return pd.DataFrame(columns)


def _kept(survival: Survival) -> list[int]:
    if survival.inert:
        return []
    return [i for i, attack in enumerate(survival.alone) if survival.grades.get(attack) != "INVALID"]


def _against(
    survival: Survival, kept: list[int], table: NDArray[np.int64], p: NDArray[np.float64]
) -> dict[str, list[Any]]:
    names = [list(survival.alone)[i] for i in kept]
    best = min(range(len(names)), key=lambda i: survival.alone[names[i]])
    others = [i for i in range(len(names)) if i != best]
    same = {**dict(zip(GROUP, survival.group, strict=True)), "defense": survival.defense, "strongest": names[best],
            "n": len(survival.robust)}  # fmt: skip
    theirs, own, (raw, holm) = table[others, best], table[best, others], p[:, best, others]
    return {
        **{name: [value] * len(others) for name, value in same.items()}, "attack": [names[i] for i in others],
        "only_strongest": theirs.tolist(), "only_attack": own.tolist(), "p": raw.tolist(), "p_holm": holm.tolist(),
        "stronger": ((holm < LEVEL) & (theirs > own)).tolist(),
    }  # fmt: skip
