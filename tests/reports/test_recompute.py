"""The command on a cell's page, read back by the command line itself, plans a cell of the same run id."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from robustsuite.app import api
from robustsuite.app.cli import app
from robustsuite.app.commands_run import _chosen
from robustsuite.app.described import description
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import Sweep, sweep_of
from robustsuite.records.schema import CellRecord
from robustsuite.records.swept import Part, SweepFacts
from robustsuite.reports.boards.recompute import Again, again
from robustsuite.scenarios.cell import UNPLAYED, Cell
from robustsuite.serve.data import Dataset, InputSpace, Split

NET = "python:tests.nets:linear"
STACK = [{"gaussian_augmentation": {"sigma": 0.1, "epochs": 1}}, {"randomized_smoothing": {"sigma": 0.1, "n": 4}}]
EVERY: dict[str, Any] = {
    "name": "every", "models": [NET, "python:tests.nets:another"], "seeds": [0, 3],
    "data": [{"digits": {"first": 40}}, {"digits": {"first": 20}}],
    "defenses": ["none", {"stack": STACK, "as": "both"}], "stream": {"order": "shuffled", "batch": 8},
    "threats": {
        "linf": {"scenario": "evasion", "budget": {"linf": "8/255"},
                 "attacks": ["fgsm", {"pgd": {"steps": 5}, "as": "P"}]},
        "cli": {"scenario": "evasion", "access": ["scores"], "budget": {"linf": 0.05}, "attacks": ["square"]},
        "to 3: 'it'": {"scenario": "evasion", "budget": {"l2": 0.1, "queries": 30}, "goal": {"target": 3},
                       "attacks": [{"pgd": {"steps": 4, "eot": 2, "first": 10}}]},
        "far": {"scenario": "evasion", "access": "labels", "budget": {"l2": float("inf")}, "attacks": ["cgba"]},
        "proof": {"scenario": "certification", "budget": {"l2": 0.1}, "attacks": [{"lirpa": {"first": 7}}, "fgsm"]},
        "door": {"scenario": "poisoning", "access": "train_set", "budget": {"poison_rate": 0.1}, "target": 2,
                 "attacks": ["badnets"]},
        "leak": {"scenario": "inversion", "access": ["weights", "update"], "budget": {"batch": 3}, "attacks": ["idlg"]},
    },
}  # fmt: skip
SHIFTED: dict[str, Any] = {
    "name": "t", "models": ["recipe:scenes_resnet?epochs=1"],
    "data": [{"scenes": {"train": 20, "val": 20, "first": 20}}],
    "shifts": [{"imagenet_c": {"corruptions": ["fog"], "severities": [k]}} for k in (1, 3)],
    "threats": {"linf": {"scenario": "evasion", "budget": {"linf": "2/255"}, "attacks": ["fgsm"],
                         "shifts": ["imagenet_c"]}},
}  # fmt: skip


def told(sweep: Sweep, first: int | None = None) -> tuple[list[Cell], Part]:
    """What is planned, and what sweep.json says of it once it was written and read."""
    planned = plan(sweep, "cpu", first)
    facts = SweepFacts.model_validate_json(json.dumps(description(sweep, planned, first)))
    return [cell for cell, _ in planned], facts.shares()[0]


def recorded(cell: Cell) -> CellRecord:
    return UNPLAYED.model_copy(update=cell.asked() | {"run_id": cell.run_id})


def planned(found: Again, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The run ids that the command plans, as the command line reads it in a folder with the saved sweep."""
    asked: list[tuple[Sweep, int | None]] = []

    def caught(chosen: Sweep, *, first: int | None, **_: Any) -> None:
        asked.append((chosen, first))
        raise typer.Exit(0)

    monkeypatch.setattr(api, "run", caught)
    monkeypatch.chdir(folder)
    if found.file:
        Path(found.file).write_text(found.sweep, "utf-8")
    name, *words = shlex.split(found.command)
    done = CliRunner().invoke(app, words)
    assert (name, done.exit_code) == ("robustsuite", 0), done.output
    ((chosen, first),) = asked
    return {cell.run_id for cell, _ in plan(chosen, "cpu", first)}


@pytest.mark.parametrize(("sweep", "first", "step"), [(EVERY, 15, 7), (SHIFTED, None, 1)], ids=["every", "shifted"])
def test_what_a_page_says_plans_the_same_cell(
    sweep: dict[str, Any], first: int | None, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, share = told(sweep_of(sweep, "t"), first)
    known: dict[tuple[str, str], set[str]] = {}
    for cell in cells[::step]:  # of every attack one, and of every system
        found = again(recorded(cell), share)
        assert found.command, found.lacks
        text = found.sweep.replace(cell.run_id, "")
        known.setdefault((found.command.replace(cell.run_id, ""), text), set()).add(cell.run_id)
    for (command, text), wanted in known.items():  # cells of one system share a sweep, which is planned once
        file = "cell-.yaml" if text else ""
        ids = planned(Again(command, file, text), tmp_path, monkeypatch)
        assert wanted <= ids
        assert len(ids) <= 8, "its own and its twins', not the whole sweep"


def test_flags_say_what_flags_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (None, [NET], ["{digits: {first: 20}}"], None, ["{pgd: {steps: 5}}"], ["none"], "l2: 0.5", "white_box", [4])
    cells, share = told(_chosen(*flags), 15)
    for cell in cells:
        found = again(recorded(cell), share)
        assert not found.sweep
        assert cell.run_id in planned(found, tmp_path, monkeypatch)
    assert found.command == (
        "robustsuite run --model python:tests.nets:linear --data '{digits: {first: 20}}' --attack '{pgd: {steps: 5}}' "
        "--budget '{l2: 0.5}' --access white_box --seed 4 --first 15"
    )


def test_what_no_command_can_say_is_said() -> None:
    pictures = Split.of(torch.zeros(4, 1, 8, 8), torch.arange(4))
    data = Dataset("mine", InputSpace(1, 8, 8, 10), tuple("0123456789"), {"test": pictures})
    (cell, *_), share = told(sweep_of({"name": "t", "models": [NET], "data": [data]}, "t"))
    assert again(recorded(cell), share) == Again(lacks="how to load the data set mine: it was handed over from Python")
    (cell, *_), share = told(sweep_of({**EVERY, "threats": {}}, "t"))
    assert "kept words alone" in again(recorded(cell), share.model_copy(update={"sweep": None})).lacks
    assert "no such entry" in again(recorded(cell), share.model_copy(update={"entries": {}})).lacks
    odd = {**share.entries, "model": {NET: share.entries["model"][NET].model_copy(update={"spec": [1]})}}
    assert "no such entry" in again(recorded(cell), share.model_copy(update={"entries": odd})).lacks
