"""One system under several seeds: the mean over seeds with its sample standard deviation.

A seed that failed a check (INVALID), or that lacks an attack or a corruption which another seed of the system has, is
no reading of the same quantity: it is counted, named and left out of the mean. An upper bound stays in, and makes the
mean one. Fewer than two sound seeds have no deviation. The deviation is that between seeds; it says nothing of the
images drawn, whose interval every seed has of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..read.runs import Results, once
from .scores import headline, scores
from .tables import corruption_errors
from .worst import worst_case

THREAT = ("scenario", "threat", "budget", "goal", "dataset", "model")
KEY = (*THREAT, "defense", "attack", "shift", "corruption")
"""What a mean over seeds is of; `attack` says TOGETHER for the worst case over all of a threat."""

TOGETHER = "all at once"
SOUND, INVALID, UNMEASURED = "sound", "INVALID", "unmeasured"
_READING = [*KEY, "seed", "metric", "value", "n", "state", "bound", "rate"]
COLUMNS = (*KEY, "metric", "mean", "sd", "smallest", "largest", "sound", "seeds", "invalid", "unmeasured", "left_out",
           "bound", "rate", "n")  # fmt: skip


@once
def over_seeds(run: Results) -> pd.DataFrame:
    """One row a system, threat, attack (or all at once) and metric of the threats that several seeds were asked under.

    mean, sd, smallest and largest are over the `sound` of the `seeds`; `left_out` names the others. bound: whether a
    seed in the mean is an upper bound, which makes the mean one. rate: whether the values are shares of images.
    """
    if run.cells["seed"].nunique() < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat([part for part in _readings(run) if len(part)], ignore_index=True)
    several = table.groupby(list(THREAT), sort=False)["seed"].transform("nunique") > 1
    table = table[several].copy()
    for name, state in (("sound", SOUND), ("invalid", INVALID), ("unmeasured", UNMEASURED)):
        table[name] = table["state"] == state
    table["value"] = table["value"].where(table["sound"])
    table["bound"] = table["bound"].astype(bool) & table["sound"]
    names = [*KEY, "metric"]
    found = table.groupby(names, sort=False).agg(
        mean=("value", "mean"), sd=("value", "std"), smallest=("value", "min"), largest=("value", "max"),
        sound=("sound", "sum"), seeds=("seed", "nunique"), invalid=("invalid", "sum"),
        unmeasured=("unmeasured", "sum"), bound=("bound", "any"),
        rate=("rate", "all"), n=("n", "max"),
    ).reset_index()  # fmt: skip
    out = table[~table["sound"]]
    said = ("seed " + out["seed"].astype(str) + " " + out["state"]).groupby([out[name] for name in names], sort=False)
    found = found.merge(said.agg("; ".join).rename("left_out").reset_index(), on=names, how="left")
    found["left_out"] = found["left_out"].fillna("")
    return found[list(COLUMNS)]


def _readings(run: Results) -> Iterator[pd.DataFrame]:
    """Every reading of one seed, whatever it is of, under the columns of `_READING`."""
    yield from _worst(run)
    table = scores(run)
    attacks = table[(table["scenario"] == "evasion") & (table["metric"] == "robust_accuracy")]
    yield _of_cells(attacks)
    graded = (table["scenario"] == "shift") & table["severity"].notna()
    rest = table[(table["scenario"] != "evasion") & ~graded]
    wanted = {run_id: headline(run.known[run_id]) for run_id in rest["run_id"].unique()}
    named = rest["run_id"].map(wanted)
    rest = rest.assign(metric=rest["metric"].where(rest["n"] > 0, named))
    yield _of_cells(rest[(rest["metric"] == "clean_accuracy") | (rest["metric"] == named)])
    yield _corrupted(run)


def _of_cells(rows: pd.DataFrame) -> pd.DataFrame:
    states = np.select([rows["value"].isna(), rows["grade"] == "INVALID"], [UNMEASURED, INVALID], SOUND)
    return rows.assign(state=states, bound=rows["grade"] == "PROVISIONAL",
                       rate=(rows["k"] >= 0) | rows["value"].isna())[_READING]  # fmt: skip


def _worst(run: Results) -> Iterator[pd.DataFrame]:
    """The worst case and the clean accuracy of every seed that was asked under an attack."""
    worst, cells = worst_case(run), run.cells[run.cells["scenario"] == "evasion"]
    names = [*THREAT, "defense", "seed"]
    if not len(cells) or not len(worst):
        return
    asked = cells[names].drop_duplicates()
    table = asked.merge(worst.assign(scenario="evasion"), on=names, how="left")
    systems = table.groupby(names[:-1], sort=False)["attacks"]
    faced = systems.transform(lambda met: len(set(";".join(met.dropna()).split(";")))) if _differ(table) else None
    met = table["attacks"].str.count(";") + 1
    short = table["attacks"].isna() | ((met < faced) if faced is not None else False)
    table["state"] = np.select([short, table["grade"] == "INVALID"], [UNMEASURED, INVALID], SOUND)
    inert = table["inert"].eq(True)
    table["bound"] = (table["grade"] == "PROVISIONAL") | (table["missing"].fillna("").ne("") & ~inert)
    table = table.assign(attack=TOGETHER, shift="", corruption="", rate=True)
    for metric in ("robust_accuracy", "clean_accuracy"):
        robust = metric == "robust_accuracy"
        yield table.assign(metric=metric, value=table[metric], bound=table["bound"] & robust)[_READING]


def _differ(table: pd.DataFrame) -> bool:
    """Whether the seeds of a system ever met other attacks than one another."""
    systems = table.groupby([*THREAT, "defense"], sort=False)["attacks"]
    return bool((systems.nunique() > 1).any())


def _corrupted(run: Results) -> pd.DataFrame:
    """The mean corruption error of every seed that was asked for one."""
    cells = run.cells[(run.cells["scenario"] == "shift") & run.cells["severity"].notna()]
    errors = corruption_errors(run) if len(cells) else pd.DataFrame()
    if not len(errors):
        return pd.DataFrame(columns=_READING)
    system = ["dataset", "model", "defense", "shift", "seed"]
    doubted = cells.assign(invalid=cells["grade"] == "INVALID", bound=cells["grade"] == "PROVISIONAL")
    asked = doubted.groupby([*KEY[:4], *system], sort=False).agg(
        invalid=("invalid", "any"), bound=("bound", "any"), asked=("corruption", "nunique")
    ).reset_index()  # fmt: skip
    each = errors[errors["corruption"] != "mean"].groupby(system, sort=False).size().rename("met").reset_index()
    means = errors.loc[errors["corruption"] == "mean", [*system, "error", "n"]]
    table = asked.merge(each, on=system, how="left").merge(means, on=system, how="left")
    short = table["met"].isna() | (table["met"] < table["asked"])
    table["state"] = np.select([short, table["invalid"]], [UNMEASURED, INVALID], SOUND)
    return table.assign(attack="", corruption="mean", metric="mean_error", value=table["error"], rate=True)[_READING]
