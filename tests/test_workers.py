"""The tables are the same bytes whoever computes them: one process, several, shares, Ray, Slurm; killed or not."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from robustsuite.app.api import Workers, run
from robustsuite.engine.execute import ordered
from robustsuite.engine.executors import _deaf, spread
from robustsuite.engine.merge import merge
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.engine.work import Shard
from robustsuite.errors import BadData, BadValue
from robustsuite.records.cells import read_cell
from robustsuite.reports import write_report
from tests.shares import EVERY, rows

QUICK = {**EVERY, "defenses": ["none"], "threats": {k: EVERY["threats"][k] for k in ("linf", "leak")}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sweep as one process computes it; what comes after shares its cache only where a test says so."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(folder / "cache"))
        run(EVERY, out=folder / "run").report()
        yield folder


def fresh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(folder / "cache"))
    return folder / "run"


def test_two_workers_end_in_the_same_bytes(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fresh(monkeypatch, tmp_path)
    done = run(EVERY, out=out, by=Workers(2))
    done.report()
    assert rows(out) == rows(alone / "run")
    assert done.computed == done.planned
    assert not (out / "leases").exists()
    assert run(EVERY, out=out, by=Workers(2)).computed == 0


def test_three_shares_merge_into_the_same_bytes(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(alone / "cache"))
    shares = [tmp_path / str(i) for i in (1, 2, 3)]
    for i, folder in enumerate(shares):
        assert run(EVERY, out=folder, shard=f"{i + 1}/3").planned > 0
    assert merge([*shares, shares[0]], tmp_path / "all") == (len(rows_of(alone)), [])
    write_report([tmp_path / "all"], tmp_path / "all" / "report")
    assert rows(tmp_path / "all") == rows(alone / "run")
    assert (tmp_path / "all" / "sweep.json").read_bytes() == (alone / "run" / "sweep.json").read_bytes()


def rows_of(alone: Path) -> list[Path]:
    return [f for f in (alone / "run" / "cells").iterdir() if not f.name.startswith(".")]


@pytest.mark.slow
def test_submitits_debug_executor_ends_in_the_same_bytes(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    run(EVERY, out=tmp_path, by=Workers(1, "slurm", {"cluster": "debug"})).report()
    assert rows(tmp_path) == rows(alone / "run")


def test_shares_are_disjoint_and_whole_and_hold_about_the_same_work() -> None:
    cells = list(ordered(plan(sweep_of(EVERY, "x"))))
    for n in (1, 2, 3, 7, 1000):
        parts = [Shard(i + 1, n).cells(cells) for i in range(n)]
        assert [cell.run_id for part in parts for cell, _ in part] == [cell.run_id for cell, _ in cells]
    for text in ("0/3", "4/3", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(BadValue, match="expected a share"):
            Shard.of(text)


def test_a_merge_of_runs_that_differ_is_refused(alone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(alone / "run", other)
    cells = [f.parent for f in other.glob("cells/*/examples.parquet")]
    a, b = next((a, b) for a in cells for b in cells if a != b and _alike(a, b))
    shutil.copyfile(b / "examples.parquet", a / "examples.parquet")
    with pytest.raises(BadData, match=f"expected the same rows for the cell {a.name}"):
        merge([alone / "run", other], tmp_path / "all")
    (a / "examples.parquet").write_bytes(b"cut")
    total, skipped = merge([alone / "run", other], tmp_path / "all")
    assert total == len(rows_of(alone))
    cut, unsealed = skipped
    assert a.name in cut
    assert unsealed == f"{other}: other cells, so what is merged has no seal"


def _alike(a: Path, b: Path) -> bool:
    """Other rows of the same columns."""
    one, two = read_cell(a), read_cell(b)
    rows_differ = (a / "examples.parquet").read_bytes() != (b / "examples.parquet").read_bytes()
    return one.columns == two.columns and one.rows == two.rows and rows_differ


@pytest.mark.slow
def test_the_users_error_in_a_worker_is_one_sentence_of_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, attacks = fresh(monkeypatch, tmp_path), [{"fgsm": {"loss": "nope"}}, "fgsm"]
    wrong = {**QUICK, "threats": {"linf": {**QUICK["threats"]["linf"], "attacks": attacks}}}
    run(wrong, out=out, by=Workers(2))
    records = [read_cell(file.parent) for file in out.glob("cells/[!.]*/run.json")]
    assert {r.status for r in records if "nope" not in r.sentence} == {"done"}
    assert [r.status for r in records if "nope" in r.sentence] == ["refused"]
    assert not [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def test_an_unknown_executor_and_option_are_sentences() -> None:
    with pytest.raises(BadValue, match="did you mean 'slurm'"):
        run(QUICK, by=Workers(2, "slurn"))
    with pytest.raises(BadValue, match="did you mean 'partition'"):
        spread("slurm", {"partitoin": "gpu"}, None, 1, lambda: 0, print)  # type: ignore[arg-type]


def start(folder: Path, *flags: str, sweep: dict[str, object] = QUICK) -> subprocess.Popen[str]:
    """The sweep as a user starts it, with a cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "ROBUSTSUITE_CACHE": str(folder / "cache"), "PYTHONPATH": root}
    command = [sys.executable, "-m", "robustsuite.app.cli", "run", "sweep.yaml", "--out", "run", *flags]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def workers_of(head: subprocess.Popen[str]) -> list[psutil.Process]:
    """The spawned workers of a head."""
    try:
        children = psutil.Process(head.pid).children(recursive=True)
        return [p for p in children if "spawn_main" in " ".join(p.cmdline())]
    except psutil.Error:
        return []


def awaited(head: subprocess.Popen[str], n: int) -> list[psutil.Process]:
    until = time.monotonic() + 60
    while len(found := workers_of(head)) < n and head.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_the_first_process_that_is_started_hears_no_ctrl_c_either() -> None:
    """Python starts a tracker beside the first one, and unblocks the signal once it has."""
    script = (
        "import multiprocessing, signal; from robustsuite.engine.executors import _deaf\n"
        "def blocked(): print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    with _deaf():\n"
        "        process.start(); blocked()\n"
        "    process.join(); blocked()"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == ["True", "False"]


def test_a_head_is_told_to_end_only_when_a_worker_has_been_started() -> None:
    """Else that worker reads half of what it is handed, and says so in a traceback."""
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("told"))
    try:
        with _deaf():
            signal.raise_signal(signal.SIGTERM)
            heard.append("started")
        assert heard == ["started", "told"]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGINT, signal.SIGTERM))]
)
def test_when_the_head_ends_so_do_its_workers(how: signal.Signals, tmp_path: Path) -> None:
    head = start(tmp_path, "--workers", "2")
    found = awaited(head, 2)
    assert len(found) == 2
    os.killpg(head.pid, how) if how == signal.SIGINT else os.kill(head.pid, how)
    said = head.communicate(timeout=60)[0]
    assert head.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    if how != signal.SIGKILL:
        assert "stopped; the same command goes on where this one ended" in said
        assert "Traceback" not in said
    psutil.wait_procs(found, timeout=20)
    assert not [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_worker_that_is_killed_is_named_and_taken_over(tmp_path: Path) -> None:
    head = start(tmp_path, "--workers", "2")
    awaited(head, 2)[0].kill()
    said = head.communicate(timeout=200)[0]
    assert head.returncode == 0, said
    assert "worker 1 died (SIGKILL); another takes over" in said or "worker 2 died (SIGKILL)" in said
    assert not [f for f in (tmp_path / "run" / "cells").iterdir() if f.name.startswith(".")]


@pytest.mark.slow
def test_seven_workers_end_in_the_same_bytes(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fresh(monkeypatch, tmp_path)
    run(EVERY, out=out, by=Workers(7)).report()
    assert rows(out) == rows(alone / "run")


@pytest.mark.slow
def test_submitits_local_executor_ends_in_the_same_bytes(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    out = fresh(monkeypatch, tmp_path)
    run(EVERY, out=out, by=Workers(2, "slurm", {"cluster": "local"})).report()
    assert rows(out) == rows(alone / "run")


@pytest.mark.slow
def test_two_nodes_of_ray_end_in_the_same_bytes_though_one_dies(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = fresh(monkeypatch, tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        died: list[int] = []

        def die() -> None:
            while len(done := list(out.glob("cells/[!.]*"))) < 2:
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)
            died.append(len(done))

        death = threading.Thread(target=die, daemon=True)
        death.start()
        run(EVERY, out=out, by=Workers(2, "ray", {"address": cluster.address})).report()
        death.join(60)
    finally:
        cluster.shutdown()
    assert len(died) == 1
    assert died[0] < len(rows_of(alone))
    assert rows(out) == rows(alone / "run")


@pytest.mark.slow
def test_workers_and_heads_killed_anywhere_lose_nothing_and_change_no_row(tmp_path: Path) -> None:
    chance, kills = random.Random(0), 0
    long = {**EVERY, "seeds": [0, 1, 2]}
    whole = start(tmp_path / "whole", "--workers", "1", sweep=long)
    assert whole.wait(600) == 0
    for attempt in range(40):
        head = start(tmp_path / "killed", "--workers", "2", sweep=long)
        for _ in range(4):
            time.sleep(chance.uniform(0.5, 4))
            if head.poll() is None and (found := workers_of(head)):
                chance.choice(found).kill()
                kills += 1
        if head.poll() is None and attempt % 2:
            head.kill()
            kills += 1
        else:
            head.wait(600)
        head.communicate()
    last = start(tmp_path / "killed", "--workers", "2", sweep=long)
    assert last.wait(600) == 0
    assert rows(tmp_path / "killed" / "run") == rows(tmp_path / "whole" / "run")
    assert kills > 20
