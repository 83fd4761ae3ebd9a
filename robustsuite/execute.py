"""Run the planned cells: what shares a training side by side, each stored as it ends, resumed by what is stored."""

from __future__ import annotations

import math
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from robustsuite import probes, provenance
from robustsuite.checks import Flag, concerns
from robustsuite.errors import Unsupported, UsageError
from robustsuite.lifecycle import fingerprint
from robustsuite.methods.federated import Learnt
from robustsuite.numerics import float32
from robustsuite.oracle import TILE
from robustsuite.plan import COMMON, Cell, Verdict
from robustsuite.randomness import Rng
from robustsuite.scenarios import certification, evasion, inversion, poisoning, shift, unlearnable
from robustsuite.scenarios.record import Record
from robustsuite.store import Store
from robustsuite.subset import restricted
from robustsuite.system import System
from robustsuite.threats import Access
from robustsuite.training import EPOCHS

WIDTH = 256
"""Images in flight at the most; halved, for the rest of the run, whenever the device is out of memory."""

CPU_VALUES = 1 << 20
"""Pixel values in flight on a CPU: more only costs memory traffic there (256 pictures at 32 px, 8 at 224 px)."""

PROBED = 32
"""Test pictures the probes look at before a system is attacked."""

LEARNT = Learnt()
"""What short federated trainings reached, each run once in a process."""


@dataclass
class Progress:
    """What a display is told: the cell that starts, and each cell that ended with its stored row."""

    starts: Callable[[Cell], None] = field(default=lambda cell: None)
    ends: Callable[[Cell, dict[str, Any]], None] = field(default=lambda cell, row: None)
    tell: Callable[[str], None] = field(default=lambda text: None)


@float32()
def execute(
    cells: list[tuple[Cell, Verdict]], store: Store, progress: Progress | None = None, *, width: int | None = None
) -> int:
    """Compute every cell the store does not hold yet. Returns how many were computed.

    A cell that raises becomes a `failed` row with its traceback and the sweep goes on; only the user's own input (a
    picture that cannot be read, a full disk) ends it, with a UsageError, and what is stored stays.
    """
    progress = progress or Progress()
    about = provenance.collect()
    missing = [(cell, verdict) for cell, verdict in cells if not store.finished(cell.run_id)]
    computed = 0
    for _, group in groupby(missing, key=lambda pair: id(pair[0].lifecycle)):
        members = list(group)
        runner = _Runner(store, progress, about, width or fitting(members[0][0]))
        before = runner.width
        for cell, verdict in members:
            runner.run(cell, verdict)
            computed += 1
        width = runner.width if runner.width < before else width
    return computed


def fitting(cell: Cell) -> int:
    """How many of the cell's pictures to keep in flight where the user does not say."""
    if not cell.lifecycle.device.startswith("cpu"):
        return WIDTH
    return max(TILE, min(WIDTH, CPU_VALUES // math.prod(cell.lifecycle.model.space.shape)))


@dataclass
class _Runner:
    """Plays the cells of one lifecycle: it is trained, served and probed once, when the first cell needs it."""

    store: Store
    progress: Progress
    about: dict[str, Any]
    width: int
    system: System | None = None
    probed: list[Flag] = field(default_factory=list)
    weights: str = ""
    verdicts: dict[str, Tensor] = field(default_factory=dict)

    def run(self, cell: Cell, verdict: Verdict) -> None:
        """Compute and store one cell."""
        self.progress.starts(cell)
        row = {
            **{k: v for k, v in cell.facts().items() if k != "model_sha256"},
            **self.about, "run_id": cell.run_id, "sweep": cell.sweep, "device": cell.lifecycle.device,
            "dtype": "float32", "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "code": verdict.code, "sentence": verdict.sentence, "same_as": verdict.same_as, "traceback": "",
            "status": verdict.status, "seconds": 0.0, "peak_bytes": 0, "forwards": 0, "backwards": 0, "queries": 0,
            "flags": [], "weights_sha256": "", "needs": cell.attack.needs.words() if cell.attack else "",
        }  # fmt: skip
        columns = None
        if verdict.status == "run":
            columns = self._compute(cell, row)
        self.store.write(row, columns)
        self.progress.ends(cell, row)

    def _compute(self, cell: Cell, row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            system = self._serve(cell)
            started = time.perf_counter()
            _reset_peak(cell.lifecycle.device)
            record = self._play(cell, system)
            row |= {"seconds": time.perf_counter() - started, "peak_bytes": _peak(cell.lifecycle.device)}
            row["status"] = "done"
        except Unsupported as error:
            row |= {"status": "refused", "code": "unsupported", "sentence": str(error)}
            return None
        except UsageError:
            raise
        except Exception as error:  # a plugin may raise anything; its cell fails, the sweep goes on
            row |= {"status": "failed", "code": type(error).__name__, "sentence": str(error).split("\n")[0][:300]}
            row["traceback"] = traceback.format_exc()
            return None
        row |= {"forwards": record.forwards, "backwards": record.backwards, "weights_sha256": self.weights}
        row["sentence"] = record.note
        row["queries"] = int(record.columns["queries"].sum()) if "queries" in record.columns else 0
        row["flags"] = [flag.facts() for flag in [*_noticed(self.probed, cell, system), *record.flags]]
        return _examples(cell, record)

    def _serve(self, cell: Cell) -> System:
        """Train, serve and probe the system, once."""
        if self.system is None:
            cell.lifecycle.tell = self.progress.tell
            system = cell.lifecycle.served()
            self.weights = fingerprint(system.net)
            about = {k: v for k, v in cell.facts().items() if k in ("model", "defense", "dataset", "seed")}
            for name, finding in cell.lifecycle.findings.items():
                self.store.keep(name, {**about, "weights_sha256": self.weights, "name": name, "finding": finding})
            known = cell.split if cell.clean is None else cell.clean
            few = known.at(torch.arange(min(PROBED, len(known))))
            x, y = few.images(torch.arange(len(few))), few.y
            x, y = x.to(system.device), y.to(system.device)
            gradients = system.surrogate if system.hides else system.net
            if gradients is not None:
                self.probed = probes.probe(gradients, x, y, system.space, name=cell.lifecycle.model.name)
            self.system = system
        return self.system

    def _clean(self, system: System, cell: Cell) -> Tensor | None:
        """What the system gets right before it is attacked or shifted: asked once for all its cells."""
        pictures = cell.split if cell.threat else cell.clean if cell.paired else None
        if pictures is None or (cell.threat and cell.threat.scenario != "evasion"):
            return None
        head, key = cell.reading.head, f"{pictures.sha256}/{cell.facts()['head']}"
        if key not in self.verdicts:
            rng = Rng.of(cell.lifecycle.seed, "clean", pictures.ids).to(system.device)
            if head is not None:
                system, pictures = restricted(system, pictures, head)
            self.verdicts[key] = evasion.unattacked(system, pictures, rng, width=self.width)
        return self.verdicts[key]

    def _play(self, cell: Cell, system: System) -> Record:
        """The cell's record; out of memory, at half the width."""
        while True:
            try:
                return play(cell, system, width=self.width, clean_ok=self._clean(system, cell))
            except torch.OutOfMemoryError:
                if self.width <= 1:
                    raise
                self.width //= 2
                self.progress.tell(f"out of memory; going on with {self.width} images in flight")


def play(cell: Cell, system: System, *, width: int = WIDTH, clean_ok: Tensor | None = None) -> Record:
    """Play one cell's scenario against its served system; clean_ok (N,): what it gets right unattacked, if known."""
    rng = Rng.of(cell.lifecycle.seed, cell.name, cell.split.ids).to(cell.lifecycle.device)
    if cell.threat is None or cell.attack is None:
        return shift.play(system, cell.split, rng, width=width, clean_ok=clean_ok, reading=cell.reading)
    given = dict(cell.given)
    common = {k: given.pop(k) for k in COMMON if k in given and k not in cell.attack.parameters}
    attack = partial(cell.attack.function, **given)
    if cell.threat.scenario == "poisoning":
        return poisoning.play(system, cell.lifecycle.poisoned, cell.split, cell.threat, rng, width=width)
    if cell.threat.scenario == "unlearnable":
        return unlearnable.play(system, cell.lifecycle.poisoned, cell.split, rng, width=width, epochs=_epochs(cell))
    if cell.threat.scenario == "inversion" and cell.threat.update:
        cycle = cell.lifecycle
        return inversion.play(
            cycle.shared(cell.threat.update.trained), attack, cell.split, cell.threat, rng, card=cell.attack,
            share=cycle.at("share"), aux=cycle.adversary(), learnt=LEARNT(cycle, cell.split), device=cycle.device,
        )  # fmt: skip
    if cell.threat.scenario == "certification":
        return certification.play(system, attack, cell.split, cell.threat, rng, width=width)
    split = cell.split
    if cell.reading.head is not None:
        system, split = restricted(system, split, cell.reading.head)
    return evasion.play(
        system, attack, split, cell.threat, rng, width=width, card=cell.attack, clean_ok=clean_ok,
        aux=cell.lifecycle.adversary(), **common,
    )  # fmt: skip


def _noticed(probed: list[Flag], cell: Cell, system: System) -> list[Flag]:
    """What the probes and the defense's card say about this cell: masked gradients bear on gradient attacks alone."""
    card, evades = cell.attack, cell.threat is not None and cell.threat.scenario == "evasion"
    asks = card is not None and Access.GRADIENTS in card.needs
    bears = {"all": True, "evasion": evades, "gradients": asks}
    flags = [f for f in probed if bears[concerns(f.name)] and not (f.name == "randomised" and system.stochastic)]
    loss = {**card.parameters, **dict(cell.given)}.get("loss") if card else None
    flags = [f._replace(level="warn") if f.name == "loss_vanishes" and loss != "ce" else f for f in flags]
    if evades and (alone := [d.card.name for d in cell.lifecycle.at("serve") if d.card.surrogate is None]):
        flags.append(Flag("no_adaptive_attack", f"{', '.join(alone)} brings no surrogate to attack it through"))
    return flags


def _epochs(cell: Cell) -> list[float]:
    """The val accuracies a watched training kept."""
    kept = cell.lifecycle.findings.get(EPOCHS)
    return [value for _, value in kept["table"]["rows"]] if kept else []


def _examples(cell: Cell, record: Record) -> dict[str, Any]:
    """The columns as stored: who, then what the scenario recorded."""
    n = len(cell.split)
    who = {"run_id": [cell.run_id] * n, "index": cell.split.ids.numpy(), "label": cell.split.y.numpy()}
    return who | {name: column.numpy() for name, column in record.columns.items()}


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int:
    """Bytes: the device's peak since the reset; on a CPU, the most the process has held so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ordered(cells: list[tuple[Cell, Verdict]]) -> Iterator[tuple[Cell, Verdict]]:
    """Each cell once, in the order of the plan."""
    seen: set[str] = set()
    for cell, verdict in cells:
        if cell.run_id not in seen:
            seen.add(cell.run_id)
            yield cell, verdict
