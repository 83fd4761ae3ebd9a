"""The other schemes: AutoAttack's example, own factories, recipes, and what cannot be fetched."""

import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from robustsuite.benchmarks.datasets.scenes import scenes
from robustsuite.errors import BadModel, BadValue, MissingPackage, UnknownName, UsageError
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Training, load_model

CIFAR, IMAGENET = InputSpace(3, 32, 32, 10), InputSpace(3, 224, 224, 1000)


def test_a_factory_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_net_module.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
        "def wrong():\n    return 3\ndef scripted():\n    import torch\n    return torch.jit.script(build())\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_model("python:own_net_module:build", CIFAR).net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(BadModel, match="int"):
        load_model("python:own_net_module:wrong", CIFAR)
    with pytest.raises(BadModel, match="torchscript:FILE"):
        load_model("python:own_net_module:scripted", CIFAR)
    with pytest.raises(BadModel, match="nothing"):
        load_model("python:own_net_module:nothing", CIFAR)
    with pytest.raises(BadModel, match="no_such_module"):
        load_model("python:no_such_module:build", CIFAR)
    with pytest.raises(BadValue, match="factory"):
        load_model("python:own_net_module", CIFAR)
    with pytest.raises(BadModel, match="9-class data"):
        load_model("python:own_net_module:build", InputSpace(3, 32, 32, 9))
    with pytest.raises(BadModel, match="error"):
        load_model("python:own_net_module:build", InputSpace(3, 8, 8, 10))


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("torchvision:resnet5", UnknownName, "resnet50"),
        ("torchvision:resnet18?weights=X", BadValue, "IMAGENET1K_V1"),
        ("timm:resnet5", UnknownName, "timm model"),
        ("pyautoattack:cifar100", UnknownName, "cifar10"),
        ("pyautoattack:cifar10", BadModel, "3x32x32"),
        ("recipe:nonsense", UnknownName, "cifar_resnet20"),
        ("recipe:scene_resnet", UnknownName, "scenes_resnet"),
        ("recipe:cnn_a?epochs=0", BadValue, "epochs"),
        ("recipe:cnn_a?epochs=many", BadValue, "number"),
    ],
)
def test_wrong_names_are_sentences(spec, kind, words):
    with pytest.raises(kind, match=words):
        load_model(spec, IMAGENET)


@pytest.mark.parametrize(
    "spec", ["torchvision:squeezenet1_1", "timm:mobilenetv2_100", "hf-hub:timm/mobilenetv2_100.ra_in1k"]
)
def test_without_a_network_the_sentence_says_what_to_do(spec, monkeypatch, tmp_path):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadModel, match="without a network"):
        load_model(spec, IMAGENET)


@pytest.mark.parametrize(("spec", "package"), [("robustbench:Linf/X", "robustbench"), ("onnx:f.onnx", "onnx2torch")])
def test_missing_extras_name_the_line_that_installs_them(spec, package, monkeypatch):
    monkeypatch.setattr("robustsuite.benchmarks.models.zoos.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"pip install 'robustsuite\["):
        load_model(spec, CIFAR)


def test_autoattacks_example_reaches_its_accuracy(shared):
    from robustsuite.serve.data import load_data
    from robustsuite.serve.training import accuracy

    _, split = load_data({"cifar10": {"root": str(shared / "data" / "cifar10"), "pack": "lossless", "first": 64}})
    model = load_model("pyautoattack:cifar10", CIFAR)
    assert accuracy(model.net, split) > 0.9


def test_a_recipe_trains_the_same_network_twice_and_is_named_by_its_parameters():
    data = scenes(train=128, val=16, test=16)
    model = load_model("recipe:cnn_base?epochs=1", data.space)
    assert not model.pretrained
    training = Training(data.split("train"), data.split("val"), seed=3)
    state = torch.get_rng_state()
    first, second = (model.fit(model.net, training).state_dict() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    hashes = {load_model(f"recipe:{s}", data.space).sha256 for s in ("cnn_base", "cnn_base?epochs=1", "cnn_a?epochs=1")}
    assert len(hashes) == 3
    assert model.sha256 in hashes


def test_every_refusal_is_a_usage_error():
    assert issubclass(BadModel, UsageError)


def exported(folder: Path, nodes: list[Any], opset: int) -> Path:
    """An ONNX file of these nodes over 3x8x8 pictures, from 'x' to 'y' (N, 3)."""
    import onnx

    shape = ("N", 3, 8, 8)
    ends = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("y", ("N", 3)))]
    axes = onnx.helper.make_tensor("axes", 7, [2], [2, 3])
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [axes])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(made, folder / "n.onnx")
    return folder / "n.onnx"


def test_onnx_newer_than_the_converter_is_brought_down_and_errors_are_a_line(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    import onnx

    space, x = InputSpace(3, 8, 8, 3), torch.rand(2, 3, 8, 8)
    mean = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    model = load_model(f"onnx:{exported(tmp_path, [mean], 18)}", space)
    assert model.note == "n.onnx brought down to opset 17"
    assert torch.allclose(model.net(x), x.mean((2, 3)), atol=1e-6)
    newer = onnx.helper.make_node("Col2Im", ["x", "axes", "axes"], ["y"])
    with pytest.raises(BadModel) as refused:
        load_model(f"onnx:{exported(tmp_path, [newer], 18)}", space)
    assert "opset 17" in str(refused.value)
    (tmp_path / "n.onnx").write_bytes(b"abc")
    with pytest.raises(BadModel, match="expected an ONNX network"):
        load_model(f"onnx:{tmp_path / 'n.onnx'}", space)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_onnx_with_a_convolutions_weights_as_a_constant(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    import onnx

    space, x, weight = InputSpace(3, 8, 8, 3), torch.rand(2, 3, 8, 8), torch.rand(3, 3, 8, 8)
    constant = onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight.numpy()))
    nodes = [constant, onnx.helper.make_node("Conv", ["x", "w"], ["map"]),
             onnx.helper.make_node("Flatten", ["map"], ["y"])]  # fmt: skip
    model = load_model(f"onnx:{exported(tmp_path, nodes, 17)}", space)
    assert torch.allclose(model.net(x), torch.nn.functional.conv2d(x, weight).flatten(1), rtol=1e-4)


def test_what_onnx2torch_says_is_cut_to_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: object) -> None:
        raise ValueError("an initializer of version 3\n" + "0.1, " * 9999)

    for name, facts in {
        "onnx": {"load": lambda _: None}, "onnx2torch": {"convert": convert},
        "onnx.version_converter": {"convert_version": lambda model, _: model},
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**facts, __path__=[]))
    monkeypatch.setattr("robustsuite.benchmarks.models.zoos.find_spec", lambda _: True)
    (tmp_path / "n.onnx").write_bytes(b"abc")
    with pytest.raises(BadModel, match=r"got an initializer of version 3; export it again with opset 17$"):
        load_model(f"onnx:{tmp_path / 'n.onnx'}", CIFAR)
    with pytest.raises(BadModel, match="which is not there"):
        load_model("onnx:none.onnx", CIFAR)
