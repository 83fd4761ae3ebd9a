"""The other tables of a report as DataFrames: corruptions, curves over the radius, what was not measured, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustsuite.integrity.checks import check_of, level_of
from robustsuite.records.labels import AXES

from ..read.runs import Results, once, radius_of
from .mce import ALEXNET_EXTRA
from .scores import average, certified, measured_as, rate
from .worst import survivals

SYSTEM = ("dataset", "model", "seed", "defense")
WHAT = ("threat", *SYSTEM, "attack", "shift")
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
Images = dict[tuple[Any, ...], NDArray[np.int64]]
"""The indices of images, by norm and system."""

NORMS = ("l1", "l2", "linf")
"""The columns that an attack which seeks the nearest error has: how far it went, by every norm."""

COST = ("seconds", "forwards", "backwards", "queries", "peak_bytes")


def corruption_errors(run: Results) -> pd.DataFrame:
    """Mean error per corruption over its severities, with bootstrap intervals over images.

    One row per (shift, dataset, model, seed, defense, corruption). `clean_error` is the paired clean set's;
    `mean` closes each set, without the four extra corruptions. It is over every corruption and severity that the set
    was asked for, on any system: one that lacks a part of them, be it the hard ones, has no mean.
    """
    cells = run.cells[(run.cells["scenario"] == "shift") & run.cells["severity"].notna()]
    rows: list[dict[str, Any]] = []
    asked = {key: _graded(part) for key, part in cells.groupby(["shift", "dataset"], sort=False)}
    for key, system in cells.groupby(["shift", *SYSTEM], sort=False):
        base = dict(zip(("shift", *SYSTEM), key, strict=True))
        wrong: dict[str, pd.Series] = {}
        clean: list[float] = []
        for name, part in system.groupby("corruption", sort=False):
            errors = [run.examples(c["run_id"]) for c in _measured(run, part)]
            if len(errors) < len(part):
                continue  # a corruption with an unmeasured severity has no mean over its severities
            wrong[str(name)] = _mean_of(
                [1.0 - rows_["robust"].astype(float).set_axis(rows_["index"]) for rows_ in errors]
            )
            clean += [1.0 - float(rows_["clean_ok"].mean()) for rows_ in errors if "clean_ok" in rows_]
        clean_error = float(np.mean(clean)) if clean else float("nan")
        meant = [values for name, values in wrong.items() if name not in ALEXNET_EXTRA] or list(wrong.values())
        whole = {pair for pair in _graded(system) if pair[0] in wrong} >= asked[key[:2]]
        entries = [*wrong.items(), *([("mean", _mean_of(meant))] if whole else [])]
        for name, values in entries:
            score = average("mean_error", values)
            rows.append({**base, "corruption": name, "error": score.value, "lo": score.lo, "hi": score.hi,
                         "n": score.n, "clean_error": clean_error})  # fmt: skip
    columns = ["shift", *SYSTEM, "corruption", "error", "lo", "hi", "n", "clean_error"]
    return pd.DataFrame(rows, columns=columns)


def _graded(cells: pd.DataFrame) -> set[tuple[str, float]]:
    """The corruptions with their severities that a mean is over."""
    pairs = set(zip(cells["corruption"], cells["severity"], strict=True))
    return {pair for pair in pairs if pair[0] not in ALEXNET_EXTRA} or pairs


def _mean_of(series: Sequence[pd.Series]) -> pd.Series:
    return pd.concat(list(series), axis=1, join="inner").mean(axis=1)


def _measured(run: Results, part: pd.DataFrame) -> list[Mapping[Any, Any]]:
    found = [measured_as(run.known[run_id], run.known) for run_id in part["run_id"]]
    return [cell for cell in found if cell is not None]


def corruption_grid(run: Results) -> pd.DataFrame:
    """Accuracy per (shift, dataset, model, seed, defense, corruption, severity); NaN and a status where unmeasured."""
    cells = run.cells[(run.cells["scenario"] == "shift") & run.cells["severity"].notna()]
    rows = []
    for cell in cells.to_dict("records"):
        source = measured_as(cell, run.known)
        value = float(run.examples(source["run_id"])["robust"].mean()) if source else float("nan")
        keep = {name: cell[name] for name in ("shift", *SYSTEM, "corruption", "severity", "status")}
        rows.append({**keep, "accuracy": value, "struck": cell["grade"] == "INVALID"})
    return pd.DataFrame(rows, columns=["shift", *SYSTEM, "corruption", "severity", "status", "accuracy", "struck"])


@once
def empirical_curves(run: Results) -> pd.DataFrame:
    """Robust accuracy against the radius, one row per system, norm and radius: an upper bound from attacks.

    Minimum-norm attacks give the whole curve (per image, the smallest distance at which its right answer was lost; at
    the threat's radius it is their robust accuracy), all attacks together one point there; `kind` is `curve` or
    `point`.
    """
    return _empirical(run, None)


def _empirical(run: Results, only: Images | None) -> pd.DataFrame:
    cells = run.cells.loc[run.cells["scenario"] == "evasion", ["run_id", "threat", "budget", *SYSTEM]]
    rows: list[dict[str, Any]] = []
    for key, part in cells.groupby(["threat", "budget", *SYSTEM], sort=False):
        threat, budget, *system = key
        eps, norm = run.budgets[str(budget)]
        if eps is None or not np.isfinite(eps):
            continue
        reach = [d for d in (_reach(run.columns(c["run_id"]), eps) for c in _measured(run, part)) if d is not None]
        if reach:
            nearest = _kept(pd.concat(reach, axis=1, join="inner").min(axis=1), only, (norm, *system))
            base = {"threat": threat, "norm": norm, **dict(zip(SYSTEM, system, strict=True))}
            if nearest.empty:
                continue
            for radius in eps * np.linspace(0.0, 2.0, 41):  # the budget's own is one of them, to the last digit
                score = rate("robust_accuracy", nearest > radius)
                rows.append({**base, "kind": "curve", "radius": radius, "value": score.value, "lo": score.lo,
                             "hi": score.hi, "n": score.n})  # fmt: skip
    for survival in survivals(run):
        threat, budget, _, *system = survival.group
        eps, norm = run.budgets[str(budget)]
        stands = _kept(survival.robust, only, (norm, *system, survival.defense))
        if eps is not None and len(stands):
            score = rate("robust_accuracy", stands)
            base = {"threat": threat, "norm": norm}
            base |= dict(zip(SYSTEM, (*system, survival.defense), strict=True))
            rows.append({**base, "kind": "point", "radius": eps, "value": score.value, "lo": score.lo, "hi": score.hi,
                         "n": score.n})  # fmt: skip
    return pd.DataFrame(rows, columns=["threat", "norm", *SYSTEM, "kind", "radius", "value", "lo", "hi", "n"])


def _reach(rows: Mapping[str, NDArray[Any]], eps: float) -> pd.Series | None:
    """Per image the distance at which its right answer is lost: -1 where it is wrong already, inf where never.

    None for an attack that seeks no nearest error. At eps, the budget's radius, as many stand as the rows call robust:
    an answer that is gone (rejected, tied) is lost like one that is wrong.
    """
    if "fooled" not in rows or "distance" not in rows:
        return None
    outside = _lost_outside(rows)
    if not (set(NORMS) <= set(rows) or (outside & rows["fooled"].astype(bool)).any()):
        return None  # only an attack that seeks the nearest error measures every norm, or reports errors from outside
    distance = rows["distance"].astype(np.float64)
    beyond = np.maximum(distance, np.nextafter(eps, np.inf))  # rounding moves no image over the budget's edge
    inside = np.where(rows["robust"].astype(bool), np.inf, np.fmin(distance, eps))
    return pd.Series(np.where(rows["clean_ok"], np.where(outside, beyond, inside), -1.0), index=rows["index"])


def lost_at(rows: Mapping[str, NDArray[Any]], column: str = "distance") -> NDArray[np.float64]:
    """The distance (N,) at which an attack took each right answer: 0 where it is wrong already, inf where never.

    column: the norm to read it in, of those that the rows have.
    """
    lost = ~rows["robust"].astype(bool) | _lost_outside(rows)
    distance = np.where(lost, rows[column].astype(np.float64), np.inf)
    return np.where(rows["clean_ok"], np.nan_to_num(distance, nan=np.inf, posinf=np.inf), 0.0)


def _lost_outside(rows: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """What stands at the budget, but not where it was brought to (N,); a picture of NaN was brought nowhere."""
    robust, inside, fooled = (rows[name].astype(bool) for name in ("robust", "in_budget", "fooled"))
    gone = rows["rejected"].astype(bool) if "rejected" in rows else np.zeros_like(fooled)
    gone = gone | (rows["answer"] < 0) if "answer" in rows else gone
    lost: NDArray[np.bool_] = robust & ~inside & (fooled | gone) & ~np.isnan(rows["distance"].astype(np.float64))
    return lost


def _kept(values: pd.Series, only: Images | None, system: tuple[Any, ...]) -> pd.Series:
    """Those of a system's images that are asked for; `values` are by the image's index."""
    return values if only is None else values[values.index.isin(only.get(system, ()))]


def bounds(run: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves of proofs and of attacks on the same images: those that every certifier of a system and norm met.

    A proof that was tried on ten images says nothing beside an attack's rate on eighty others.
    """
    only: Images = {}
    for cell in _proofs(run):
        system, met = (cell["norm"], *(cell[name] for name in SYSTEM)), run.columns(cell["run_id"])["index"]
        only[system] = np.intersect1d(only[system], met) if system in only else met
    return certified_curves(run, only), _empirical(run, only)


def _proofs(run: Results) -> list[Mapping[Any, Any]]:
    return _measured(run, run.cells[run.cells["scenario"] == "certification"])


def certified_curves(run: Results, only: Images | None = None) -> pd.DataFrame:
    """Certified accuracy against the radius, one row per certification cell and radius: a lower bound from proofs.

    A curve ends where its question ends: at the budget's radius, or at the largest radius that any image has been
    given. Beyond, nothing was asked, which is not 0. only: the images of each (norm, *SYSTEM), all of them by default.
    """
    rows: list[dict[str, Any]] = []
    for cell in _proofs(run):
        examples = run.examples(cell["run_id"])
        base = {"threat": cell["threat"], "norm": cell["norm"], "certifier": cell["attack"],
                **{name: cell[name] for name in SYSTEM}, "struck": cell["grade"] == "INVALID"}  # fmt: skip
        if only is not None:
            examples = examples[examples["index"].isin(only[cell["norm"], *(cell[name] for name in SYSTEM)])]
        top = max([float(examples["radius"].max()), radius_of(cell) or 0.0]) if len(examples) else 0.0
        for radius in np.linspace(0.0, top, 81) if top > 0 else ():
            score = rate("certified_accuracy", certified(examples, radius))
            rows.append({**base, "radius": radius, "value": score.value, "lo": score.lo, "hi": score.hi, "n": score.n})
    return pd.DataFrame(rows)


@once
def names(run: Results) -> pd.DataFrame:
    """One row an entry that is not called by its name in full: axis, label, words."""
    pairs: dict[tuple[str, str], str] = {}
    for cell in run.known.values():
        asked = cell["asked"]
        pairs |= {(axis, cell[axis]): asked[axis] for axis in AXES if asked[axis] and asked[axis] != cell[axis]}
    rows = [{"axis": axis, "label": label, "words": full} for (axis, label), full in pairs.items()]
    rows.sort(key=lambda row: AXES.index(row["axis"]))
    return pd.DataFrame(rows, columns=["axis", "label", "words"])


def not_measured(run: Results) -> pd.DataFrame:
    """Every cell without a number of its own: what it is and the sentence that says why."""
    cells = run.cells[run.cells["status"] != "done"]
    return cells[["status", *WHAT, "code", "sentence", "same_as"]].reset_index(drop=True)


def flagged(run: Results) -> pd.DataFrame:
    """Every integrity flag: its cell, the check that raised it, its level and its detail."""
    rows = [
        {**{name: cell[name] for name in WHAT},
         "check": check_of(str(flag.get("name"))), "flag": str(flag.get("name", "flag")), "level": level_of(flag),
         "detail": str(flag.get("detail") or "")}
        for cell in run.known.values() for flag in cell["flags"]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*WHAT, "check", "flag", "level", "detail"])


def costs(run: Results) -> pd.DataFrame:
    """What every cell took: apart from the scores, because it differs from one run to the next."""
    names = ["run_id", *WHAT, "corruption", "severity", "status", "n", *COST, "device"]
    return run.cells.loc[run.cells["status"].isin(["done", "failed"]), names].reset_index(drop=True)


def flags_of(cell: Mapping[Any, Any]) -> str:
    """The flags of a cell with their details, for a footnote."""
    return "; ".join(f"{flag.get('name', 'flag')}: {flag.get('detail') or ''}".rstrip(": ") for flag in cell["flags"])
