"""Is a new run worse than the one before? The same cells, the same images, an exact paired test for each cell.

Cells are matched by what was asked (threat, data, model, defense, attack, shift), of several that are called alike
those of the same hash of pictures and model first; examples by their index. Each cell is tested by the exact two-sided
McNemar test (McNemar 1947, Psychometrika 12(2)) and the p-values are corrected over the whole comparison (Holm 1979,
Scand. J. Statist. 6(2)), so a run that changed nothing is called worse in at most one comparison of twenty, however
many cells it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from robustsuite.errors import BadData
from robustsuite.maths import stats
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord
from robustsuite.records.twins import model_of

from ..read.runs import Results, radius_of
from ..render.text import interval, number, percent, points, pvalue
from .kinds import SEED, statistic
from .scores import certified
from .tables import flags_of

LEVEL = 0.05
MCNEMAR, BOOTSTRAP = "exact McNemar", "paired bootstrap"
ASKED = ("threat", "scenario", "budget", "goal", "dataset", "defense", "attack", "shift", "corruption", "severity")
FREE = ("model", "seed")
"""Axes that may differ where each run has one value only: the model before and after, another seed."""
COLUMNS = (
    *ASKED, *FREE, "metric", "base", "new", "lo", "hi", "difference", "only_base", "only_new", "n", "p", "p_holm",
    "outcome", "run_id", "base_run_id", "plugin", "test",
)  # fmt: skip

Cell = Mapping[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """One row a cell and metric in `cells` (outcome: loss, gain or same); `unpaired` says what could not be compared.

    `unpaired` holds (run_id in base, name, reason) of cells the base run measured; `extra` counts those only in new.
    """

    base: str
    new: str
    cells: pd.DataFrame
    unpaired: tuple[tuple[str, str, str], ...] = ()
    extra: int = 0

    @property
    def losses(self) -> pd.DataFrame:
        """The cells that are significantly worse."""
        return self.cells[self.cells["outcome"] == "loss"]

    @property
    def exit_code(self) -> int:
        """1 on a significant loss, 3 where a cell of the base has no counterpart, else 0."""
        return 1 if len(self.losses) else 3 if self.unpaired else 0


def compare(base: Results, new: Results) -> Comparison:
    """Every measured cell of `base` against its counterpart in `new`; raises BadData where not one can be paired."""
    rows: list[dict[str, Any]] = []
    unpaired: list[tuple[str, str, str]] = []
    pairs, extra = _paired(base, new)
    absent = _absences(new)
    for cell, twin in pairs:
        if isinstance(twin, str):
            unpaired.append((str(cell["run_id"]), title(cell), absent.get(_key(cell, ASKED), twin)))
            continue
        if twin["grade"] == "INVALID" != cell["grade"]:
            unpaired.append((str(cell["run_id"]), title(cell), f"the new number failed a check: {flags_of(twin)}"))
            continue
        found = list(_tests(cell, twin, base, new))
        if found:
            rows += found
        else:
            unpaired.append((str(cell["run_id"]), title(cell), "its rows hold no verdict an image, or other images"))
    if not rows:
        why = unpaired[0][2] if unpaired else "the base run measured nothing"
        raise BadData(f"expected a cell that both runs measured, got none ({why}); compare two runs of one sweep")
    table = pd.DataFrame(rows)
    table["p_holm"] = stats.holm(table["p"])
    real = table["p_holm"] < LEVEL
    table["outcome"] = [
        "same" if not found else "loss" if change < 0 else "gain"
        for found, change in zip(real, table["difference"] * table["toward"], strict=True)
    ]
    return Comparison(base.title, new.title, table[list(COLUMNS)], tuple(unpaired), extra)


def _paired(base: Results, new: Results) -> tuple[list[tuple[Cell, Cell | str]], int]:
    """Each cell of `base` with its counterpart, or why it has none; and how many of `new` are left.

    An inert cell repeats another's number and is no second test.
    """
    free = [axis for axis in FREE if base.cells[axis].nunique() == 1 and new.cells[axis].nunique() == 1]
    names = [*ASKED, *(axis for axis in FREE if axis not in free)]
    left, right = ({i: c for i, c in run.known.items() if c["status"] == "done"} for run in (base, new))
    found: dict[str, Cell | str] = {}
    for hashes in (("data", "model"), ("data",), ("model",), ()):
        mine, theirs = (_called(cells, names, hashes) for cells in (left, right))
        for key, ids in mine.items():
            others = theirs.get(key, [])
            if len(ids) == len(others) == 1:
                found[ids[0]] = right.pop(others[0])
                del left[ids[0]]
            elif others and not hashes:
                why = f"{len(ids)} cells of this name, {len(others)} in the new run; no hash says which is which"
                found |= dict.fromkeys(ids, why)
    return [(c, found.get(i, "not in the new run")) for i, c in base.known.items() if c["status"] == "done"], len(right)


def _called(
    cells: Mapping[str, Cell], names: Sequence[str], hashes: Sequence[str]
) -> dict[tuple[Any, ...], list[str]]:
    """The run ids by what was asked and the hashes of their pictures and models."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for run_id, cell in cells.items():
        record = cell["record"]
        own = [record.data.sha256 if kind == "data" else model_of(record) for kind in hashes]
        found.setdefault((*_key(cell, names), *own), []).append(run_id)
    return found


def _key(cell: Mapping[Any, Any], names: Sequence[str]) -> tuple[Any, ...]:
    asked = flat(cell["record"])  # in full: what a run calls its entries is its own affair
    return tuple("" if asked[name] is None else asked[name] for name in names)


def _absences(new: Results) -> dict[tuple[Any, ...], str]:
    """Why the new run has no number, by what was asked; of several cells the first says it."""
    found: dict[tuple[Any, ...], str] = {}
    for cell in (cell for cell in new.known.values() if cell["status"] != "done"):
        said = f"{cell['status']} in the new run: {cell['sentence'] or 'no sentence'}"
        found.setdefault(_key(cell, ASKED), said)
    return found


def _tests(cell: Mapping[Any, Any], twin: Mapping[Any, Any], base: Results, new: Results) -> Iterator[dict[str, Any]]:
    """One row a verdict that both cells hold for the same images; nothing where the images are others."""
    if _other_pictures(cell["record"], twin["record"]):
        return
    before, after = base.examples(cell["run_id"]).set_index("index"), new.examples(twin["run_id"]).set_index("index")
    both = before.index.intersection(after.index)
    if not len(both) or not (before.loc[both, "label"] == after.loc[both, "label"]).all():
        return
    asked = {name: twin[name] for name in (*ASKED, *FREE)}
    ids = {"run_id": twin["run_id"], "base_run_id": cell["run_id"], "plugin": _plugin(twin)}
    yield from ({**asked, **row, **ids} for row in _resampled(cell, before.loc[both], after.loc[both]))
    olds, news = defended(cell, before.loc[both]), defended(twin, after.loc[both])
    for metric in (name for name in olds if name in news):
        meant = olds[metric].index.intersection(news[metric].index)
        old, fresh = olds[metric].loc[meant], news[metric].loc[meant]
        test = stats.mcnemar_exact(fresh.to_numpy(bool), old.to_numpy(bool))
        k = int(fresh.sum())
        lo, hi = stats.clopper_pearson(k, test.n)
        yield {
            **asked, **ids, "metric": metric, "toward": 1, "test": MCNEMAR, "base": float(old.mean()),
            "new": k / test.n, "lo": lo, "hi": hi, "difference": test.difference, "only_base": test.only_b,
            "only_new": test.only_a, "n": test.n, "p": test.pvalue,
        }  # fmt: skip


def _other_pictures(old: CellRecord, new: CellRecord) -> bool:
    """Whether as many pictures of one data set's name are not the same ones; a shift's may differ with the seed."""
    shifted = any(r.data.stream or (r.shift and r.shift.name != "clean") for r in (old, new))
    known = old.data.sha256 and new.data.sha256 and old.data.n == new.data.n
    return bool(known and not shifted and old.data.sha256 != new.data.sha256)


def _resampled(cell: Mapping[Any, Any], old: pd.DataFrame, new: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Compared scores that no single example decides (a mean, an AUC), by the paired bootstrap over the examples."""
    for column in cell["record"].columns:
        for scoring in (s for s in column.scores if s.compared and s.kind not in ("rate", "beyond")):
            if column.better == "neither" or column.name not in old or column.name not in new:
                continue
            value = statistic(column, scoring)
            difference = resampled_difference(value, old, new)
            base, now = value(old), value(new)
            lo, hi = stats.resampled_interval(lambda i, of=value: of(new.iloc[i]), len(new), SEED)  # type: ignore[misc]
            toward = 1 if column.better == "more" else -1
            yield {
                "metric": scoring.name, "base": base, "new": now, "lo": lo, "hi": hi, "difference": now - base,
                "only_base": 0, "only_new": 0, "n": len(new), "toward": toward, "test": BOOTSTRAP,
                "p": 1.0 if base == now else stats.resampled_test(difference, len(new), SEED),
            }  # fmt: skip


def resampled_difference(
    value: Callable[[pd.DataFrame], float], old: pd.DataFrame, new: pd.DataFrame
) -> Callable[[Any], float]:
    """positions -> how far the score of the new rows is above that of the old ones, on the same examples."""
    return lambda i: value(new.iloc[i]) - value(old.iloc[i])


def _plugin(cell: Mapping[Any, Any]) -> str:
    """The attack's, corruption's or shift set's own name."""
    attack, shift = cell["record"].attack, cell["record"].shift
    return str(attack.name if attack else cell["corruption"] or (shift and shift.name) or "clean")


def defended(cell: Mapping[Any, Any], rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Per example, True where the defender stands, by the name of each compared score that has a verdict an example."""
    found: dict[str, pd.Series] = {}
    for column in cell["record"].columns:
        for scoring in (s for s in column.scores if s.compared and column.name in rows):
            meant = rows[rows[scoring.where].astype(bool)] if scoring.where else rows
            if scoring.kind == "beyond":
                radius = radius_of(cell) or 0.0
                stands = pd.Series(certified(rows, radius, scoring.by), index=rows.index)
                found[f"{scoring.name}@{radius:.6g}"] = stands
            elif scoring.kind == "rate" and len(meant):
                good = meant[column.name].astype(bool)
                found[scoring.name] = ~good if column.better == "less" else good
    return found


def title(cell: Mapping[Any, Any]) -> str:
    """A cell in words: 'linf: pgd(steps=50) on none, recipe:lenet5, digits'."""
    what = cell["attack"] or " ".join(str(cell[k]) for k in ("shift", "corruption") if cell[k]) or "clean"
    if cell["corruption"] and not pd.isna(cell["severity"]):
        what += f" {cell['severity']:.0f}"
    threat = f"{cell['threat']}: " if cell["threat"] else ""
    return f"{threat}{what} on {cell['defense']}, {cell['model']}, {cell['dataset']}"


def sentence(row: Mapping[Any, Any]) -> str:
    """What the test found, for a person."""
    if row["test"] == BOOTSTRAP:
        return (
            f"{number(row['base'])} before, {number(row['new'])} now ({number(row['lo'])}–{number(row['hi'])}) "
            f"on {row['n']} images, p = {pvalue(row['p_holm'])} ({BOOTSTRAP}, Holm)"
        )
    return (
        f"{percent(row['base'])} before, {percent(row['new'])} now ({interval(row['lo'], row['hi'])}): "
        f"{points(row['difference'])} on {row['n']} images, {row['only_base']} lost and {row['only_new']} won, "
        f"p = {pvalue(row['p_holm'])} ({MCNEMAR}, Holm)"
    )
