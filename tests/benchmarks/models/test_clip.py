"""Zero-shot classifiers: their scores are transformers' own, their heads the published formula, their errors sentences."""

import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, normalize

import robustsuite as rs
from robustsuite.benchmarks.datasets.cifar10 import CLASSES
from robustsuite.benchmarks.models import clip
from robustsuite.engine.sweep import parse_sweep
from robustsuite.errors import BadModel, MissingPackage, UnknownName
from robustsuite.serve.data import InputSpace, load_data
from robustsuite.serve.models import load_model, ready

SPACE = InputSpace(3, 32, 32, 10)
SEVERAL = ("a photo of a {}.", "a blurry picture of one {}.", "the {}.")
WORDS = sorted({*CLASSES, *" ".join(SEVERAL).replace("{}", "").replace(".", "").split()})
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
needs = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
opens = pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Letters, as such and at a word's end, and merges that make a token of each word."""
    letters = [chr(c) for c in range(97, 123)] + [".", "!"]
    vocab = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if (pair := f"{parts[0]} {parts[1]}") not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            vocab.append(parts[0])
    tokens = [*dict.fromkeys(vocab), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def written(folder: Path, train: tuple[torch.Tensor, torch.Tensor] | None = None) -> Path:
    """A tiny CLIP with its tokenizer and processor, trained on pictures (N, 3, 32, 32) with captions where given."""
    import transformers as t

    vocab, merges = vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokens = t.CLIPTokenizer.from_pretrained(folder)
    ids = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, **ids, "vocab_size": len(vocab), "max_position_embeddings": 24}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        if train is not None:
            fitted(net, tokens, *train)
    net.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    t.CLIPImageProcessor(size=size, crop_size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def fitted(net: Any, tokens: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    """A few epochs of pictures against the captions of all classes, in each of the templates by turns."""
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    said = [tokens([s.replace("{}", c) for c in CLASSES], padding=True, return_tensors="pt") for s in SEVERAL]
    steps = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in range(240):
        rows = torch.randint(len(x), (128,))
        loss = cross_entropy(net(pixel_values=x[rows], **said[step % 3]).logits_per_image, y[rows])
        steps.zero_grad()
        loss.backward()
        steps.step()
    net.eval()


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with np.load(shared / "data" / "cifar10" / "cifar10_train50000_jpeg.npz") as pack:
        ends, blob, y = pack["offsets"][:3001], pack["jpeg"].tobytes(), torch.from_numpy(pack["labels"][:3000])
    pictures = [np.array(Image.open(io.BytesIO(blob[a:b]))) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return written(tmp_path_factory.mktemp("clip") / "tiny", (x, y.long()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("clip") / "plain")


def listed(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return listed(tmp_path / "names.txt", CLASSES)


@needs
@pytest.mark.parametrize("template", SEVERAL)
def test_scores_are_those_of_transformers(plain: Path, labels: Path, tmp_path: Path, template: str) -> None:
    import transformers as t

    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    net = t.CLIPModel.from_pretrained(plain).eval()
    said = [template.replace("{}", name) for name in CLASSES]
    inputs = t.CLIPTokenizer.from_pretrained(plain)(said, padding=True, return_tensors="pt")
    inputs |= t.CLIPImageProcessor.from_pretrained(plain)(list(pixels), return_tensors="pt")
    other = "" if template == SEVERAL[0] else f"&templates={listed(tmp_path / 'one.txt', [template])}"
    model = load_model(f"clip:{plain}?labels={labels}{other}", SPACE)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).requires_grad_()
    with torch.no_grad():
        expected = net(**inputs).logits_per_image
    scores = ready(model.net)(x)
    assert torch.allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(ready(model.net).double()(x.double()).float(), expected, rtol=1e-4, atol=1e-4)
    assert model.classes == CLASSES
    assert model.name == ("clip:plain(names)" if template == SEVERAL[0] else "clip:plain(names, one)")
    assert not [key for key in model.net.state_dict() if "text" in key or "token" in key]
    assert {"net.head", "net.scale"} <= model.net.state_dict().keys()


@needs
def test_a_head_is_the_mean_over_templates_of_normalised_features(plain: Path, labels: Path, tmp_path: Path) -> None:
    import transformers as t

    net, tokens = t.CLIPModel.from_pretrained(plain).eval(), t.CLIPTokenizer.from_pretrained(plain)
    rows = []
    for name in CLASSES:
        said = tokens([s.replace("{}", name) for s in SEVERAL], padding="max_length", max_length=24, return_tensors="pt")
        with torch.no_grad():
            features = net.get_text_features(**said).pooler_output
        mean = torch.stack([row / row.norm() for row in features]).mean(0)
        rows.append(mean / mean.norm())
    file = listed(tmp_path / "several.txt", SEVERAL)
    head = load_model(f"clip:{plain}?labels={labels}&templates={file}", SPACE).net.state_dict()["net.head"]
    assert torch.allclose(head, torch.stack(rows), atol=1e-6)
    assert torch.allclose(head.norm(dim=1), torch.ones(10))


def test_heads_in_chunks_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def features(asked: list[str]) -> torch.Tensor:
        return torch.tensor([[len(a), a.count("a") + 1.0, ord(a[-1])] for a in asked])

    prompts = clip.Prompts(list(CLASSES), ["a {}", "{} or not"], "")
    whole = clip.heads(features, prompts, "x")
    monkeypatch.setattr(clip, "CHUNK", 3)
    assert torch.equal(clip.heads(features, prompts, "x"), whole)
    first = [normalize(features([t.replace("{}", "cat")]), dim=1) for t in prompts.templates]
    assert torch.allclose(whole[3], normalize(torch.cat(first).mean(0), dim=0))


@needs
def test_identity_is_that_of_names_and_templates(plain: Path, labels: Path, tmp_path: Path) -> None:
    def identity(more: str = "", names: Path = labels) -> str:
        return load_model(f"clip:{plain}?labels={names}{more}", SPACE).identity()

    renamed = listed(tmp_path / "others.txt", ["ship", *CLASSES[1:]])
    default = listed(tmp_path / "default.txt", [clip.TEMPLATE])
    told = {identity(), identity(names=renamed), identity(f"&templates={listed(tmp_path / 's.txt', SEVERAL)}")}
    assert len(told) == 3
    assert identity(f"&templates={default}") == identity(names=listed(tmp_path / "same.txt", CLASSES)) == identity()
    note = load_model(f"clip:{plain}?labels={renamed}", SPACE).note
    assert note == "ship names several classes, which always tie"


@needs
def test_it_tells_pictures_apart_and_an_attack_lowers_that(folder: Path, labels: Path, shared: Path, tmp_path: Path) -> None:
    several = listed(tmp_path / "several.txt", SEVERAL)
    root = shared / "data" / "cifar10"
    sweep = f"""
        models: ["clip:{folder}?labels={labels}&templates={several}"]
        data: [{{cifar10: {{root: {root}, pack: lossless, first: 200}}}}]
        threats: {{linf: {{scenario: evasion, budget: {{linf: 8/255}}, attacks: [{{pgd: {{steps: 10}}}}]}}}}
    """
    result = rs.run(parse_sweep(sweep, "s.yaml"), out=tmp_path / "run", workers=1)
    (row,) = result.scores.to_dict("records") if hasattr(result, "scores") else [{}]
    print(row)
    _, test = load_data({"cifar10": {"root": str(root), "pack": "lossless"}})
    net = ready(load_model(f"clip:{folder}?labels={labels}&templates={several}", SPACE).net)
    with torch.no_grad():
        right = (net(test.images(torch.arange(len(test)))).argmax(1) == test.y).float().mean()
    print(right)
    assert right > 0.25
