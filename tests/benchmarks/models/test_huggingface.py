"""transformers' layout: a folder answers as its processor and its network do together, and runs no code of its own."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustsuite.benchmarks.models.huggingface import size, statistics
from robustsuite.errors import BadModel, MissingPackage
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import load_model, ready

SPACE = InputSpace(3, 8, 8, 3)
needs = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"size": {"height": 8, "width": 6}}, (8, 6)),
        ({"size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (8, 8)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": False, "crop_size": 224}, (256, 256)),
        ({"size": {"height": 8, "width": 8}, "do_resize": False}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_size_that_a_processor_makes(facts: dict[str, Any], expected: object) -> None:
    assert size(facts) == expected


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("facts", "at_half"),
    [
        (HALF, 0.0),
        ({**HALF, "do_normalize": False}, 0.5),
        ({**HALF, "do_rescale": False, "do_normalize": False}, 127.5),
        ({**HALF, "do_rescale": False}, 254.0),
        ({**HALF, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, 0.0),
        ({"image_mean": [0.0] * 3, "image_std": [0.5] * 3, "include_top": True}, 2.0),
        ({"image_mean": 0.25, "image_std": 0.5}, 0.5),
    ],
)
def test_what_a_processor_does_to_a_pixel_of_a_half(facts: dict[str, Any], at_half: float) -> None:
    mean, std = statistics(facts, 3, "x") or ((0.0,), (1.0,))
    assert (0.5 - mean[0]) / std[0] == pytest.approx(at_half, abs=1e-9)


def test_a_processor_without_statistics_is_refused() -> None:
    with pytest.raises(BadModel, match="image_mean and image_std of 3 numbers"):
        statistics({"image_mean": [0.5], "image_std": [0.5]}, 3, "x")


def test_without_transformers_the_sentence_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustsuite.benchmarks.models.huggingface.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"pip install 'robustsuite\[hf\]'"):
        load_model("hf:a/b", SPACE)


def written(folder: Path, kind: str = "vit", **facts: Any) -> Path:
    """A tiny classifier with its processor."""
    import transformers as t

    names = {0: "cat", 1: "dog", 2: "eel"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            config = t.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                                 image_size=8, patch_size=4, id2label=names)  # fmt: skip
            net = t.ViTForImageClassification(config)
        else:
            config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], id2label=names)
            net = t.ResNetForImageClassification(config)
    net.save_pretrained(folder)
    t.ViTImageProcessor(size={"height": 8, "width": 8}, **facts).save_pretrained(folder)
    return folder


@needs
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize(
    "facts",
    [{}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}, {"do_rescale": False}, {"do_normalize": False}],
    ids=str,
)
def test_a_folder_says_what_processor_and_network_say(kind: str, facts: dict[str, Any], tmp_path: Path) -> None:
    import transformers as t

    folder = written(tmp_path, kind, **facts)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    inputs = t.AutoImageProcessor.from_pretrained(folder)(list(pixels), return_tensors="pt")
    net = t.AutoModelForImageClassification.from_pretrained(folder).eval()
    model = load_model(f"hf:{folder}", SPACE)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = net(**inputs).logits
        assert torch.allclose(ready(model.net)(x), expected, rtol=1e-3, atol=1e-5)
        assert torch.allclose(ready(model.net).double()(x.double()).float(), expected, rtol=1e-3, atol=1e-5)
    assert model.classes == ("cat", "dog", "eel")
    assert "transformers " in model.behaviour["transformers"]


@needs
def test_what_a_folder_lacks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "vit")

    def refused(says: str, spec: str = f"hf:{folder}", space: InputSpace = SPACE) -> None:
        with pytest.raises(BadModel) as caught:
            load_model(spec, space)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("expected pictures of 8x8", space=InputSpace(3, 16, 16, 3))
    refused("4-class model for 4-class data", space=InputSpace(3, 8, 8, 4))
    refused("which is no folder", "hf:./absent")
    refused("leave revision out", f"hf:{folder}?revision=main")
    config = json.loads((folder / "config.json").read_text())
    first = load_model(f"hf:{folder}", SPACE).identity()
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert load_model(f"hf:{folder}", SPACE).identity() != first
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    refused("multi-label")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Net: ...\n")
    auto = {"AutoModelForImageClassification": "own.Net", "AutoConfig": "own.Net"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto}))
    refused("that transformers knows")
    assert not (tmp_path / "run").exists()
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    refused("would be drawn at random")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").unlink()
    refused("preprocessor_config.json beside the weights")
    (folder / "model.safetensors").rename(folder / "elsewhere")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    refused("git lfs pull")
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    refused("with safetensors")
    (folder / "config.json").unlink()
    refused("which is not there")


@needs
def test_a_hub_name_without_a_network_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no address")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadModel, match="without a network"):
        load_model("hf:nobody/nothing?revision=abc", SPACE)
