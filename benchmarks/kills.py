"""A sweep whose workers and heads are killed again and again ends in the rows of one that was left alone.

python benchmarks/kills.py --kills 1000 --out runs/kills

Workers, heads, whoever holds a training, report writers, and in every fifth round a node of a Ray cluster of two get a
SIGKILL at random moments; when a round has ended its rows are compared, and the next begins from nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

AT_WORK = 0.6
"""Share of the kills that wait until somebody computes; the others come at any time, also while a worker starts."""

STORE = 80 << 20
"""Bytes of a Ray node's object store, which nothing of ours needs."""

ROOT = Path(__file__).parents[1]
SWEEP = {
    "name": "killed", "models": ["recipe:cnn_2c2f?epochs=2"], "data": [{"digits": {"first": 200}}],
    "seeds": list(range(16)),
    "defenses": ["none", {"adversarial_finetuning": {"eps": 0.1, "epochs": 2, "steps": 2, "augment": False}}],
    "threats": {
        "linf": {
            "scenario": "evasion", "budget": {"linf": 0.05},
            "attacks": ["fgsm", {"pgd": {"steps": 40}}, {"pgd": {"steps": 400, "restarts": 2}}],
        },
        "scores": {
            "scenario": "evasion", "access": "scores", "budget": {"linf": 0.05},
            "attacks": [{"square": {"steps": 400}}],
        },
    },
}  # fmt: skip


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """A command of ours in this folder, with a cache of its own."""
    environment = {**os.environ, "ROBUSTSUITE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "robustsuite.app.cli", *command], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def swept(folder: Path, *by: str) -> subprocess.Popen[bytes]:
    """The sweep, with its report at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    return start(folder, "run", "sweep.yaml", "--out", "run", *by)


@contextmanager
def nodes_of_ray(wanted: bool) -> Iterator[Any]:
    """A Ray cluster of two nodes of one processor each, besides the one that keeps its books; None where not wanted."""
    if not wanted:
        yield None
        return
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def rows(folder: Path) -> dict[str, bytes]:
    """Every cell's examples, and the report's scores."""
    cells = (folder / "run" / "cells").glob("[!.]*/examples.parquet")
    scores = (folder / "run" / "report" / "scores.csv").read_bytes()
    return {file.parent.name: file.read_bytes() for file in cells} | {"scores.csv": scores}


def workers() -> list[int]:
    """The pids of all workers, of Ray those that have a task in hand."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word in " ".join(process.cmdline()) for word in ("spawn_main", "ray::told")):
                found.append(process.pid)
    return found


def training(folder: Path) -> list[int]:
    """The pids of those that train just now."""
    found = []
    for lease in (folder / "cache" / "weights").glob("*.lease"):
        with suppress(OSError, ValueError, KeyError):
            found.append(int(json.loads(lease.read_text())["pid"]))
    return found


def killed(head: subprocess.Popen[bytes], folder: Path, chance: random.Random, cluster: Any) -> str:
    """Kill somebody at work; what it was, '' where nobody was."""
    kind = chance.choices(("worker", "training", "head", "node"), (6, 3, 1, 6 if cluster else 0))[0]
    if kind == "node":
        cluster.remove_node(chance.choice(sorted(cluster.worker_nodes, key=str)), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        return kind
    pids = {"worker": workers(), "training": training(folder), "head": [head.pid]}[kind]
    if not pids or head.poll() is not None:
        return ""
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
        return kind
    return ""


def moment(head: subprocess.Popen[bytes], folder: Path, chance: random.Random) -> None:
    """Wait: for some time, or until there is more work in hand or done than before and a little longer."""
    before, until = at_work(folder), time.monotonic() + 60
    if chance.random() < AT_WORK:
        while head.poll() is None and at_work(folder) == before and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
    else:
        with suppress(subprocess.TimeoutExpired):
            head.wait(chance.uniform(0.1, 2.5))


def at_work(folder: Path) -> list[str]:
    """Cells and leases that are there, of trainings too."""
    places = folder / "run" / "cells", folder / "run" / "leases", folder / "cache" / "weights"
    return sorted(name for place in places if place.is_dir() for name in os.listdir(place))


def reported(folder: Path, chance: random.Random) -> int:
    """Kill a report while it is written, three times, then let it be written; how many were still at it."""
    hit = 0
    for _ in range(3):
        writer = start(folder, "report", "run")
        time.sleep(chance.uniform(1.0, 6.0))
        hit += writer.poll() is None
        writer.kill()
        writer.wait()
    start(folder, "report", "run").wait()
    return hit


def main() -> None:
    """How many were killed, and whether a row differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    asked = parser.parse_args()
    out, chance, kills = asked.out.resolve(), random.Random(0), Counter[str]()
    if not (out / "whole" / "run" / "report" / "scores.csv").exists():
        swept(out / "whole").wait()
    whole, rounds, different = rows(out / "whole"), 0, 0
    while kills.total() < asked.kills:
        shutil.rmtree(out / "killed", ignore_errors=True)
        with nodes_of_ray(rounds % 5 == 0) as cluster:
            by = ("--executor", json.dumps({"ray": {"address": cluster.address}})) if cluster else ("--workers", "3")
            ended = False
            while not ended:
                head = swept(out / "killed", *by)
                while head.poll() is None:
                    moment(head, out / "killed", chance)
                    if kind := killed(head, out / "killed", chance, cluster):
                        kills[kind] += 1
                ended = head.returncode == 0
        kills["report"] += reported(out / "killed", chance)
        found, rounds = rows(out / "killed"), rounds + 1
        different += sum(found.get(name) != whole.get(name) for name in found.keys() | whole.keys())
        left = [str(p) for p in (out / "killed" / "run").rglob(".writing-*")]
        sys.stdout.write(
            f"{rounds} rounds, {kills.total()} kills {dict(kills)}, {len(whole) - 1} cells a round, "
            f"{different} files different, {len(left)} half-written ones left aside\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
