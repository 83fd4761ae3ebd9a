"""A sweep that is killed again and again ends in the very report of one that was left alone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from robustsuite.app.api import run
from robustsuite.reports.read.runs import read
from robustsuite.serve.data import Dataset
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training
from robustsuite.serve.training import Recipe, fitted, one_cycle
from tests.toys import SPACE, labelled, linear

SWEEP = {
    "name": "killed",
    "models": ["recipe:cnn_2c2f?epochs=2", "python:tests.nets:linear"],
    "data": [{"digits": None}],
    "defenses": [
        "none",
        {"adversarial_finetuning": {"eps": 0.1, "epochs": 2, "steps": 2, "augment": False}},
        {"randomized_smoothing": {"sigma": 0.1, "n": 8, "alpha": 0.1}},
    ],
    "threats": {
        "linf": {"scenario": "evasion", "budget": {"linf": 0.05}, "attacks": ["fgsm", {"pgd": {"steps": 5}}]},
        "scores": {
            "scenario": "evasion", "access": "scores", "budget": {"linf": 0.05}, "attacks": [{"square": {"steps": 10}}],
        },
    },
}  # fmt: skip
CELLS = 2 * 3 * 4
"""A seed: models, defenses; clean, fgsm, pgd and square."""

BY_THE_CLOCK = ("report.html", "costs.csv", "costs.md")
"""Files of a report that say how long a run took."""


def start(folder: Path, seeds: int) -> subprocess.Popen[bytes]:
    """The sweep as a user starts it, storing into the folder and with a cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, "seeds": list(range(seeds))}))
    environment = {
        **os.environ, "ROBUSTSUITE_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    command = [sys.executable, "-m", "robustsuite.app.cli", "run", "sweep.yaml", "--out", "run", "--first", "100"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(folder: Path) -> int:
    """Cells that are stored whole."""
    return len(list(folder.glob("run/cells/[!.]*/run.json")))


def kill_once(folder: Path, seeds: int, chance: random.Random) -> bool:
    """Start the sweep, kill -9 it anywhere before, or soon after, its next cell; whether it was still at work."""
    process = start(folder, seeds)
    more, patience = chance.choice((0, 1, 1, 2)), time.monotonic() + 60
    target = finished(folder) + more
    while finished(folder) < target and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1 if more else 5))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def report(folder: Path, seeds: int) -> dict[str, bytes]:
    """Finish the sweep; every file of its report that no clock has written."""
    process = start(folder, seeds)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    assert finished(folder) == CELLS * seeds
    return dict(_files(folder / "run" / "report"))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in BY_THE_CLOCK:
            yield str(file.relative_to(folder)), file.read_bytes()


@pytest.mark.parametrize(("kills", "seeds"), [(1, 1), pytest.param(20, 4, marks=pytest.mark.slow)])
def test_a_killed_sweep_ends_in_the_same_report(tmp_path: Path, kills: int, seeds: int) -> None:
    undisturbed = report(tmp_path / "alone", seeds)
    chance = random.Random(kills)
    struck = sum(kill_once(tmp_path / "killed", seeds, chance) for _ in range(kills))
    assert struck == kills, f"the sweep ended before {kills - struck} of {kills} kills"
    resumed = report(tmp_path / "killed", seeds)
    assert {"scores.csv", "report.md", "worst_case.csv"} <= set(resumed)
    assert resumed.keys() == undisturbed.keys()
    assert [name for name in resumed if resumed[name] != undisturbed[name]] == []
    left_over = [f for f in (tmp_path / "killed" / "run" / "cells").iterdir() if f.name.startswith(".")]
    assert not left_over


def test_kept_weights_are_the_trained_ones_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    net = net.eval().to(memory_format=torch.channels_last)
    calls: list[int] = []

    def fit(net: nn.Module, training: Training) -> nn.Module:
        calls.append(1)
        return fitted(net, training, Recipe(1, one_cycle(0.1, 1)))

    splits = dict.fromkeys(("train", "val", "test"), labelled(linear()))
    cycle = Lifecycle(Model("toy", net, SPACE, "a", fit), Dataset("toy", SPACE, ("a", "b", "c"), splits))
    trained, kept = cycle.trained(), cycle.trained()
    assert calls == [1]
    for (name, a), b in zip(trained.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
        assert a.stride() == b.stride(), f"{name} lies in another order, so that sums round another way"
    (file,) = (tmp_path / "weights").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = cycle.trained().state_dict()
    assert calls == [1, 1], "a damaged file is made again"
    assert all(torch.equal(a, again[name]) for name, a in trained.state_dict().items())


def test_a_resumed_run_ends_in_the_same_grades(tmp_path: Path) -> None:
    """Whichever cell comes first, its system is probed with what the sweep judges on, and not with one picture."""
    sweep = {
        "name": "resumed", "models": ["python:tests.nets:wrong_at_first"], "data": [{"digits": {"first": 40}}],
        "threats": {
            "linf": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": ["noise", {"fgsm": {"first": 1}}]},
        },
    }  # fmt: skip
    folder = run(sweep, out=tmp_path / "run").folder
    before = {cell["run_id"]: (cell["flags"], cell["grade"]) for cell in read([folder]).known.values()}
    for lost in before:
        shutil.rmtree(folder / "cells" / lost)
        run(sweep, out=folder)
        after = {cell["run_id"]: (cell["flags"], cell["grade"]) for cell in read([folder]).known.values()}
        assert after == before


@pytest.mark.slow
def test_a_scheduler_s_end_is_said_in_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    running = start(tmp_path, seeds=1)
    while not finished(tmp_path):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert said.decode().strip() == "stopped; the same command goes on where this one ended"
    kept = finished(tmp_path)
    assert kept > 0
    again = start(tmp_path, seeds=1)
    assert again.wait(timeout=120) == 0
    assert finished(tmp_path) == CELLS


def test_weights_that_cannot_be_kept_only_cost_the_next_run_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "file" / "cache"))
    sweep = {"name": "uncached", "models": ["recipe:cnn_2c2f?epochs=1"], "data": [{"digits": {"first": 8}}]}
    assert set(read([run(sweep, out=tmp_path / "run").folder]).cells["status"]) == {"done"}


def test_a_run_leaves_the_global_random_states_alone(tmp_path: Path) -> None:
    threat = {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": ["torchattacks:PGD"]}
    sweep = {"name": "quiet", "models": ["python:tests.nets:drawn"], "data": [{"digits": {"first": 8}}],
             "threats": {"linf": threat}}  # fmt: skip
    states = random.getstate(), torch.get_rng_state()
    run(sweep, out=tmp_path / "run")
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
