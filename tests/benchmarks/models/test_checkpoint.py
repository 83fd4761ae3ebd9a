"""Files of weights: what fits loads exactly, what does not is a sentence, and nothing in a file is run."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustsuite.app.described import description
from robustsuite.benchmarks.models.small_nets import ARCHITECTURES, build
from robustsuite.benchmarks.models.weights import read_weights
from robustsuite.engine.plan import plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadModel, BadValue
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import load_model, ready

SPACE = InputSpace(3, 32, 32, 10)
X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in build("resnet2b", SPACE).state_dict().items()
    }


def saved(folder: Path, weights: dict[str, torch.Tensor], name: str = "w.safetensors", **metadata: str) -> Path:
    path = folder / name
    save_file(weights, path, metadata) if name.endswith(".safetensors") else torch.save(weights, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_both_formats_give_the_same_network(tmp_path, weights, name):
    net = build("resnet2b", SPACE)
    net.load_state_dict(weights)
    loaded = load_model(f"checkpoint:{saved(tmp_path, weights, name)}?arch=resnet2b", SPACE)
    assert torch.allclose(ready(loaded.net)(X), ready(net)(X), atol=1e-5)
    assert loaded.pretrained


def test_normalisation_comes_from_the_query_else_from_the_file(tmp_path, weights):
    path = saved(tmp_path, weights, mean="0.1,0.2,0.3", std="0.5,0.6,0.7")
    net = build("resnet2b", SPACE)
    net.load_state_dict(weights)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    by_file = load_model(f"checkpoint:{path}?arch=resnet2b", SPACE)
    by_query = load_model(f"checkpoint:{path}?arch=resnet2b&mean=0.5&std=0.25", SPACE)
    assert torch.allclose(ready(by_file.net)(X), ready(net)((X - mean) / std), atol=1e-5)
    assert torch.allclose(ready(by_query.net)(X), ready(net)((X - 0.5) / 0.25), atol=1e-5)
    assert by_file.sha256 != by_query.sha256


def test_half_precision_and_wrapped_state_dicts_are_taken(tmp_path, weights):
    halves = {"state_dict": {f"module.{k}": v.half() for k, v in weights.items()}}
    torch.save(halves, tmp_path / "h.pth")
    net = load_model(f"checkpoint:{tmp_path / 'h.pth'}?arch=resnet2b", SPACE).net
    assert all(p.dtype == torch.float32 for p in net.parameters())


def refusal(path: Path | str, query: str = "arch=resnet2b", space: InputSpace = SPACE, kind: type = BadModel) -> str:
    with pytest.raises(kind) as caught:
        load_model(f"checkpoint:{path}?{query}", space)
    return str(caught.value)


def test_missing_and_left_over_tensors_are_named(tmp_path, weights):
    weights["extra.bias"] = weights.pop("linear2.bias")
    said = refusal(saved(tmp_path, weights))
    assert "linear2.bias" in said
    assert "extra.bias" in said


def test_another_architecture_is_refused_with_the_one_that_fits(tmp_path, weights):
    path = saved(tmp_path, weights)
    assert "arch=resnet2b" in refusal(path, "arch=cnn_a")
    assert "got 'resnet2'; its tensors fit arch=resnet2b" in refusal(path, "arch=resnet2")


def test_without_arch_the_only_net_that_fits_is_taken_and_said(tmp_path, weights, monkeypatch):
    path = saved(tmp_path, weights)
    given, found = (load_model(f"checkpoint:{path}{query}", SPACE) for query in ("?arch=resnet2b", ""))
    assert found.sha256 == given.sha256
    assert f"{path.name} read as arch=resnet2b, the only one of ours that its tensors fit" in found.note
    assert "read as" not in given.note
    monkeypatch.setitem(ARCHITECTURES, "its_twin", ARCHITECTURES["resnet2b"])
    assert "expected arch=... for" in refusal(path, "")
    assert "its tensors fit arch=resnet2b and arch=its_twin" in refusal(path, "")
    weights["extra.bias"] = weights["linear2.bias"].clone()
    assert "got none; own architectures: resnet2b, " in refusal(saved(tmp_path, weights, "more.safetensors"), "")


def test_class_counts_shapes_and_values_are_checked(tmp_path, weights):
    path = saved(tmp_path, weights)
    assert "linear2.weight" in refusal(path, space=InputSpace(3, 32, 32, 9))
    assert "classes=9" in refusal(path, "arch=resnet2b&classes=9")
    assert "numbers" in refusal(path, "arch=resnet2b&mean=a&std=1", kind=BadValue)
    assert "both" in refusal(path, "arch=resnet2b&mean=0.5", kind=BadValue)
    weights["linear2.bias"][3] = float("nan")
    assert "NaN" in refusal(saved(tmp_path, weights, "nan.safetensors"))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path):
    target = tmp_path / "exploded"
    torch.save({"linear.weight": Bomb(target)}, tmp_path / "bomb.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(target)))
    for name in ("bomb.pt", "raw.pt"):
        assert "nothing in it was run" in refusal(tmp_path / name)
    assert not target.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())  # noqa: S301 - the bomb is a real one
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"", "which is empty"),
        (b"\x00\x01garbage", "plain weights"),
    ],
)
def test_what_is_no_weights_is_said_so(tmp_path, content, words):
    (tmp_path / "f.pt").write_bytes(content)
    assert words in refusal(tmp_path / "f.pt")


def test_missing_files_folders_and_cut_safetensors(tmp_path, weights):
    assert "not there" in refusal(tmp_path / "none.pt")
    assert "a folder" in refusal(tmp_path)
    path = saved(tmp_path, weights)
    path.write_bytes(path.read_bytes()[:1000])
    assert "safetensors file" in refusal(path)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "list" in refusal(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "odd.pt")
    assert "named tensors" in refusal(tmp_path / "odd.pt")


SHARED = {
    "cifar10_resnet4b_adv2": ("resnet4b", 87.7),
    "cifar10_vit_pgd_2_3_16": ("small_vit", 68.4),
    "cifar10_conv_small_pgd": ("conv_small", 73.3),
    "cifar10_resnet20": ("cifar_resnet20", 93.5),
}


@pytest.mark.parametrize("name", SHARED)
def test_real_weights_reach_their_measured_accuracy(shared, name):
    from robustsuite.serve.data import load_data
    from robustsuite.serve.training import accuracy

    _, split = load_data({"cifar10": {"root": str(shared / "data" / "cifar10"), "pack": "lossless"}})
    arch, expected = SHARED[name]
    model = load_model(f"checkpoint:{shared / 'models' / name}.safetensors?arch={arch}", SPACE)
    assert 100 * accuracy(ready(model.net), split) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_other_spaces(name):
    space = InputSpace(1, 64, 64, 7) if "mobilenet" in name else InputSpace(1, 32, 32, 7)
    assert ready(build(name, space))(torch.zeros(2, *space.shape)).shape == (2, 7)


def test_read_weights_keeps_what_is_stored(tmp_path):
    torch.save({"n": torch.tensor(3), "w": torch.zeros(2, dtype=torch.float64)}, tmp_path / "f.pt")
    read = read_weights(str(tmp_path / "f.pt")).first
    assert read["n"].dtype == torch.int64
    assert read["w"].dtype == torch.float64


def test_a_reader_of_the_run_is_told_that_no_normalisation_was_given(tmp_path, weights):
    threats = {"t": {"scenario": "evasion", "budget": {"linf": 0.1}, "attacks": ["fgsm"]}}
    sweep = {"name": "s", "data": ["scenes"], "threats": threats}
    for statistics, said in (("", True), ("&mean=0.5&std=0.5", False)):
        models = [f"checkpoint:{saved(tmp_path, weights)}?arch=resnet2b{statistics}"]
        chosen = sweep_of({**sweep, "models": models}, "here")
        assert ("w.safetensors without normalisation" in description(chosen, plan(chosen))["note"]) is said
