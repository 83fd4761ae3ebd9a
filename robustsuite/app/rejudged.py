"""The kept pictures put to the model again, and the clean ones, for `robustsuite verify --model` and `--sweep`.

With a model alone what stands behind no defense is judged; with the sweep every system is planned, trained (or taken
from what was kept of its trainings) and served anew, and every example's label and clean answer are read again too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustsuite.engine.execute import ordered
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import read_sweep
from robustsuite.errors import BadData, BadValue
from robustsuite.maths.numerics import float32, threads
from robustsuite.maths.randomness import Rng
from robustsuite.records.cells import read_sweep as read_facts
from robustsuite.records.examples import Examples
from robustsuite.records.folder import cells_of
from robustsuite.records.packed import SOME
from robustsuite.records.pictures import FOLDER, Kept, read_pictures
from robustsuite.records.schema import CellRecord
from robustsuite.records.seal import Finding, named
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import WIDTH, Context, fitting
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.lifecycle import fingerprint
from robustsuite.serve.models import Model, load_model
from robustsuite.serve.oracle import answer
from robustsuite.serve.system import System
from robustsuite.serve.task import finite

SURE = 1e-4
"""A margin below this, relative to the largest logit where that exceeds 1, is left to rounding and to devices."""

MOST_DRAWS = 0.8
"""Of a random system's answers, how many must say the same."""

Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]


@dataclass
class Rejudged:
    """How many kept pictures were judged again, what is wrong, and which cells were not judged, and why."""

    pictures: int = 0
    found: list[Finding] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Stored:
    """A cell as it is stored. shape: (C, H, W) of its pictures, None where none are kept."""

    folder: Path
    record: CellRecord
    rows: pd.DataFrame

    def pictures(self) -> Iterator[Kept]:
        """Those that are kept; raises BadData where they cannot be read."""
        if self.record.pictures:
            yield from read_pictures(self.folder / FOLDER / f"{self.record.run_id}.parquet")

    def at(self, part: Kept) -> pd.DataFrame:
        """The rows of these pictures; raises BadData where one has none."""
        rows = self.rows.set_index("index").reindex(part.ids)
        if rows["label"].isna().any():
            raise BadData("pictures of examples that it has no rows of")
        return rows


def _stored(folder: Path) -> Iterator[_Stored]:
    examples = Examples(folder, SOME)
    for cell in cells_of(folder, examples):
        if cell.record is not None and cell.record.status == "done":
            rows = examples.frame(cell.name, cell.place) if cell.place is not None else cell.frame
            if rows is not None:
                yield _Stored(folder, cell.record, rows)


@float32()
@threads()
def by_models(folder: Path, specs: Sequence[str], device: str) -> Rejudged:
    """Judge the kept pictures of undefended cells with these models. Raises BadModel or BadValue for one that fails.

    A model whose weights no cell was measured with is another one, which is said.
    """
    done, entries = Rejudged(), [s.entries.get("dataset", {}) for s in read_facts(folder).shares()]
    classes = {words: len(entry.classes) for known in entries for words, entry in known.items()}
    loaded: dict[tuple[str, InputSpace], Model] = {}
    strangers, seen = set(specs), set[str]()
    for cell in _stored(folder):
        record = cell.record
        seen.add(record.model.sha256)
        if why := _beyond(record, classes.get(record.data.name, 0)):
            done.left_out.append(f"{record.run_id}: {why}")
            continue
        try:
            for part in cell.pictures():
                channels, height, width = part.clean.shape[1:]
                space = InputSpace(channels, height, width, classes[record.data.name])
                for spec in specs:
                    if (spec, space) not in loaded:
                        loaded[spec, space] = load_model(spec, space)
                models = [loaded[spec, space] for spec in specs]
                strangers -= {spec for spec, model in zip(specs, models, strict=True) if model.sha256 in seen}
                same = next((model for model in models if model.sha256 == record.model.sha256), None)
                if same is None:
                    done.left_out.append(f"{record.run_id}: of another model, {record.model.name}")
                    break
                _judge_part(done, cell, part, same, device)
        except BadData as error:
            done.found.append(Finding(record.run_id, str(error)))
    for spec in strangers:
        mine = sorted({model.sha256[:16] for (asked, _), model in loaded.items() if asked == spec})
        if mine:
            theirs = ", ".join(sorted(sha[:16] for sha in seen if sha)) or "none"
            said = f"its weights ({mine[0]}...) are those of no cell: the records say {theirs}"
            done.found.append(Finding(spec, said))
    return done


def _beyond(record: CellRecord, classes: int) -> str:
    """Why a model alone cannot judge a cell again; '' where it can."""
    if not record.pictures:
        return "no picture of it is kept"
    if record.defenses:
        return f"behind {record.defense_words()}, judged again by --sweep"
    if record.scenario.name != "evasion" or (record.threat and record.threat.goal.name != "untargeted"):
        return "what is asked of it stands in the sweep, judged again by --sweep"
    if not record.model.sha256:
        return "its model is trained by the sweep, judged again by --sweep"
    return "" if classes else "its run does not say how many classes there are, judged again by --sweep"


def _judge_part(done: Rejudged, cell: _Stored, part: Kept, model: Model, device: str) -> None:
    rows, streams = cell.at(part), Rng.of(cell.record.seed, "verify", torch.tensor(part.ids)).to(device)
    judge = Judge(model.net.to(device).eval(), stochastic=False, width=WIDTH)
    y = torch.tensor(rows["label"].to_numpy(np.int64)).to(device)
    done.pictures += len(part.ids)
    done.found += _attacked(cell.record, part, rows, judge, y, streams)
    now = _surely(judge, torch.tensor(part.clean).to(device), y, streams)
    done.found += _differs(cell.record, part.ids, rows["clean_ok"].to_numpy(bool), now)


def _attacked(
    record: CellRecord, part: Kept, rows: pd.DataFrame, judge: Judge, y: Tensor, rng: Rng
) -> Iterator[Finding]:
    """Where the judge says another thing of an attacked picture than its row; y: what `judge.margin` compares with."""
    said = {name: rows[name].to_numpy(bool) for name in ("clean_ok", "robust", "fooled", "in_budget")}
    broken, stands = said["clean_ok"] & said["fooled"] & said["in_budget"], said["robust"] & said["in_budget"]
    wrong, held = _surely(judge, torch.tensor(part.adversarial).to(y.device), y, rng)
    if (off := broken & held | stands & wrong).any():
        yield Finding(record.run_id, f"kept pictures that the model answers otherwise now: {named(part.ids[off])}")


def _differs(record: CellRecord, ids: Ids, right: Flags, now: tuple[Flags, Flags]) -> Iterator[Finding]:
    """Where pictures (N,) that nobody attacked were right and are surely wrong now, or the other way round."""
    wrong, held = now
    if (off := right & wrong | ~right & held).any():
        yield Finding(record.run_id, f"pictures that nobody attacked, answered otherwise now: {named(ids[off])}")


def _surely(judge: Judge, x: Tensor, y: Tensor, rng: Rng) -> tuple[Flags, Flags]:
    """Which pictures (M,) are surely answered wrong, and which surely right.

    Neither is a tie, what hangs on a margin that another machine's arithmetic may move, or on a few draws.
    """
    if judge.stochastic:
        now = judge(x, y, rng)
        wrong, held = now.share >= MOST_DRAWS, now.held & (now.share <= 1 - MOST_DRAWS)
    else:
        parts = torch.arange(len(x), device=x.device).split(judge.width)
        with torch.no_grad():
            logits = torch.cat([answer(judge.net, x[i], rng[i]) for i in parts])
        margin, sure = judge.margin(finite(logits), y), SURE * finite(logits).abs().amax(1).clamp_min(1)
        said = logits.isfinite().all(1)
        wrong, held = said & (margin > sure), said & (margin < -sure)
    return wrong.cpu().numpy(), held.cpu().numpy()


def _unattacked(judge: Judge, split: Split, device: str, rng: Rng) -> tuple[Flags, Flags]:
    """The same of all pictures (N,) of a split."""
    parts = [_surely(judge, x, y, rng[i]) for i, x, y in split.batches(judge.width, device)]
    return np.concatenate([wrong for wrong, _ in parts]), np.concatenate([held for _, held in parts])


@float32()
@threads()
def by_sweep(folder: Path, file: Path, device: str, first: int | None) -> Rejudged:
    """Plan the sweep again and judge with every system of it: labels, clean answers, and the pictures that are kept.

    first: as the run was told. Raises UsageError for a sweep that cannot be planned, BadValue for one of another run.
    """
    done, stored = Rejudged(), {cell.record.run_id: cell for cell in _stored(folder)}
    every = list(ordered(plan(read_sweep(file), device, first)))
    planned = [cell for cell, _ in every if cell.run_id in stored]
    if not planned:
        raise BadValue(
            f"expected the sweep that {str(folder)!r} was run from, got {str(file)!r}, which plans none of its cells; "
            f"were --first, the files and the versions the same?"
        )
    for _, group in groupby(planned, key=lambda cell: id(cell.lifecycle)):
        members = list(group)
        _of_one_system(done, members[0].lifecycle.served(), [(cell, stored[cell.run_id]) for cell in members])
    left = set(stored) - {cell.run_id for cell in planned}
    done.left_out += [f"{name}: not of this sweep" for name in sorted(left)]
    run = {cell.run_id for cell, decision in every if decision.status == "run"}
    done.left_out += [f"{name}: it has no rows, and the sweep would run it" for name in sorted(run - set(stored))]
    return done


def _of_one_system(done: Rejudged, system: System, members: Sequence[tuple[Cell, _Stored]]) -> None:
    """Judge these cells, which share a served system."""
    weights, known = fingerprint(system.net), dict[str, tuple[Flags, Flags]]()
    for cell, kept in members:
        record = kept.record
        if record.weights_sha256 and weights != record.weights_sha256:
            before = record.weights_sha256[:16]
            said = f"the system has other weights now ({weights[:16]}...) than its record says ({before}...)"
            done.found.append(Finding(record.run_id, said))
        done.found += (*_asked_for(cell, record), *_labels(cell, kept))
        if cell.scenario.name not in ("evasion", "shift") or system.adapts:
            done.left_out.append(f"{record.run_id}: {cell.scenario.name} is not played again")
            continue
        done.found += _clean(cell, system, kept, known)
        try:
            for part in kept.pictures():
                done.pictures += len(part.ids)
                put = asked(cell, system, part)
                done.found += _attacked(record, part, kept.at(part), put.judge, put.targets, put.rng)
        except BadData as error:
            done.found.append(Finding(record.run_id, str(error)))


def _clean(
    cell: Cell, system: System, kept: _Stored, known: dict[str, tuple[Flags, Flags]]
) -> Iterator[Finding]:  # fmt: skip
    """Whether pictures that nobody attacked are answered as the rows say: shifted ones, or those an attack began with.

    Of a random system under a shift one draw was asked, which says nothing of another.
    """
    context = Context(cell, system, fitting(cell))
    served, split, shifted = context.served(), context.split, cell.scenario.name == "shift"
    if shifted and served.stochastic:
        return
    key = f"{cell.split.sha256}/{cell.reading.head_words(system.space.classes)}"
    if key not in known:
        judge = Judge(served.net, stochastic=served.stochastic, width=context.width, under=served.under)
        streams = Rng.of(cell.lifecycle.seed, "clean", split.ids).to(served.device)  # as they were asked then
        known[key] = _unattacked(judge, split, served.device, streams)
    column = "robust" if shifted else "clean_ok"
    right = pd.Series(kept.rows[column].to_numpy(bool), index=kept.rows["index"]).reindex(split.ids.numpy())
    if not right.isna().any():  # `_labels` says so
        yield from _differs(kept.record, split.ids.numpy(), right.to_numpy(bool), known[key])


def _asked_for(cell: Cell, record: CellRecord) -> Iterator[Finding]:
    """Where the record says that it was asked another thing than the sweep asks."""
    for name, value in cell.asked().items():
        if name != "sweep" and getattr(record, name) != value:
            yield Finding(record.run_id, f"its record's {name} is not what the sweep asks for")


def _labels(cell: Cell, kept: _Stored) -> Iterator[Finding]:
    if "label" not in kept.rows:
        return
    ids = cell.split.ids.numpy()
    meant = pd.Series(cell.split.y.numpy(), index=ids).reindex(kept.rows["index"].to_numpy())
    off = meant.isna().to_numpy() | (meant.to_numpy() != kept.rows["label"].to_numpy())
    if off.any():
        said = f"other labels than the data set has: {named(kept.rows['index'].to_numpy()[off])}"
        yield Finding(kept.record.run_id, said)
    if len(kept.rows) != len(ids):
        yield Finding(kept.record.run_id, f"{len(kept.rows)} rows, where the sweep asks about {len(ids)} examples")


class Asked(NamedTuple):
    """The judge of a cell, what its goal's margin compares answers with (N, K), streams, and the examples.

    system: as it is judged, its head cut where the cell's is.
    """

    judge: Judge
    targets: Tensor
    rng: Rng
    split: Split
    system: System


def asked(cell: Cell, system: System, part: Kept) -> Asked:
    """How these pictures are put to a cell's system; raises BadData for an example that the cell has not."""
    place = {int(example): i for i, example in enumerate(cell.split.ids)}
    try:
        rows = torch.tensor([place[int(example)] for example in part.ids])
    except KeyError as error:
        raise BadData(f"a picture of example {error.args[0]}, which the sweep does not ask about") from error
    context = Context(replace(cell, subjects=cell.subjects.on(cell.split.at(rows))), system, fitting(cell))
    served, rng, goal = context.served(), context.rng, context.threat.goal
    targets = goal.targets(context.split.y.to(served.device), served.space.classes, rng.fold("targets"))
    judge = Judge(served.net, stochastic=served.stochastic, width=context.width, under=served.under, margin=goal.margin)
    return Asked(judge, targets, rng.fold("judge"), context.split, served)
