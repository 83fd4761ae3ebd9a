"""The rows of gpu.py on workers: one long cell and a sweep of short ones, by one process and by two on one card.

Each is the command line itself, in processes of its own: starting, planning and the report are part of its seconds. The
networks are trained and cached beforehand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from robustsuite.benchmarks.gpu_bench import Bench, Row

ROOT = Path(__file__).resolve().parents[1]


def workers_rows(bench: Bench) -> Iterator[Row]:
    """Seconds of two workers beside those of one, and whether they stored the same bytes."""
    for place, (name, attacks) in enumerate(cells(bench).items()):
        sweep = bench.out / f"{name}.yaml"
        sweep.write_text(yaml.safe_dump(planned(bench, attacks)))
        if not place:
            swept(bench, sweep, 1, "--first", "8")  # trains what all the others find trained
        alone, together = (swept(bench, sweep, workers) for workers in (1, 2))
        first, second = (stored(bench.out / f"{name}-{workers}") for workers in (1, 2))
        same = bool(first) and first == second
        words = "the same bytes" if same else "OTHER BYTES"
        row = Row("workers", f"{name}: two workers (ours), one (peer)", together, alone, "seconds", together / alone)
        row.n, row.note = bench.size(512, 16), f"{len(attacks)} attacks, {words}"
        row.error = "" if same else "two workers stored other bytes than one"
        yield row


def cells(bench: Bench) -> dict[str, list[object]]:
    """The attacks of each sweep."""
    steps = {"pgd": 50, "apgd": 50, "fmn": 50, "square": 300}
    short = [{attack: {"steps": bench.size(k, 5)}} for attack, k in steps.items()]
    return {"long-cell": [{"square": {"steps": bench.size(1000, 20)}}], "short-cells": ["fgsm", *short]}


def planned(bench: Bench, attacks: list[object]) -> dict[str, object]:
    """A sweep over the scenes with one small trained network."""
    threat = {"scenario": "evasion", "budget": {"linf": "4/255"}, "attacks": attacks}
    return {
        "name": "workers", "models": ["recipe:scenes_resnet?epochs=4"], "threats": {"linf": threat},
        "data": [{"scenes": {"train": 800, "val": 64, "test": 512, "first": bench.size(512, 16)}}],
        "defenses": ["none", "grayscale"],
    }  # fmt: skip


def swept(bench: Bench, sweep: Path, workers: int, *flags: str) -> float:
    """Seconds of the run, its output kept beside it; raises RuntimeError where it fails."""
    out = bench.out / f"{sweep.stem}-{workers}{''.join(flags)}"
    command = [sys.executable, "-m", "robustsuite.app.cli", "run", str(sweep), "--out", str(out)]
    command += ["--device", str(bench.device), "--workers", str(workers), *flags]
    environ = {**os.environ, "ROBUSTSUITE_CACHE": str(bench.out / "cache"), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    with (bench.out / f"{out.name}.txt").open("w") as said:
        done = subprocess.run(command, cwd=ROOT, env=environ, stdout=said, stderr=said)
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}; {out.name}.txt says more")
    return time.perf_counter() - begin


def stored(run: Path) -> dict[str, bytes]:
    """The examples and scores of every cell, by their place."""
    files = [path for path in run.rglob("*") if path.name in ("examples.parquet", "scores.csv")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}
