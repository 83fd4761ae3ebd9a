"""Names are file stems: rows are told apart by name and hash, and no two of them are called alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import robustsuite as rs
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.serve.data import InputSpace
from robustsuite.engine.merge import merge
from robustsuite.errors import BadData
from robustsuite.reports import write_report
from robustsuite.reports.measure.compare import compare
from robustsuite.reports.publish.leaderboard import boards
from robustsuite.reports.read.runs import Results, read

THREATS = {"linf": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": [{"noise": {"draws": 1}}, "fgsm"]}}


def checkpoint(file: Path, answer: int) -> str:
    """A network that always answers one class, as a file; its spec."""
    net = build("cnn_base", InputSpace(3, 32, 32, 10))
    state = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    state[[name for name in state if name.endswith("bias")][-1]][answer] = 5
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return f"checkpoint:{file}?arch=cnn_base"


def pictures(root: Path, seed: int) -> dict[str, Any]:
    """Eight pictures of two classes; the data set's entry."""
    drawn = np.random.RandomState(seed)
    for i in range(8):
        (root / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / f"{i % 2}/{i}.png")
    return {"imagefolder": {"root": str(root), "size": 8, "resize": 8}}


def swept(out: Path, models: list[Any], data: Any = None, **more: Any) -> Path:
    sweep = {"name": "twins", "models": models, "data": data or [{"scenes": {"first": 10}}], "threats": THREATS, **more}
    return rs.run(sweep, out=out).folder


def told(run: Results, axis: str, identity: str) -> dict[str, set[str]]:
    """Name -> the hashes that stand under it."""
    found: dict[str, set[str]] = {}
    for cell in run.known.values():
        found.setdefault(cell[axis], set()).add(eval(identity, {"record": cell["record"]}))
    return found


MODEL, DATA = "record.model.sha256", "record.data.sha256"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one sweep over runA/best and runB/best."""
    place = tmp_path_factory.mktemp("two")
    specs = [checkpoint(place / f"run{k}/best.safetensors", i) for i, k in enumerate("AB")]
    return [swept(place / f"out{i}", [spec]) for i, spec in enumerate(specs)]


NAMES = {"checkpoint:runA/best", "checkpoint:runB/best"}


def test_two_checkpoints_of_one_name_in_two_runs_are_two_rows(two: list[Path], tmp_path: Path) -> None:
    run = read(two)
    found = told(run, "model", MODEL)
    assert set(found) == NAMES and all(len(hashes) == 1 for hashes in found.values())
    write_report(two, tmp_path)
    assert "checkpoint:runA/best" in (tmp_path / "report.html").read_text()
    for file in tmp_path.glob("*.csv"):
        assert "checkpoint:best," not in file.read_text().replace("checkpoint:best\n", ""), file
    assert {s.model for board in boards(run) for s in board.standings} == NAMES
    assert set(read(two[:1]).cells["model"]) == {"checkpoint:best"}
    assert set(read([two[0], two[0]]).cells["model"]) == {"checkpoint:best"}


def test_two_checkpoints_of_one_name_in_one_sweep_are_two_rows(tmp_path: Path) -> None:
    specs = [checkpoint(tmp_path / f"run{k}/best.safetensors", i) for i, k in enumerate("AB")]
    found = told(read([swept(tmp_path / "out", specs)]), "model", MODEL)
    assert len(found) == 2 and all(len(hashes) == 1 for hashes in found.values())


def test_merged_runs_keep_their_models_apart(two: list[Path], tmp_path: Path) -> None:
    merge(two, tmp_path / "both")
    assert set(told(read([tmp_path / "both"]), "model", MODEL)) == NAMES
    merge([tmp_path / "both", two[0]], tmp_path / "again")
    both = read([tmp_path / "again"])
    assert set(told(both, "model", MODEL)) == NAMES
    found = compare(both, read([tmp_path / "both"]))
    assert set(found.cells["outcome"]) == {"same"} and not found.unpaired
    assert len(found.cells["run_id"].unique()) == len(both.cells)
    new = compare(read(two[:1]), both)  # the same weights first, whatever they are called
    assert set(new.cells["run_id"]) == set(read(two[:1]).known) and not new.unpaired


def test_a_gate_compares_a_new_checkpoint_of_the_old_name(two: list[Path]) -> None:
    found = compare(read(two[:1]), read(two[1:]))
    assert not found.unpaired and not found.extra


def test_two_folders_of_one_name_in_two_runs_are_two_data_sets(tmp_path: Path) -> None:
    net = "python:tests.nets:colours"
    data = [pictures(tmp_path / k / "pictures", i) for i, k in enumerate("ab")]
    shifts = [{"imagenet_c": {"corruptions": ["contrast"], "severities": [1]}}]
    runs = [swept(tmp_path / f"out{i}", [net], [entry], shifts=shifts) for i, entry in enumerate(data)]
    merge(runs, tmp_path / "both")
    for run in (read(runs), read([tmp_path / "both"])):
        found = told(run, "dataset", f"{DATA} if record.shift is None else ''")
        assert set(found) == {"a/pictures", "b/pictures"}
        assert all(len(hashes) == 2 for hashes in found.values())
        assert set(run.cells["model"]) == {net} and len(set(run.cells["shift"])) == 3
    one = read([swept(tmp_path / "out", [net], data, shifts=shifts)])
    assert all(len(hashes) == 2 for hashes in told(one, "dataset", f"{DATA} if record.shift is None else ''").values())
    with pytest.raises(BadData, match="expected a cell that both runs measured"):  # these are other pictures
        compare(read(runs[:1]), read([swept(tmp_path / "bare", [net], data[1:])]))
