"""Who works on what: one holder at a time, the dead are taken over, and nothing is ever decided by a lease."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from robustsuite.records import leases
from robustsuite.records.leases import held, leased, waited
from robustsuite.serve.data import Split
from robustsuite.serve.kept import kept, wanted
from robustsuite.serve.models import Training


def test_one_holds_it_and_it_is_free_afterwards(tmp_path: Path) -> None:
    with leased(tmp_path / "a") as first, leased(tmp_path / "a") as second:
        assert first is not None
        assert second is None
        assert held(tmp_path / "a")
    assert not held(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def _take(folder: str, kill: bool) -> None:
    with leased(Path(folder) / "a", "run"):
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def dead(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_take, args=(str(folder), True))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(("run", "died"), [("run", 1), ("another", 0)])
def test_what_the_killed_held_is_taken_over_and_counted_in_their_own_run(run: str, died: int, tmp_path: Path) -> None:
    dead(tmp_path)
    assert (tmp_path / "a").exists()
    assert not held(tmp_path / "a")
    with leased(tmp_path / "a", run) as lease:
        assert lease is not None
        assert lease.died == died


def test_deaths_add_up(tmp_path: Path) -> None:
    for _ in range(3):
        dead(tmp_path)  # each takes over from the one before
    with leased(tmp_path / "a", "run") as lease:
        assert lease is not None
        assert lease.died == 3


def test_another_machine_is_taken_for_dead_when_its_beat_stops(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(json.dumps({"owner": "x", "machine": "elsewhere", "pid": os.getpid(), "started": "1"}))
    assert held(path)
    before = time.time() - leases.SILENT - 5
    os.utime(path, (before, before))
    assert not held(path)
    with leased(path) as lease:
        assert lease is not None


def test_what_is_held_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "_HEART", leases._Heart())
    with leased(tmp_path / "a"):
        os.utime(tmp_path / "a", (1, 1))
        until = time.monotonic() + 5
        while (tmp_path / "a").stat().st_mtime == 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / "a").stat().st_mtime > 1


def test_a_lease_that_is_just_being_written_is_held(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert held(tmp_path / "a")


def test_where_no_file_can_be_made_everybody_holds_it() -> None:
    with leased(Path("/proc/no/such/folder/a")) as lease:
        assert lease is not None


RACE = """
import sys, time
from pathlib import Path
from robustsuite.records.leases import waited
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with waited(folder / "lease"):
        n = int((folder / "n").read_text())
        time.sleep(0.001)
        (folder / "n").write_text(str(n + 1))
"""


def test_four_processes_that_wait_for_one_another_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n").write_text("0")
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", RACE, str(tmp_path), "5"]
    processes = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (tmp_path / "n").read_text() == "20"


def _train(cache: str, out: str) -> None:
    os.environ["ROBUSTSUITE_CACHE"] = cache

    def fit(net: nn.Module, training: Training) -> nn.Module:
        (Path(out) / f"trained-{os.getpid()}").touch()
        time.sleep(1)
        with torch.no_grad():
            net.weight.fill_(1.0)  # type: ignore[union-attr,operator]
        return net

    split = Split.of(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
    trained = kept(fit, "key")(nn.Linear(2, 2), Training(split, split, 0))
    (Path(out) / f"sum-{os.getpid()}").write_text(str(float(trained.weight.sum())))  # type: ignore[union-attr,operator]


def test_one_training_is_computed_once_however_many_workers_want_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    cache, out = tmp_path / "cache", tmp_path / "out"
    out.mkdir()
    processes = [context.Process(target=_train, args=(str(cache), str(out))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(list(out.glob("trained-*"))) == 1
    assert [f.read_text() for f in out.glob("sum-*")] == ["4.0"] * 3
    assert not wanted("key")


def test_waiting_ends_when_the_other_dies(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_take, args=(str(tmp_path), False))
    process.start()
    until = time.monotonic() + 60
    while not held(tmp_path / "a") and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    with waited(tmp_path / "a") as lease:
        assert lease.owner
    process.join()
