"""Who starts the workers: this machine, Ray or Slurm. Each is a thin adapter; what is computed is `work`'s affair.

A worker that dies is started again, its leases are taken over; when the head ends, for whatever reason, its workers do.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import torch

from robustsuite.engine.execute import DEATHS
from robustsuite.engine.work import Job, told
from robustsuite.errors import BadValue, Lost, MissingPackage, UsageError, nearest
from robustsuite.maths.numerics import THREADS
from robustsuite.records.leases import PAUSE

OMP = "OMP_NUM_THREADS"

Look = Callable[[], int]
"""Tells a display what has ended; returns how many cells are open."""

Tell = Callable[[str], None]

REFUSED = 2
"""The exit code of a worker that met the user's own error."""

TERMINATED = 128 + signal.SIGTERM

PATIENCE = 5.0
"""Seconds that a worker has to end in once it is told to."""


def local(job: Job, workers: int, look: Look, tell: Tell) -> None:
    """Processes on this machine, each with a card of its own where the job is for a GPU of no number."""
    context = multiprocessing.get_context("spawn")
    alive: dict[int, tuple[Any, Connection]] = {}

    def start(i: int) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(job, _card(job, i), theirs), name=f"worker {i + 1}")
        with _deaf():
            process.start()
        theirs.close()
        alive[process.sentinel] = process, ours

    deaths, left = 0, look()
    before = os.environ.get(OMP)
    os.environ[OMP] = str(THREADS)  # what torch is told later does not reach all its threads, and idle ones spin
    try:
        for i in range(workers):
            start(i)
        while alive:
            for sentinel in wait(list(alive), timeout=PAUSE):
                process, pipe = alive.pop(cast(int, sentinel))
                process.join()
                said = _said(pipe)
                if process.exitcode == REFUSED:
                    raise UsageError(said)
                if process.exitcode != 0:
                    tell(f"{process.name} died ({said or _signal(process.exitcode)}); another takes over")
                    deaths += 1
                    if deaths > DEATHS * workers:
                        raise Lost(
                            f"expected workers that live, got {deaths} that died while no cell ended, the last by "
                            f"{said or _signal(process.exitcode)}; ask for fewer --workers, or for 1 to see why"
                        )
                    start(int(process.name.split()[1]) - 1)
            if (now := look()) < left:
                deaths, left = 0, now
    finally:
        os.environ.pop(OMP) if before is None else os.environ.update({OMP: before})
        _end([process for process, _ in alive.values()])


def _said(pipe: Connection) -> str:
    with suppress(EOFError, OSError):
        return str(pipe.recv()) if pipe.poll() else ""
    return ""


@contextmanager
def _deaf() -> Iterator[None]:
    """A process started meanwhile never hears a terminal's Ctrl-C, not while Python starts in it either.

    Who starts it is told to end when it has been handed all that it reads at its start, not half-way.
    """
    resource_tracker.ensure_running()  # started later, by the first process, it would let Ctrl-C through again
    before, told = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), list[int]()
    main = threading.current_thread() is threading.main_thread()  # no other thread may set what a signal does
    ends = signal.signal(signal.SIGTERM, lambda number, _: told.append(number)) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, ends if ends is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if told:
            signal.raise_signal(signal.SIGTERM)


def _signal(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _end(processes: list[Any]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _card(job: Job, i: int) -> str | None:
    """The card that the i-th worker sees, of those that this process sees; None where the job says which."""
    if job.recipe.device != "cuda":
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = seen.split(",") if seen else [str(k) for k in range(torch.cuda.device_count())]
    return cards[i % len(cards)] if cards else None


def _child(job: Job, card: str | None, pipe: Connection) -> None:
    """One spawned worker. Its card is chosen before CUDA starts."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    threading.Thread(target=_outlive, daemon=True).start()
    try:
        sentence = told(job)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
    if sentence is not None:
        pipe.send(sentence)
        sys.exit(REFUSED)


def _outlive() -> None:
    """End with the head, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ray(job: Job, workers: int | None, look: Look, tell: Tell, *, address: str | None = None) -> None:
    """Tasks of a Ray cluster, one a GPU or one a CPU; of this machine where no cluster is named or running."""
    try:
        engine: Any = importlib.import_module("ray")
    except ImportError as error:
        raise MissingPackage("ray", "the executor ray", "robustsuite[ray]") from error
    ours = not engine.is_initialized()
    if ours:
        engine.init(address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR")
    try:
        kind = "GPU" if job.recipe.device.startswith("cuda") else "CPU"
        there = int(engine.cluster_resources().get(kind, 0))
        if not there:
            raise BadValue(f"expected a Ray cluster with a {kind}, got none; start one, or choose another --device")
        share = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
        modules = {"env_vars": {"PYTHONPATH": os.pathsep.join(job.recipe.path), OMP: str(THREADS)}}
        task = engine.remote(**share, max_retries=DEATHS * there, runtime_env=modules)(told)
        waiting = [task.remote(job) for _ in range(workers or there)]
        try:
            while waiting:
                done, waiting = engine.wait(waiting, timeout=PAUSE)
                look()
                for sentence in engine.get(done):  # raises what ended it, if that was no user's error
                    if sentence is not None:
                        raise UsageError(sentence)
        finally:
            for reference in waiting:
                engine.cancel(reference, force=True)
    finally:
        if ours:
            engine.shutdown()


@dataclass
class Task:
    """A worker as a Slurm job; preempted or out of time it is queued again as it is, and goes on where it ended."""

    job: Job

    def __call__(self) -> str | None:
        return told(self.job)

    def checkpoint(self) -> Any:
        """What submitit queues again."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class SlurmOptions:
    """time: minutes a job, queued again after that; parallel: jobs at once, all for None; more: for sbatch as it is.

    cluster: slurm, or local or debug to try it without a scheduler.
    """

    cluster: str = "slurm"
    partition: str | None = None
    time: int = 240
    parallel: int | None = None
    cpus: int = 1
    more: dict[str, Any] = field(default_factory=dict)


def slurm(job: Job, workers: int | None, look: Look, tell: Tell, **options: Any) -> None:
    """Jobs of one Slurm array through submitit."""
    try:
        submitit: Any = importlib.import_module("submitit")
    except ImportError as error:
        raise MissingPackage("submitit", "the executor slurm", "robustsuite[slurm]") from error
    asked = SlurmOptions(**options)
    folder = Path(job.folder) / "jobs"
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=asked.cluster, slurm_max_num_timeout=1000)
    except RuntimeError as error:
        raise BadValue(f"expected a machine that submits to {asked.cluster}, got {error}; run there") from error
    extra = {"partition": asked.partition, "array_parallelism": asked.parallel, "additional_parameters": asked.more}
    executor.update_parameters(
        timeout_min=asked.time, cpus_per_task=asked.cpus, gpus_per_node=int(job.recipe.device.startswith("cuda")),
        **{f"slurm_{key}": value for key, value in extra.items() if value},
    )  # fmt: skip
    with executor.batch():
        jobs = [executor.submit(Task(job)) for _ in range(workers or 1)]
    try:
        waiting = list(jobs)
        while waiting:
            look()
            for one in [one for one in waiting if one.done()]:
                waiting.remove(one)
                _heard(one, tell)
            time.sleep(PAUSE if waiting else 0)
        look()
    finally:
        for one in jobs:
            if not one.done():
                one.cancel()


def _heard(one: Any, tell: Tell) -> None:
    """What a job that ended says; the others go on with what it leaves. Raises UsageError for the user's own error."""
    error = one.exception()
    if error is not None:
        tell(f"job {one.job_id} ended: {' '.join(str(error).split())[-200:]}")
    elif (sentence := one.result()) is not None:
        raise UsageError(sentence)


EXECUTORS: dict[str, Callable[..., None]] = {"local": local, "ray": ray, "slurm": slurm}
OPTIONS = {"local": set[str](), "ray": {"address"}, "slurm": set(SlurmOptions.__dataclass_fields__)}


def spread(executor: str, options: dict[str, Any], job: Job, workers: int | None, look: Look, tell: Tell) -> None:
    """Run the job's workers with an executor; raises BadValue for an option it does not have."""
    if executor not in EXECUTORS:
        raise BadValue(f"expected an executor, got {executor!r}; {nearest(executor, EXECUTORS)}")
    known = OPTIONS[executor]
    for word in sorted(set(options) - known):
        raise BadValue(f"expected an option of the executor {executor}, got {word!r}; {nearest(word, known)}")
    EXECUTORS[executor](job, workers if executor != "local" else workers or 1, look, tell, **options)
