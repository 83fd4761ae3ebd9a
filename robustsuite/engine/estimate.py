"""What a plan will cost: forwards, backwards, trainings, and seconds from a measured probe of each system."""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import dataclass, replace

import joblib
import torch

from robustsuite.engine.execute import Planned
from robustsuite.engine.store import Store
from robustsuite.maths.numerics import threads
from robustsuite.maths.randomness import untouched
from robustsuite.scenarios.cell import Cell
from robustsuite.scenarios.kept import MOST
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Fit, Training, as_it_is, services
from robustsuite.serve.oracle import answer

SAMPLE = 64

TRIAL = 128
"""Training pictures that a recipe is tried on."""

ROOM = 2 << 30
"""Bytes of memory that a worker on a CPU is given."""

WORTH = 60.0
"""Seconds of work at the most for which another worker is started: it loads torch and plans first."""


VALUE = 4
"""Bytes that a value of a kept picture takes, clean and attacked, compressed (docs/seal.md has the figures)."""


@dataclass(frozen=True)
class Speed:
    """Seconds an image: asking the served system, and asking (its surrogate, where it has one) for a gradient."""

    forward: float
    backward: float


def speed(cycle: Lifecycle) -> Speed:
    """Measure the served but untrained system on blank pictures; its speed does not depend on its weights.

    What a defense would have to learn first is left out.
    """
    if asked := services(cycle.model.net):  # each question costs
        slowest = max(service.seconds() for service in asked)
        return Speed(slowest, slowest)
    serving = tuple(d for d in cycle.at("serve") if not d.card.learns)
    system = replace(cycle, model=replace(cycle.model, fit=as_it_is), defenses=serving).served()
    x = torch.rand(SAMPLE, *cycle.model.space.shape, generator=torch.Generator().manual_seed(0)).to(cycle.device)

    def seconds(gradient: bool) -> float:
        net = system.surrogate if gradient and system.surrogate is not None else system.net
        leaf = x.clone().requires_grad_(gradient)
        started = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            logits = answer(net, leaf)
            if gradient and logits.requires_grad:
                torch.autograd.grad(logits.sum(), leaf)
        if cycle.device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / SAMPLE

    seconds(False), seconds(True)
    return Speed(min(seconds(False), seconds(False)), min(seconds(True), seconds(True)))


def crew(cells: list[Planned], store: Store, device: str) -> int:
    """How many workers a machine has work and room for: one a card, or one a core where each has some time to do."""
    if device == "cuda":
        return torch.cuda.device_count()
    if device != "cpu":
        return 1
    missing = [(cell, decision) for cell, decision in cells if not store.finished(cell.run_id)]
    room = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ROOM if hasattr(os, "sysconf") else 1
    cores: int = joblib.cpu_count()
    return max(1, min(cores, room, int(sum(estimate(missing).values()) // WORTH)))


@threads()
def estimate(cells: list[Planned]) -> dict[str, float]:
    """Seconds by run_id, at the most: attacks stop early on what they break, so a sweep is usually quicker."""
    speeds: dict[str, Speed] = {}
    seconds: dict[str, float] = {}
    for cell, decision in cells:
        if decision.status == "run":
            try:
                seconds[cell.run_id] = _seconds(cell, speeds)
            except Exception:  # a plugin may raise anything; its cell will say so, an estimate ends no sweep
                seconds[cell.run_id] = 0.0
    return seconds


def _seconds(cell: Cell, speeds: dict[str, Speed]) -> float:
    """What one cell costs; `speeds` keeps what was measured."""
    cycle = cell.lifecycle
    if cell.scenario.bare:  # a certifier counts forwards of the bare network
        cycle = replace(cycle, defenses=())
    key = f"{cycle.model.name}|{'+'.join(map(str, cycle.at('serve')))}|{cycle.data.name}"
    if key not in speeds:
        speeds[key] = speed(cycle)
    cost, pace = cell.cost(), speeds[key]
    return max(cost.forwards - cost.backwards, 0) * pace.forward + cost.backwards * pace.backward


@threads()
def trainings(cells: list[Planned]) -> dict[str, float]:
    """Seconds by the key of each network that must be trained, an adversary's own too, once whatever number of attacks.

    The recipe is run on TRIAL pictures and its time scaled; what a defense learns after it is served counts as 0.
    """
    cycles = {id(cell.lifecycle): cell.lifecycle for cell, decision in cells if decision.status == "run"}
    tried: dict[tuple[str, ...], float] = {}
    seconds: dict[str, float] = {}
    for cycle in cycles.values():
        missing = cycle.trainings()
        names = [cycle.data.name, cycle.model.name, *map(str, (*cycle.at("train"), *cycle.at("harden")))]
        recipes = cycle.recipes() if missing else []
        before, skipped = 0.0, len(names) - len(recipes)
        for i, (key, fit) in enumerate(recipes):
            name = tuple(names[: skipped + i + 1])
            if name not in tried:
                tried[name] = _tried(fit, cycle)
            if key in missing:
                seconds[key] = max(0.0, tried[name] - before)
            before = tried[name]
        seconds |= {key: 0.0 for key in missing if key not in seconds}
    return seconds | _owned(cells)


def _owned(cells: list[Planned]) -> dict[str, float]:
    """Seconds of the networks that adversaries train for themselves, once for each threat and system."""
    seconds: dict[str, float] = {}
    for cell, decision in cells:
        name = f"{cell.threat.name if cell.threat else ''}/{id(cell.lifecycle)}"
        if decision.status == "run" and f"{name}/0" not in seconds and (found := cell.scenario.owns(cell)):
            fit, count = found
            seconds |= dict.fromkeys((f"{name}/{k}" for k in range(count)), _tried(fit, cell.lifecycle))
    return seconds


def _tried(fit: Fit, cycle: Lifecycle) -> float:
    """Seconds that a recipe would take, from a few pictures; 0 where it does not run on so few."""
    train, val = cycle.selection()
    few = Training(train.first(min(TRIAL, len(train))), val.first(min(TRIAL, len(val))), cycle.seed, cycle.device)
    took = []
    try:
        for _ in range(2):  # the first one of a process warms up
            started = time.perf_counter()
            with untouched():
                fit(copy.deepcopy(cycle.model.net), few)
            took.append(time.perf_counter() - started)
    except Exception:  # a plugin may raise anything; its cells will say so
        return 0.0
    return min(took) * len(train or val) / max(1, len(few.train or few.val))


def kept_bytes(cells: list[Planned]) -> int:
    """About what the pictures take that threats keep, if every attack breaks all it may."""
    values = 0
    for cell, decision in cells:
        if decision.status == "run" and cell.threat is not None and cell.scenario.name in ("evasion", "poisoning"):
            n = {"all": len(cell.split), "none": 0}.get(cell.threat.keep, min(MOST, len(cell.split)))
            values += n * math.prod(cell.lifecycle.model.space.shape)
    return VALUE * values
