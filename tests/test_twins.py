"""Names are file stems: rows are told apart by name and hash, and no two of them are called alike."""

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import robustsuite as rs
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.engine.merge import merge
from robustsuite.errors import BadData
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord, DataFacts, ModelFacts, ScenarioFacts
from robustsuite.records.swept import Entry, Part
from robustsuite.records.twins import tell_apart
from robustsuite.reports import write_report
from robustsuite.reports.boards.leaderboard import boards
from robustsuite.reports.measure.compare import compare
from robustsuite.reports.read.runs import Results, read
from robustsuite.serve.data import InputSpace

THREATS = {"linf": {"scenario": "evasion", "budget": {"linf": "8/255"}, "attacks": [{"noise": {"draws": 1}}, "fgsm"]}}


def checkpoint(file: Path, answer: int) -> str:
    """A network that always answers one class, as a file; its spec."""
    net = build("cnn_base", InputSpace(3, 32, 32, 10))
    state = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    state[[name for name in state if name.endswith("bias")][-1]][answer] = 5
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return f"checkpoint:{file}?arch=cnn_base"


def pictures(root: Path, seed: int, prefix: str = "") -> dict[str, Any]:
    """Eight pictures of two classes; the data set's entry."""
    drawn = np.random.RandomState(seed)
    for i in range(8):
        (root / f"{prefix}{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / f"{prefix}{i % 2}/art_{i}.png")
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
    assert set(found) == NAMES
    assert all(len(hashes) == 1 for hashes in found.values())
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
    assert len(found) == 2
    assert all(len(hashes) == 1 for hashes in found.values())


def test_merged_runs_keep_their_models_apart(two: list[Path], tmp_path: Path) -> None:
    merge(two, tmp_path / "both")
    assert set(told(read([tmp_path / "both"]), "model", MODEL)) == NAMES
    merge([tmp_path / "both", two[0]], tmp_path / "again")
    both = read([tmp_path / "again"])
    assert set(told(both, "model", MODEL)) == NAMES
    found = compare(both, read([tmp_path / "both"]))
    assert set(found.cells["outcome"]) == {"same"}
    assert not found.unpaired
    assert len(found.cells["run_id"].unique()) == len(both.cells)
    new = compare(read(two[:1]), both)  # the same weights first, whatever they are called
    assert set(new.cells["run_id"]) == set(read(two[:1]).known)
    assert not new.unpaired


def test_a_gate_compares_a_new_checkpoint_of_the_old_name(two: list[Path]) -> None:
    found = compare(read(two[:1]), read(two[1:]))
    assert not found.unpaired
    assert not found.extra


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
        assert set(run.cells["model"]) == {net}
        assert len(set(run.cells["shift"])) == 3
    one = read([swept(tmp_path / "out", [net], data, shifts=shifts)])
    assert all(len(hashes) == 2 for hashes in told(one, "dataset", f"{DATA} if record.shift is None else ''").values())
    with pytest.raises(BadData, match="expected a cell that both runs measured"):  # these are other pictures
        compare(read(runs[:1]), read([swept(tmp_path / "bare", [net], data[1:])]))


def test_two_shift_sets_of_one_name_in_two_runs_are_two_shifts(tmp_path: Path) -> None:
    net, data = "python:tests.nets:colours", pictures(tmp_path / "pictures", 0, "n0000000")
    entries = []
    for i, k in enumerate("ab"):
        pictures(tmp_path / k / "r", i + 1, "n0000000")
        entries.append({"imagenet_r": {"root": str(tmp_path / k / "r"), "partial": True}})
    runs = [swept(tmp_path / f"out{i}", [net], [data], shifts=[entry]) for i, entry in enumerate(entries)]
    merge(runs, tmp_path / "both")
    once = swept(tmp_path / "one", [net], [data], shifts=entries)
    for folders in (runs, [tmp_path / "both"], [once]):
        run = read(folders)
        moved = run.cells[run.cells["corruption"].isin(["art"])]
        kinds = moved.groupby(["shift", "corruption"])["data_sha256"].nunique()
        assert set(kinds) == {1}
        assert len(set(moved["shift"])) == 2
        assert len(moved) == 2
        assert folders == [once] or set(moved["shift"]) == {"imagenet_r(a/r)", "imagenet_r(b/r)"}
        write_report(folders, tmp_path / "report")


def test_a_corruption_at_other_severities_is_one_shift(tmp_path: Path) -> None:
    shifts = [{"imagenet_c": {"corruptions": "contrast", "severities": [k]}} for k in (1, 2)]
    net = "python:tests.nets:colours"
    data = [pictures(tmp_path / "pictures", 0)]
    run = read([swept(tmp_path / f"out{i}", [net], data, shifts=[entry]) for i, entry in enumerate(shifts)])
    assert set(run.cells["shift"]) == {"", "clean", "imagenet_c"}


def test_a_file_that_is_renamed_keeps_both_names(tmp_path: Path) -> None:
    specs = [checkpoint(tmp_path / f"{name}.safetensors", 0) for name in ("old", "new")]
    run = read([swept(tmp_path / f"out{i}", [spec]) for i, spec in enumerate(specs)])
    assert set(run.cells["model"]) == {"checkpoint:old", "checkpoint:new"}
    assert set(run.cells["dataset"]) == {"scenes"}


def test_seeds_and_other_images_of_one_model_are_one_row(tmp_path: Path) -> None:
    spec, moved = (checkpoint(tmp_path / f"{k}/best.safetensors", 0) for k in "ab")
    runs = [swept(tmp_path / "out0", [spec], seeds=[0, 1]), swept(tmp_path / "out1", [moved], seeds=[2])]
    runs.append(swept(tmp_path / "out2", [spec], [{"scenes": {"first": 5}}]))
    run = read(runs)
    assert set(run.cells["model"]) == {"checkpoint:best"}
    assert set(run.cells["dataset"]) == {"scenes(first=10)", "scenes(first=5)"}


EDITED = """import torch
from torch import nn


def make():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    with torch.no_grad():
        net[2].weight.fill_(0.1)
    return Twice(net)


class Twice(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return SIGN * self.net(x)
"""


def test_a_network_whose_code_was_edited_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    runs = []
    for i, sign in enumerate(("1.0", "-1.0")):
        torch.manual_seed(0)
        (tmp_path / "edited_net.py").write_text(EDITED.replace("SIGN", sign))
        sys.modules.pop("edited_net", None)
        importlib.invalidate_caches()
        runs.append(swept(tmp_path / f"out{i}", ["python:edited_net:make"]))
    merge(runs, tmp_path / "both")
    for run in (read(runs), read([tmp_path / "both"])):
        assert len(told(run, "model", MODEL)) == 2
        assert all(name.startswith("python:edited_net:make #") for name in run.cells["model"])


def test_runs_that_do_not_say_what_was_asked_are_told_by_digits(two: list[Path], tmp_path: Path) -> None:
    olds = []
    for folder in two:
        shutil.copytree(folder, old := tmp_path / folder.name)
        facts = json.loads((old / "sweep.json").read_text())
        del facts["entries"]
        (old / "sweep.json").write_text(json.dumps(facts))
        olds.append(old)
    run = read(olds)
    for name, hashes in told(run, "model", MODEL).items():
        assert {name} == {f"checkpoint:best #{digest[:6]}" for digest in hashes}


@pytest.mark.parametrize("called", [("one", "other"), pytest.param(("mine", "mine"), marks=pytest.mark.slow)])
def test_what_as_says_is_kept_where_it_tells_apart(called: tuple[str, str], tmp_path: Path) -> None:
    specs = [checkpoint(tmp_path / f"run{k}/best.safetensors", i) for i, k in enumerate("AB")]
    runs = [swept(tmp_path / f"out{i}", [{specs[i]: None, "as": name}]) for i, name in enumerate(called)]
    merge(runs, tmp_path / "both")
    longer = {f"mine = {name}" for name in NAMES}
    for run in (read(runs), read([tmp_path / "both"])):
        assert set(told(run, "model", MODEL)) == (longer if called[0] == called[1] else set(called))
    write_report(runs, tmp_path / "report")
    said = (tmp_path / "report" / "names.csv").read_text()
    assert all(name in said for name in NAMES)


WORDS = st.sampled_from(["checkpoint:best", "checkpoint:runA/best", "checkpoint:best #aaaaaa"])
PATHS = ["", "checkpoint:runA/best.pt?arch=x", "checkpoint:/x/runB/best.pt", "checkpoint:best.pt", "a\nb"]
ASKED = st.sampled_from(PATHS)
HASHES = st.sampled_from(["", "aaaaaa" + 58 * "0", "aaaaaa" + 58 * "1", 64 * "b"])
RUNS = st.lists(st.lists(st.tuples(WORDS, ASKED, HASHES, st.sampled_from("de")), max_size=4), max_size=5)


@given(RUNS)
def test_no_two_hashes_share_a_name_and_no_hash_has_two(runs: list[list[tuple[str, str, str, str]]]) -> None:
    rows: list[dict[str, Any]] = []
    for share, cells in enumerate(runs):
        for words, _, digest, data in cells:
            record = CellRecord(
                run_id="x", status="done", scenario=ScenarioFacts(name="shift"),
                model=ModelFacts(name=words, sha256=digest), data=DataFacts(name=data, n=1),
            )  # fmt: skip
            rows.append(flat(record) | {"share": share, "record_words": {"model": words, "dataset": data, "shift": ""}})
    asked = [{"model": {w: Entry(asked=asked) for w, asked, _, _ in cells}} for cells in runs]
    shares = [Part(entries=found) for found in asked] if len(runs) > 1 else [Part()]  # one plan tells its own apart
    tell_apart(rows, shares)
    shown: dict[tuple[str, str], set[str]] = {}
    names: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        if digest := row["record"].model.sha256:
            shown.setdefault((row["model"], row["dataset"]), set()).add(digest)
            names.setdefault((row["record"].model.name, row["dataset"], digest), set()).add(row["model"])
    assert all(len(hashes) == 1 for hashes in shown.values())
    assert all(len(found) == 1 for found in names.values())
