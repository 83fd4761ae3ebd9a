"""Checkpoints as frameworks write them: each loads the plain network's weights, or is refused in one sentence."""

import argparse
import os
import pathlib
import pickle
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustsuite.errors import BadModel
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import load_model

SPACE = InputSpace(1, 4, 4, 3)
ARCH = "arch=python:tests.benchmarks.models.test_weights:net"


def net() -> nn.Module:
    """Small, with batch normalisation for its buffers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def nested() -> nn.Module:
    """One whose own names begin as a wrapper's do."""
    return Held(net())


class Held(nn.Module):
    """A network that keeps another under `model`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Config:
    """A class of somebody's own."""

    def __reduce__(self) -> tuple[object, ...]:
        return Config, ()


with torch.random.fork_rng():
    GOOD = {k: v + 0.25 if v.is_floating_point() else v for k, v in net().state_dict().items()}
RAW = {k: torch.zeros_like(v) for k, v in GOOD.items()}


def pre(prefix: str) -> dict[str, Tensor]:
    """The good weights under a wrapper's names."""
    return {prefix + k: v for k, v in GOOD.items()}


def to(dtype: torch.dtype) -> dict[str, Tensor]:
    """In another precision."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in GOOD.items()}


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4, 16)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

LOADS: dict[str, Any] = {
    "flat": GOOD,
    "flat with epoch": {**GOOD, "epoch": 3},
    **{key: {key: GOOD, "epoch": 3, "optimizer": OPTIMIZER} for key in (
        "state_dict", "model_state_dict", "model_state", "model", "net", "module", "weights", "params", "ema",
        "model_ema", "state_dict_ema", "teacher", "best_model_of_mine",
    )},
    "two deep": {"checkpoint": {"model": GOOD}, "epoch": 1},
    "module.": pre("module."),
    "_orig_mod.": pre("_orig_mod."),
    "module._orig_mod.": pre("module._orig_mod."),
    "_orig_mod.module.": pre("_orig_mod.module."),
    "backbone.": pre("backbone."),
    "net.": pre("net."),
    "lightning": {"state_dict": pre("model."), "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.5.0"},
    "averaged": {**pre("module."), "n_averaged": torch.tensor(3)},
    "averaged under ddp": {**pre("module.module."), "module.n_averaged": torch.tensor(3)},
    "Namespace": {"state_dict": GOOD, "args": argparse.Namespace(lr=1, out=pathlib.Path("runs"))},
    "SimpleNamespace": {"state_dict": GOOD, "cfg": types.SimpleNamespace(lr=1)},
    "numpy": {"state_dict": GOOD, "best_acc": np.float64(0.9), "curve": np.arange(3.0), "t": np.True_},
    "tensor beside": {"state_dict": GOOD, "best_acc": torch.tensor(0.9)},
    "parameters": {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in GOOD.items()},
    "no counters": {k: v for k, v in GOOD.items() if "num_batches" not in k},
    "another's weights beside": {"model": GOOD, "discriminator": {"w": torch.zeros(3, 3)}},
}  # fmt: skip


def loaded(path: Path, query: str = ARCH) -> Any:
    return load_model(f"checkpoint:{path}?{query}", SPACE)


def same(model: Any) -> bool:
    found = model.net.state_dict()
    return all(torch.equal(found[k], v) for k, v in GOOD.items() if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("content", LOADS.values(), ids=LOADS)
def test_it_loads_what_the_plain_network_has(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "f.pth")
    assert same(loaded(tmp_path / "f.pth"))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone."])
def test_a_safetensors_file_is_read_by_the_same_rules(prefix: str, tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in pre(prefix).items()}, tmp_path / "f.safetensors")
    assert same(loaded(tmp_path / "f.safetensors"))


def test_files_older_than_torch_1_6_and_those_of_newer_pickles_load(tmp_path: Path) -> None:
    torch.save({"state_dict": GOOD}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(loaded(tmp_path / "old.pth"))


def test_a_prefix_that_the_architecture_has_itself_stays(tmp_path: Path) -> None:
    arch = "arch=python:tests.benchmarks.models.test_weights:nested"
    for prefix in ("model.", "module.model.", "net.model."):
        torch.save(pre(prefix), tmp_path / "f.pth")
        found = loaded(tmp_path / "f.pth", arch).net.state_dict()
        assert torch.equal(found["model.1.weight"], GOOD["1.weight"])


def test_a_prefix_that_one_tensor_has_not_stays(tmp_path: Path) -> None:
    torch.save({**pre("module."), "head.weight": torch.zeros(2)}, tmp_path / "f.pth")
    with pytest.raises(BadModel, match=r"left over \(module\.1\.weight"):
        loaded(tmp_path / "f.pth")


PAIRS = [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("student", "teacher"), ("net", "ema"),
         ("state_dict", "best_so_far")]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=":".join)
def test_of_two_sets_of_weights_none_is_taken_unasked(pair: tuple[str, str], tmp_path: Path) -> None:
    torch.save({pair[0]: RAW, pair[1]: pre("module."), "epoch": 1}, tmp_path / "f.pth")
    with pytest.raises(BadModel) as refused:
        loaded(tmp_path / "f.pth")
    assert f"choose weights={pair[0]} or weights={pair[1]}" in str(refused.value)
    first, second = (loaded(tmp_path / "f.pth", f"{ARCH}&weights={key}") for key in pair)
    assert same(second)
    assert not same(first)
    assert first.name == f"checkpoint:f({pair[0]})"
    assert first.identity() != second.identity()
    with pytest.raises(BadModel, match=f"{pair[0]}, {pair[1]}.*'other'"):
        loaded(tmp_path / "f.pth", f"{ARCH}&weights=other")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_computed_in_float32_and_that_is_said(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(to(dtype), tmp_path / "f.pth")
    model = loaded(tmp_path / "f.pth")
    assert torch.allclose(model.net.state_dict()["1.weight"], GOOD["1.weight"], atol=1e-2)
    assert all(v.dtype != dtype for v in model.net.state_dict().values())
    assert f"f.pth stored in {str(dtype)[6:]}, computed in float32" in model.note


def quantised() -> Any:
    q = torch.quantize_per_tensor(GOOD["1.weight"], 0.1, 0, torch.qint8)
    return {**GOOD, "1.weight": q}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a class of one's own": (lambda: {"state_dict": GOOD, "cfg": Config()}, "test_weights.Config beside them; nothing"),
    "a function": (lambda: {"state_dict": GOOD, "f": os.getcwd}, "getcwd beside them"),
    "a whole module": (net, "a whole pickled network"),
    "a module beside": (lambda: {"model": net(), "ema": None}, "save its state_dict(), or load it as python:"),
    "quantised": (quantised, "'1.weight', which is quantised; save those of the float model"),
    "packed": (lambda: {**GOOD, "1._packed": (quantised()["1.weight"], GOOD["1.bias"])}, "which is quantised"),
    "float8": (lambda: to(torch.float8_e4m3fn), "which is quantised"),
    "sparse": (lambda: {**GOOD, "1.weight": GOOD["1.weight"].to_sparse()}, "which is sparse"),
    "nested": (lambda: {**GOOD, "1.weight": torch.nested.nested_tensor([GOOD["1.weight"]])}, "which is nested"),
    "complex": (lambda: to(torch.complex64), "which is complex"),
    "whole numbers": (lambda: {**GOOD, "1.weight": GOOD["1.weight"].to(torch.int8)}, "1.weight of int8 for float32"),
    "a huge view": (lambda: {**GOOD, "1.weight": torch.zeros(1).expand(10**6, 10**6)}, "1000000) for (4, 16)"),
    "meta": (lambda: {**GOOD, "1.weight": GOOD["1.weight"].to("meta")}, "on the device meta"),
    "a list": (lambda: [GOOD], "got list"),
    "one tensor": (lambda: GOOD["1.weight"], "got Tensor"),
    "nothing": (dict, "got none"),
    "another net": (lambda: {"state_dict": {"w": torch.zeros(3)}}, "1 left over (w)"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_a_sentence(content: Callable[[], Any], says: str, tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "f.pth")
    said = refusal(tmp_path / "f.pth")
    assert says in said
    assert "\n" not in said


def refusal(path: Path | str) -> str:
    start = time.monotonic()
    with pytest.raises(BadModel) as refused:
        load_model(f"checkpoint:{path}?{ARCH}", SPACE)
    assert time.monotonic() - start < 5
    assert len(str(refused.value)) < 600
    return str(refused.value)


def test_a_stand_in_runs_nothing_of_the_class_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("run")

    torch.save({"net": GOOD, "args": argparse.Namespace(lr=1)}, tmp_path / "f.pth")
    monkeypatch.setattr(argparse.Namespace, "__setattr__", called)
    assert same(loaded(tmp_path / "f.pth"))
    assert not [one for one in torch.serialization.get_safe_globals() if "Stand" in str(one)]


def test_an_older_file_names_the_class_that_stops_it(tmp_path: Path) -> None:
    torch.save({"net": GOOD, "cfg": Config()}, tmp_path / "f.pth", _use_new_zipfile_serialization=False)
    assert "test_weights.Config" in refusal(tmp_path / "f.pth")


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps(net()))
    for name, says in {
        "pipe.pth": "a pipe or a device", "empty.pth": "which is empty", "none.pth": "which is not there",
        "loop.pth": "too many levels", "pickled.pth": "nothing in it was run",
    }.items():  # fmt: skip
        assert says in refusal(tmp_path / name)
    assert "a pipe or a device" in refusal("/dev/zero")
    assert "nothing in it was run" in refusal("/etc/passwd")
    assert "too long" in refusal("a" * 5000)
    assert "null byte" in refusal("a\0b")
    assert "name the file in it" in refusal(tmp_path)


def test_shards_are_refused_wherever_one_points(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}')
    assert "the index of weights in 2 shards" in refusal(index)
    assert "are in shards" in refusal(tmp_path)
    folder = tmp_path / "deepspeed"
    (folder / "global_step10").mkdir(parents=True)
    assert "are in shards" in refusal(folder)
    other = tmp_path / "hub"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert "hf:FOLDER" in refusal(other)


def test_an_archive_that_declares_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(
        tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED
    ) as bomb:  # fmt: skip
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
        bomb.writestr("good/data/99", bytes(10**7))
    assert "nothing was unpacked" in refusal(tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "any.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "nothing in it was run" in refusal(tmp_path / "any.pth")


def test_without_an_architecture_the_one_that_fits_is_found_through_every_wrapper(tmp_path: Path) -> None:
    from robustsuite.benchmarks.models.small_nets import build

    space = InputSpace(3, 32, 32, 10)
    weights = {f"module.{k}": v for k, v in build("cnn_a", space).state_dict().items()}
    torch.save({"model": weights, "optimizer": {"state": torch.ones(2)}}, tmp_path / "f.pth")
    assert "f.pth read as arch=cnn_a" in load_model(f"checkpoint:{tmp_path / 'f.pth'}", space).note
