"""Threats that differ in their radius alone, joined: the worst case over attacks as a function of the radius."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from robustsuite.records.schema import CellRecord

from ..read.runs import Results, once, radius_of
from .seeds import TOGETHER, over_seeds
from .worst import worst_case

SYSTEM = ("dataset", "model", "defense")
FAMILY = ("threats", "access", "goal", "norm")
COLUMNS = (*FAMILY, *SYSTEM, "eps", "robust_accuracy", "lo", "hi", "sd", "seeds", "grade", "n")


@once
def over_eps(run: Results) -> pd.DataFrame:
    """One row a family of threats, system and radius, sorted by radius; radius 0 is the clean accuracy.

    A family has one access, goal, norm and set of attacks, and at least two radii. lo and hi are the exact 95 %
    interval of one seed; of several seeds the smallest and the largest, beside the mean and the deviation `sd`.
    """
    families = _families(run)
    if not len(families):
        return pd.DataFrame(columns=list(COLUMNS))
    both = pd.concat([_single(run), _several(run)], ignore_index=True)
    robust = families.merge(both[both["metric"] == "robust_accuracy"], on=["threat", "budget", "goal"])
    clean = families.merge(both[both["metric"] == "clean_accuracy"], on=["threat", "budget", "goal"])
    clean = clean.sort_values("eps", kind="stable").drop_duplicates(["family", *SYSTEM]).assign(eps=0.0)
    found = pd.concat([clean, robust], ignore_index=True)
    order = found.groupby(["family", *SYSTEM], sort=False).ngroup()
    found = found.assign(_at=order).sort_values(["family", "_at", "eps"], kind="stable")
    return found[list(COLUMNS)].reset_index(drop=True)


def _families(run: Results) -> pd.DataFrame:
    """threat, budget, goal, eps, norm, access, threats and a number a family, for every threat that has a family."""
    rows: list[dict[str, Any]] = []
    cells = run.cells.loc[run.cells["scenario"] == "evasion", ["run_id", "threat", "budget", "goal", "shift", "attack"]]
    for (threat, budget, goal), part in cells.groupby(["threat", "budget", "goal"], sort=False):
        first = run.known[part["run_id"].iloc[0]]
        record: CellRecord = first["record"]
        eps = radius_of(first)
        if eps is None or record.threat is None:
            continue
        rest = record.threat.budget.model_copy(update={"eps": None}).model_dump_json()
        attacks = tuple(sorted(part["attack"].unique()))
        key = (first["access"], goal, first["norm"], rest, first["shift"], attacks)
        rows.append({"threat": threat, "budget": budget, "goal": goal, "eps": eps, "norm": first["norm"],
                     "access": first["access"], "family": key})  # fmt: skip
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    table = table.drop_duplicates(["family", "eps"])
    table = table[table.groupby("family")["eps"].transform("size") > 1]
    names = table.sort_values("eps", kind="stable").groupby("family")["threat"].agg(", ".join)
    return table.assign(threats=table["family"].map(names), family=pd.factorize(table["family"])[0])


def _single(run: Results) -> pd.DataFrame:
    """The worst cases of systems that were asked under one seed, robust and clean."""
    worst = worst_case(run)
    means = _several(run)
    if len(means) and len(worst):
        known = set(zip(*(means[name] for name in ("threat", "budget", "goal", *SYSTEM)), strict=True))
        mine = zip(*(worst[name] for name in ("threat", "budget", "goal", *SYSTEM)), strict=True)
        worst = worst[[system not in known for system in mine]]
    parts = []
    if len(worst):
        bound = (worst["grade"] != "INVALID") & worst["missing"].ne("") & ~worst["inert"].astype(bool)
        grade = np.where(bound, "PROVISIONAL", worst["grade"])
        for metric, lo, hi in (("robust_accuracy", "lo", "hi"), ("clean_accuracy", "clean_lo", "clean_hi")):
            robust = metric == "robust_accuracy"
            parts.append(worst.assign(metric=metric, robust_accuracy=worst[metric], lo=worst[lo], hi=worst[hi],
                                      sd=np.nan, seeds=1, grade=grade if robust else ""))  # fmt: skip
    names = ["threat", "budget", "goal", *SYSTEM, "metric", *COLUMNS[8:]]
    return pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)


def _several(run: Results) -> pd.DataFrame:
    """The means of systems that were asked under several seeds, robust and clean; seeds counts those in the mean."""
    means = over_seeds(run)
    means = means[(means["scenario"] == "evasion") & (means["attack"] == TOGETHER)]
    grade = np.select([means["sound"] == 0, means["bound"].astype(bool)], ["INVALID", "PROVISIONAL"], "")
    found = means.assign(robust_accuracy=means["mean"], lo=means["smallest"], hi=means["largest"],
                         seeds=means["sound"], grade=grade)  # fmt: skip
    return found[["threat", "budget", "goal", *SYSTEM, "metric", *COLUMNS[8:]]]
