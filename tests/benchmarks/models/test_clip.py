"""Zero-shot classifiers: scores are those of the two towers, heads the published formula, errors sentences."""

import importlib.util
import io
import json
from collections.abc import Sequence
from itertools import pairwise
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
from robustsuite.reports.read.runs import read
from robustsuite.serve.data import InputSpace
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
    ids = {key: getattr(tokens, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
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
    pictures = [np.array(Image.open(io.BytesIO(blob[a:b]))) for a, b in pairwise(ends)]
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
        asked = [s.replace("{}", name) for s in SEVERAL]
        said = tokens(asked, padding="max_length", max_length=24, return_tensors="pt")
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
def test_it_tells_pictures_apart_and_an_attack_lowers_that(
    folder: Path, labels: Path, shared: Path, tmp_path: Path
) -> None:
    several = listed(tmp_path / "several.txt", SEVERAL)
    root = shared / "data" / "cifar10"
    sweep = f"""
        name: zero
        models: ["clip:{folder}?labels={labels}&templates={several}"]
        data: [{{cifar10: {{root: {root}, pack: lossless, first: 200}}}}]
        threats: {{linf: {{scenario: evasion, budget: {{linf: 8/255}}, attacks: [{{pgd: {{steps: 10}}}}]}}}}
    """
    told = read([rs.run(parse_sweep(sweep, "s.yaml"), out=tmp_path / "run").folder])
    (cell,) = told.cells[told.cells["attack"].str.startswith("pgd")].to_dict("records")
    rows = told.examples(cell["run_id"])
    assert (cell["status"], cell["grade"]) == ("done", "SOUND")
    assert rows["clean_ok"].mean() > 0.25  # a tenth is chance
    assert rows["robust"].mean() < rows["clean_ok"].mean() - 0.15
    assert rows["in_budget"].all()


def refusal(spec: str, space: InputSpace = SPACE) -> str:
    with pytest.raises(BadModel) as caught:
        load_model(spec, space)
    said = str(caught.value)
    assert said.startswith("expected ")
    assert "got" in said
    assert "; " in said
    assert "\n" not in said
    return said


def test_what_is_wrong_with_names_and_templates_is_a_sentence(labels: Path, tmp_path: Path) -> None:
    def of(content: bytes | str, key: str = "labels") -> str:
        (file := tmp_path / "file.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        return refusal(f"clip:any?{key}={file}" + (f"&labels={labels}" if key == "templates" else ""))

    assert "got none: nothing else says what classes are called; write 10 names" in refusal("clip:any")
    assert "expected 10 names in file.txt, one for each class of the data, got 3" in of("cat\ndog\neel\n")
    assert "expected 3 names in names.txt" in refusal(f"clip:any?labels={labels}", InputSpace(3, 32, 32, 3))
    assert "got nothing in line 2; fill or remove it" in of("cat\n \ndog\n")
    assert "got nothing in line 3" in of("cat\ndog\n\n")
    assert "got no text in UTF-8" in of(b"\xff\xfe\x00cat")
    assert "got no text in UTF-8" in of("cat\x00\ndog")
    assert "expected at most 1,048,576 bytes of names of classes, got file.txt of 1,048,580" in of("cat\n" * 262_145)
    assert "which is empty" in of("")
    assert "which is not there; check the path" in refusal(f"clip:any?labels={tmp_path / 'absent'}")
    assert "which is a folder" in refusal(f"clip:any?labels={tmp_path}")
    assert "expected {} in each template of file.txt, got 'a cat'; write {}" in of("a {}.\na cat\n", "templates")
    assert "got nothing in line 1" in of("\n{}", "templates")
    assert "which is not there" in refusal(f"clip:any?labels={labels}&templates={tmp_path / 'absent'}")
    assert "leave pretrained out" in refusal(f"clip:any?labels={labels}&pretrained=x")
    assert "leave revision out" in refusal(f"clip:open_clip:any?labels={labels}&revision=x")


def test_a_mark_at_the_start_and_other_line_ends_are_no_part_of_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\n la\u00efka \r\n".encode())
    assert clip.lines(str(tmp_path / "names.txt"), "names") == ["cat", "la\u00efka"]


def test_without_its_packages_the_sentence_says_what_installs_them(
    labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustsuite.benchmarks.models.huggingface.find_spec", lambda _: None)
    monkeypatch.setattr("robustsuite.benchmarks.models.clip.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"the model clip:a/b needs .* pip install 'robustsuite\[hf\]'"):
        load_model(f"clip:a/b?labels={labels}", SPACE)
    with pytest.raises(MissingPackage, match=r"clip:open_clip:ViT-B-32 needs .* pip install 'robustsuite\[clip\]'"):
        load_model(f"clip:open_clip:ViT-B-32?labels={labels}", SPACE)


@needs
def test_what_a_folder_lacks_is_a_sentence(plain: Path, labels: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spec, config = f"clip:{folder}?labels={labels}", json.loads((folder / "config.json").read_text())
    assert "expected pictures of 32x32 for clip:other" in refusal(spec, InputSpace(3, 64, 64, 10))
    assert "image_mean and image_std of 1 numbers" in refusal(spec, InputSpace(1, 32, 32, 10))
    assert "which is no folder" in refusal(f"clip:./absent?labels={labels}")
    assert "leave revision out" in refusal(f"{spec}&revision=main")
    long = listed(tmp_path / "long.txt", ["a photo of a {}" + " ." * 30])
    said = refusal(f"{spec}&templates={long}")
    assert "expected sentences of at most 24 tokens for clip:other, got 40 in 'a photo of a airplane" in said
    odd = listed(tmp_path / "odd.txt", [*CLASSES[:9], "\u8239"])
    assert "that lacks some" in refusal(f"clip:{folder}?labels={odd}")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Net: ...\n")
    auto = {"AutoModel": "own.Net", "AutoConfig": "own.Net", "AutoTokenizer": ["own.Net", None]}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto, "tokenizer_class": "Net"}))
    load_model(spec, SPACE)
    assert not (tmp_path / "run").exists()
    text = {**config["text_config"], "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
    assert "text features that tell 10 names apart from clip:other, got the same for several" in refusal(spec)
    (folder / "config.json").write_text(json.dumps({**config, "projection_dim": 8}))
    assert "got 2 that would be drawn at random (text_projection.weight of another size, visual" in refusal(spec)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    assert "expected a CLIP in clip:other, got model_type 'vit' in its config.json" in refusal(spec)
    (folder / "config.json").write_text("{")
    assert "got none: config.json is cut short or no JSON; fetch it again" in refusal(spec)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text("[")
    assert "expected CLIP's tokenizer in clip:other" in refusal(spec)
    (folder / "vocab.json").unlink()
    assert "the tokenizer's vocab.json of clip:other" in refusal(spec)
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert "as a CLIP with safetensors" in refusal(spec)


SMALL = {
    "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> tuple[Any, Path]:
    """A tiny model of open_clip under the name tiny-clip, and a file of its weights."""
    import open_clip as zoo

    for name, more in (("tiny-clip", {}), ("tiny-clip-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps({**SMALL, **more}))
        zoo.add_model_config(tmp_path / f"{name}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = zoo.create_model("tiny-clip").eval()
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "tiny.pt")
    return net, tmp_path / "tiny.pt"


@opens
def test_open_clip_says_what_its_two_towers_say(small: tuple[Any, Path], labels: Path, tmp_path: Path) -> None:
    import open_clip as zoo

    net, file = small
    templates = listed(tmp_path / "several.txt", SEVERAL)
    spec = f"clip:open_clip:tiny-clip?labels={labels}&templates={templates}&pretrained={file}"
    model = load_model(spec, SPACE)
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head = zoo.build_zero_shot_classifier(
            net, zoo.get_tokenizer("tiny-clip"), CLASSES, [lambda c, s=s: s.replace("{}", c) for s in SEVERAL]
        )
        pixels = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        expected = net.logit_scale.exp() * net.encode_image(pixels, normalize=True) @ head
        assert torch.allclose(ready(model.net)(x), expected, rtol=1e-4, atol=1e-4)
        assert torch.allclose(ready(model.net).double()(x.double()).float(), expected, rtol=1e-4, atol=1e-4)
    assert model.name == "clip:open_clip:tiny-clip(names, several)"
    assert "with OpenAI's mean and std, of which tiny.pt says nothing" in model.note
    assert model.identity() != load_model(spec.replace("tiny-clip", "tiny-clip-quickgelu"), SPACE).identity()
    assert not [key for key in model.net.state_dict() if "token_embedding" in key]


@opens
def test_what_open_clip_cannot_give_is_a_sentence(
    small: tuple[Any, Path], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"clip:open_clip:tiny-clip?labels={labels}"
    assert "expected pretrained= as a file of weights or a tag of tiny-clip (none), got ''" in refusal(spec)
    assert "a tag of tiny-clip (none), got 'openai'" in refusal(f"{spec}&pretrained=openai")
    with pytest.raises(UnknownName, match="did you mean 'tiny-clip'"):
        load_model(spec.replace("tiny-clip", "tiny-clop"), SPACE)
    assert "CLIP's own text tower" in refusal(spec.replace("tiny-clip", "roberta-ViT-B-32"))
    assert "expected pictures of 32x32" in refusal(f"{spec}&pretrained={small[1]}", InputSpace(3, 16, 16, 10))
    long = listed(tmp_path / "long.txt", ["a photo of a {}" + " ." * 30])
    assert "expected sentences of at most 20 tokens" in refusal(f"{spec}&pretrained={small[1]}&templates={long}")
    torch.save({"visual.proj": torch.zeros(64, 16)}, tmp_path / "half.pt")
    said = refusal(f"{spec}&pretrained={tmp_path / 'half.pt'}")
    assert "missing" in said
    assert said.endswith("choose the name that the weights were trained under")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no address")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refusal(f"clip:open_clip:RN50?labels={labels}&pretrained=openai")
    assert "fetch the file elsewhere and name it" in said
