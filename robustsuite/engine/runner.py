"""Plays the cells of one system, a part at a time, and turns what was played into a record and rows."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from robustsuite.config.threats import Access
from robustsuite.engine.parts import Played, divided
from robustsuite.engine.plan import Decision
from robustsuite.errors import ENDS, OF_THE_RUN, Unsupported, UsageError
from robustsuite.integrity import probes
from robustsuite.integrity.checks import ENOUGH, Flag, concerns
from robustsuite.integrity.class_order import at_chance, class_order, over_rejecting
from robustsuite.integrity.shortcuts import shortcuts
from robustsuite.integrity.tampering import put_back
from robustsuite.maths.randomness import Rng
from robustsuite.records.cells import FILE
from robustsuite.records.pictures import Kept
from robustsuite.records.schema import CellRecord, Column, Cost, FlagFacts, Made
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.context import WIDTH, Context
from robustsuite.scenarios.kept import of_all
from robustsuite.scenarios.record import Clean, Record, joined, unattacked
from robustsuite.serve.lifecycle import fingerprint
from robustsuite.serve.models import services
from robustsuite.serve.subset import restricted
from robustsuite.serve.system import System
from robustsuite.serve.task import TASK

PROBED = 32
"""Test pictures the probes look at before a system is attacked."""

UNKNOWN = -2
"""Where a system was not asked yet; -1 is no answer."""

Done = tuple[dict[str, Any], dict[str, Any] | None, Iterable[Kept]]
"""What a cell's record becomes, its examples by column, where it has any, and the pictures that are kept."""


@dataclass
class Runner:
    """Plays the cells of one lifecycle: it is trained, served and probed once, when that is first needed.

    width: images in flight. tell: one line of progress. keep: a finding of a training, by name.
    """

    width: int
    tell: Callable[[str], None] = field(default=lambda text: None)
    keep: Callable[[str, dict[str, Any]], None] = field(default=lambda name, finding: None)
    system: System | None = None
    probed: list[Flag] | None = None
    weights: str = ""
    right: dict[str, Clean] = field(default_factory=dict)
    broken: UsageError | None = None

    def part(self, cell: Cell, rows: range) -> Played:
        """These examples of the cell; raises what its plugins raise."""
        system, device = self._serve(cell), cell.lifecycle.device
        if rows.start == 0:
            self._probe(cell, system)  # before anything else is asked
        started = time.perf_counter()
        _reset_peak(device)
        with put_back(others=True):
            record = self._play(cell, system, rows)
        shown = () if record.kept is None else (record.kept,)
        record = record._replace(x_adv=None, kept=None)  # a part that waits holds few pictures
        return Played(record, time.perf_counter() - started, _peak(device), lambda: shown)

    def joined(self, cell: Cell, parts: Sequence[Played]) -> Done:
        """What the cell's record and examples become, once all its parts have been played."""
        system = self._serve(cell)
        record = joined([part.record for part in parts])
        with put_back(others=True):  # a second look may attack a few
            context = Context(cell, system, self.width)
            record = cell.scenario.conclude(context, record)
        flags = _on_all(_noticed(self._probe(cell, system), cell, system), cell, record)
        seconds, peak = sum(part.seconds for part in parts), max(part.peak for part in parts)
        changed, examples = _recorded(cell, record, flags, seconds, peak)
        shown = chain.from_iterable(part.pictures() for part in parts)
        pictures = () if cell.threat is None else of_all(context, shown)
        return {**changed, "weights_sha256": self.weights}, examples, pictures

    def played(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole cell, part by part, without a store."""
        changed, examples, _ = self.joined(cell, [self.part(cell, rows) for rows in divided(cell)])
        return changed, examples or {}

    def _serve(self, cell: Cell) -> System:
        """Train and serve the system, once."""
        if self.broken is not None:  # no cell of it needs to train it again to hear the same
            raise self.broken
        if self.system is None:
            cell.lifecycle.tell = self.tell
            try:
                with put_back():
                    system = cell.lifecycle.served()
            except UsageError as error:
                self.broken = error
                raise
            self.weights = fingerprint(system.net)
            facts = cell.facts()
            about = {k: facts[k] for k in ("model", "defense", "dataset", "seed")}
            for name, finding in cell.lifecycle.findings.items():
                self.keep(name, {**about, "weights_sha256": self.weights, "name": name, "finding": finding})
            self.system = system
        return self.system

    def _probe(self, cell: Cell, system: System) -> list[Flag]:
        """What the system betrays before it is attacked, looked at once."""
        if self.probed is None:
            known = cell.split if cell.judged is None else cell.judged
            drawn = Rng.of(cell.lifecycle.seed, "probed", known.ids).uniform().argsort()[:PROBED]
            few = known.at(drawn.sort().values)
            x, y = few.images(torch.arange(len(few))), few.y
            x, y = x.to(system.device), y.to(system.device)
            gradients = system.surrogate if system.hides else system.net
            self.probed = []
            asks = Access.SCORES in system.shows and not (system.stochastic or system.adapts or services(system.net))
            if system.hides and asks and len(few):
                with put_back(others=True):
                    self.probed += probes.scores(system.net, x)
            if gradients is not None and len(few) and not system.adapts:  # asked, it would be another system
                with put_back(others=True):
                    self.probed += probes.probe(
                        gradients, x, y, system.space, name=cell.lifecycle.model.name, shows=system.shows,
                        grid=system.grid, rejects=system.under is not None,
                    )  # fmt: skip
                    if Access.GRADIENTS in system.shows and not system.stochastic:
                        self.probed += shortcuts(system.net, system.surrogate, x, y)
        return self.probed

    def _clean(self, system: System, cell: Cell, rows: range) -> Clean | None:
        """What the system answers to these before it is attacked or shifted: asked once for all its cells."""
        pictures = cell.split if cell.threat else cell.clean if cell.paired else None
        if pictures is None or system.adapts:
            return None
        head = cell.reading.head
        key = f"{pictures.sha256}/{cell.reading.head_words(system.space.classes)}"
        unknown = torch.full((len(pictures),), UNKNOWN)
        ok, prediction = self.right.setdefault(key, Clean(torch.zeros_like(unknown, dtype=torch.bool), unknown))
        asked = torch.arange(rows.start, rows.stop)
        new = asked[prediction[asked] == UNKNOWN]
        if len(new):
            part = pictures.at(new)
            rng = Rng.of(cell.lifecycle.seed, "clean", part.ids).to(system.device)
            if head is not None:
                system, part = restricted(system, part, head)
            with put_back(others=True):  # what the attack is compared with is not what the network made of it
                ok[new], prediction[new] = unattacked(system, part, rng, width=self.width)
        return Clean(ok[asked], prediction[asked])

    def _play(self, cell: Cell, system: System, rows: range) -> Record:
        """The record of these examples; out of memory, at half the width, then in halves."""
        step = max(1, cell.scenario.together(cell))
        while True:
            try:
                unattacked = partial(self._clean, system, cell, rows)
                return play(cell, system, width=self.width, rows=rows, unattacked=unattacked)
            except torch.OutOfMemoryError:
                if self.width == 1 and len(rows) <= step:
                    raise
            if self.width == 1:
                break
            self.width //= 2
            self.tell(f"out of memory; going on with {self.width} images in flight")
        middle = rows.start + max(step, len(rows) // 2 // step * step)
        self.tell(f"out of memory; going on with {middle - rows.start} examples at a time")
        halves = range(rows.start, middle), range(middle, rows.stop)
        return joined([self._play(cell, system, half) for half in halves])


def recorded(
    cell: Cell, decision: Decision, about: Made, made: Callable[[], Done]
) -> tuple[CellRecord, Any, Iterable[Kept]]:
    """The cell's record, its examples, where it has any, and its pictures; what a plugin raises is a status.

    So is the user's own input that does not fit this cell; OF_THE_RUN, which is of every cell, is raised.
    """
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts = about.model_copy(update={"started": started, "device": cell.lifecycle.device, "dtype": "float32"})
    stored = CellRecord(
        run_id=cell.run_id, code=decision.code, sentence=decision.sentence, same_as=decision.same_as, made=facts,
        **{"status": "failed" if decision.status == "run" else decision.status, **cell.asked()},
    )  # fmt: skip
    changed: dict[str, Any] = {}
    examples, pictures = None, cast(Iterable[Kept], ())
    if decision.status == "run":
        try:
            changed, examples, pictures = made()
        except Unsupported as error:
            changed = {"status": "refused", "code": "unsupported", "sentence": str(error)}
        except OF_THE_RUN:
            raise
        except UsageError as error:  # about this cell alone; what was mended is tried by the next run
            changed = {"status": "failed", "code": type(error).__name__, "sentence": " ".join(str(error).split())}
        except (Exception, SystemExit) as error:  # a plugin may raise anything; its cell fails, the sweep goes on
            if isinstance(error, SystemExit) and error.code in ENDS:
                raise
            changed = {"status": "failed", "code": type(error).__name__, "traceback": traceback.format_exc(),
                       "sentence": str(error).split("\n")[0][:300]}  # fmt: skip
    return stored.model_copy(update=changed), examples, pictures


def play(
    cell: Cell, system: System, *, width: int = WIDTH, rows: range | None = None,
    unattacked: Callable[[], Clean | None] = lambda: None,
) -> Record:  # fmt: skip
    """Play one cell's scenario, on these of its examples, against its served system.

    unattacked: what it answers to them unattacked, if known.
    """
    return cell.scenario.play(Context(cell, system, width, unattacked, rows))


def _recorded(
    cell: Cell, record: Record, flags: list[Flag], seconds: float, peak: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a cell's record says of what was played, and its examples by column; flags: what its system betrayed."""
    queries = int(record.columns["queries"].sum()) if "queries" in record.columns else 0
    columns = _declared(cell, record)
    record = record._replace(columns={c.name: record.columns[c.name] for c in columns})  # one order, whatever the parts
    examples = _examples(cell, record)
    return {
        "status": "done", "sentence": record.note, "columns": columns, "rows": len(examples["index"]),
        "flags": tuple(FlagFacts.model_validate(f.facts()) for f in [*flags, *record.flags]),
        "cost": Cost(seconds=seconds, peak_bytes=peak, forwards=record.forwards, backwards=record.backwards,
                     queries=queries),
    }, examples  # fmt: skip


def _noticed(probed: list[Flag], cell: Cell, system: System) -> list[Flag]:
    """What the probes and the defense's card say about this cell: masked gradients bear on gradient attacks alone."""
    card, evades = cell.attack, cell.scenario.asks
    asks = card is not None and Access.GRADIENTS in card.needs
    bears = {"all": True, "evasion": evades, "gradients": asks}
    flags = [f for f in probed if bears[concerns(f.name)] and not (f.name == "randomised" and system.stochastic)]
    loss = {**card.parameters, **dict(cell.given)}.get("loss") if card else None
    flags = [f._replace(level="warn") if f.name == "loss_vanishes" and loss != "ce" else f for f in flags]
    flags += [Flag("randomised", words, "fail") for one in services(system.net) for words in one.noticed()]
    if evades and (alone := [d.card.name for d in cell.lifecycle.at("serve") if d.card.surrogate is None]):
        flags.append(Flag("no_adaptive_attack", f"{', '.join(alone)} brings no surrogate to attack it through"))
    return flags


def _on_all(flags: list[Flag], cell: Cell, record: Record) -> list[Flag]:
    """What the verdicts on all clean pictures say besides: of the order of the classes, and of chance."""
    model, y = cell.lifecycle.model, cell.split.y.numpy()
    right = record.columns.get("clean_ok", record.columns.get("robust"))
    if right is None or len(right) != len(y) or not len(y):
        return flags
    if cell.scenario.asks and "rejected" in record.columns:
        rates = [float(d.parameters["fpr"]) for d in cell.lifecycle.at("serve") if "fpr" in d.parameters]
        refused = int((record.columns["rejected"] & ~right).sum())  # what is not right unattacked is not attacked
        flags = [*flags, *over_rejecting(refused, len(y), rates)]
    bare = model.pretrained and not cell.lifecycle.at("serve")  # a detector's rejections are no guesses
    if bare and len(y) >= ENOUGH and "clean_ok" in record.columns:
        head = cell.reading.head
        found = at_chance(int(right.sum()), len(y), model.space.classes if head is None else len(head))
        flags = [f for f in flags if f.name != "clean_at_chance"] + ([found] if found else [])
    if cell.reading.head is not None and cell.reading.head.ndim == 2:  # labels are categories, not the model's classes
        return flags
    order = class_order(model.classes, cell.lifecycle.data.classes, y, right.numpy().astype(bool))
    return [*flags, order] if order else flags


def _declared(cell: Cell, record: Record) -> tuple[Column, ...]:
    """What each column means: as the scenario says, or, of those an attack adds, what kind of number it is."""
    said = {c.name: c for c in (cell.scenario.columns if record.declared is None else record.declared)}
    order = [*(name for name in said if name in record.columns), *(n for n in record.columns if n not in said)]
    return tuple(said.get(name) or _undeclared(name, record.columns[name]) for name in order)


def _undeclared(name: str, column: Tensor) -> Column:
    kind = "bool" if column.dtype == torch.bool else "float" if column.is_floating_point() else "int"
    series, at = getattr(name, "series", ""), getattr(name, "at", None)
    return Column(name=str(name), dtype=kind, series=series, at=at)  # type: ignore[arg-type]


def _examples(cell: Cell, record: Record) -> dict[str, Any]:
    """The columns as stored: who, then what the scenario recorded."""
    subjects, rows = cell.subjects, len(next(iter(record.columns.values()), ()))
    who: dict[str, Any] = {"index": cell.split.ids.numpy()} if len(cell.split) else {"index": np.arange(rows)}
    if len(cell.split):
        who |= {name: column.numpy() for name, column in TASK.stored(cell.split).items()}
    if subjects.member is not None:
        who["split"] = np.array(subjects.splits)[subjects.member.numpy()]
    if cell.split.files:
        who[FILE] = np.array(cell.split.files)
    recorded = {str(name): column.numpy() for name, column in record.columns.items()}
    return {"run_id": [cell.run_id] * len(who["index"])} | who | recorded


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int:
    """Bytes: the device's peak since the reset; on a CPU, the most the process has held so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
