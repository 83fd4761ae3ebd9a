"""Zero-shot classifiers of two towers: the names of the classes, in sentences, are the head of the image tower.

Radford et al., 2021, Learning transferable visual models from natural language supervision (arXiv 2103.00020).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from robustsuite.benchmarks.models.checkpoint import chosen, fill
from robustsuite.benchmarks.models.files import regular
from robustsuite.benchmarks.models.finish import downloaded, finish, in_a_line
from robustsuite.benchmarks.models.huggingface import configured, hub, network, opened, preprocessed, sized
from robustsuite.benchmarks.models.weights import read_weights
from robustsuite.config.text import unprintable
from robustsuite.errors import BadData, BadModel, MissingPackage, UnknownName, quoted
from robustsuite.records.untrusted import object_of, text_of
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader

TEXT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
"""What the text tower's tokenizer is made of: data, never code."""

OPEN = "open_clip:"
TEMPLATE = "a photo of a {}."
MOST = 2**20
"""Bytes of a file of names or templates: 1000 curated names of ImageNet take 15 thousand."""

CHUNK = 256
"""Sentences that the text tower reads at once."""


class Prompts(NamedTuple):
    """Names of the classes in their order, the templates that each is put into, and the words for both files."""

    names: list[str]
    templates: list[str]
    called: str


class ZeroShot(nn.Module):
    """Scores (N, K): `scale` times the cosine of a picture's features (N, D) with each row of `head` (K, D)."""

    head: Tensor
    scale: Tensor

    def __init__(self, tower: nn.Module, head: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("head", head)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * normalize(self.tower(x), dim=1) @ self.head.T


class Projected(nn.Module):
    """The image tower of transformers' CLIP: pooled features, projected."""

    def __init__(self, vision: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision, self.projection = vision, projection

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.vision(pixel_values=x).pooler_output)  # type: ignore[no-any-return]


@loader(requires="transformers")
def clip(
    name: str, space: InputSpace, *, labels: str = "", templates: str = "", revision: str = "", pretrained: str = ""
) -> Model:
    """A zero-shot classifier: clip:openai/clip-vit-large-patch14?labels=names.txt&templates=t.txt.

    name: a CLIP of transformers, a folder or on the Hub, or open_clip:ViT-B-32 with pretrained= (a file of weights or
    one of its tags). labels: a name a line, in the data's order of classes. templates: a sentence with {} a line.
    Weights and tokenizer are read as data alone. Raises MissingPackage, BadModel, UnknownName.
    """
    stray, where = ("revision", "a name on the Hub") if name.startswith(OPEN) else ("pretrained", "clip:open_clip:NAME")
    if given := revision if stray == "revision" else pretrained:
        raise BadModel(f"expected {stray}= with {where}, got {given!r} for clip:{name}; leave {stray} out")
    if not labels:
        raise BadModel(f"expected labels=FILE for clip:{name}, got none: nothing else says what classes are called; "
                       f"write {space.classes} names, one a line, in the data's order of classes")  # fmt: skip
    prompts = _prompts(labels, templates, space)
    if name.startswith(OPEN):
        made = _open_clip(name.removeprefix(OPEN), space, prompts, pretrained)
    else:
        made = _transformers(name, space, prompts, revision)
    twice = sorted({n for n in prompts.names if prompts.names.count(n) > 1})
    note = f"{', '.join(twice[:3])} names several classes, which always tie" if twice else ""
    known = configured(made, prompts.names, prompts.templates)
    notes = "; ".join(filter(None, (made.note, note)))
    return replace(known, name=f"{made.name}({prompts.called})", classes=tuple(prompts.names), note=notes)


def _prompts(labels: str, templates: str, space: InputSpace) -> Prompts:
    """Both files, read and checked."""
    names = lines(labels, "names of classes")
    if len(names) != space.classes:
        raise BadModel(f"expected {space.classes} names in {Path(labels).name}, one for each class of the data, got "
                       f"{len(names)}; write them in the data's order of classes")  # fmt: skip
    sentences = lines(templates, "templates") if templates else [TEMPLATE]
    if lacking := next((s for s in sentences if "{}" not in s), ""):
        raise BadModel(f"expected {{}} in each template of {Path(templates).name}, got {quoted(lacking)}; write {{}} "
                       f"where the name goes, as in {TEMPLATE!r}")  # fmt: skip
    return Prompts(names, sentences, ", ".join(Path(file).stem for file in (labels, templates) if file))


def lines(name: str, what: str) -> list[str]:
    """The lines of a text file without the space around them. Raises BadModel for an empty one and for no text."""
    path = regular(name, f"a text file of {what}")
    if (held := path.stat().st_size) > MOST:
        raise BadModel(f"expected at most {MOST:,} bytes of {what}, got {path.name} of {held:,}; name the right file")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if any(map(unprintable, text)):
        raise BadModel(f"expected {what} in {path.name}, one a line, got no text in UTF-8; name the right file")
    found = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if "" in found:
        raise BadModel(f"expected {what} in {path.name}, one a line, got nothing in line {found.index('') + 1}; "
                       f"fill or remove it")  # fmt: skip
    return found


def heads(features: Callable[[list[str]], Tensor], prompts: Prompts, spec: str) -> Tensor:
    """(K, D): for each class the mean over templates of normalised text features, normalised (section 3.1.4).

    In float64 until it is done, so that the hash of a head depends on no machine's order of sums. Raises BadModel.
    """
    total = torch.zeros(())
    for template in prompts.templates:
        asked = [template.replace("{}", name) for name in prompts.names]
        with torch.no_grad():
            parts = [features(asked[i : i + CHUNK]).double() for i in range(0, len(asked), CHUNK)]
        total = total + normalize(torch.cat(parts), dim=1)
    head = normalize(total / len(prompts.templates), dim=1).float()
    if len(head.unique(dim=0)) < len(set(prompts.names)):
        raise BadModel(f"expected text features that tell {len(set(prompts.names))} names apart from {spec}, got the "
                       f"same for several; its tokenizer does not know them, or is not its own")  # fmt: skip
    return head


def _transformers(name: str, space: InputSpace, prompts: Prompts, revision: str) -> Model:
    spec, folder = opened("clip", name, revision, TEXT)
    try:
        kind = object_of(text_of(folder / "config.json"), "config.json").get("model_type")
    except BadData as error:
        raise BadModel(f"expected a configuration in {spec}, got none: {error}; fetch it again") from error
    if kind != "clip":
        raise BadModel(f"expected a CLIP in {spec}, got model_type {quoted(kind)} in its config.json; "
                       f"an image classifier is loaded as hf:{name}")  # fmt: skip
    net = network(folder, spec, "CLIPModel", "a CLIP").eval()
    tokens, text, project = _tokenizer(folder, spec), net.text_model.double(), net.text_projection.double()
    most, known = net.config.text_config.max_position_embeddings, net.config.text_config.vocab_size

    def features(asked: list[str]) -> Tensor:
        rows = tokens(asked)["input_ids"]
        for sentence, row in zip(asked, rows, strict=True):
            _fits(sentence, len(row), most, spec)
            if max(row) >= known or row.index(tokens.eos_token_id) < len(row) - 1:
                raise BadModel(f"expected a tokenizer for the words of {sentence!r} in {spec}, got one that lacks some "
                               f"or has more than the net; use the model's own, or other names")  # fmt: skip
        batch = tokens.pad({"input_ids": rows}, return_tensors="pt")
        return project(text(**batch).pooler_output)  # type: ignore[no-any-return]

    scale = net.logit_scale.detach().double().exp().float()
    served = ZeroShot(Projected(net.vision_model, net.visual_projection), heads(features, prompts, spec), scale)
    return preprocessed(served, net.config, folder, spec, space)


def _fits(sentence: str, tokens: int, most: int, spec: str) -> None:
    """Raises BadModel for a sentence that the text tower would see cut."""
    if tokens > most:
        raise BadModel(f"expected sentences of at most {most} tokens for {spec}, got {tokens} in {quoted(sentence)}; "
                       f"shorten the name or the template")  # fmt: skip


def _tokenizer(folder: Path, spec: str) -> Any:
    """CLIP's own tokenizer from the folder's files."""
    import transformers

    files = ("tokenizer.json",) if (folder / "tokenizer.json").exists() else ("vocab.json", "merges.txt")
    for file in files:  # without them transformers makes an empty one and says nothing
        regular(str(folder / file), f"the tokenizer's {file} of {spec}")
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the parsers raise their own classes
        raise BadModel(f"expected CLIP's tokenizer in {spec}, got {in_a_line(error)}; copy the model's own") from error


def _open_clip(name: str, space: InputSpace, prompts: Prompts, pretrained: str) -> Model:
    """A model of open_clip whose weights are read as data by our own reader."""
    spec = f"clip:{OPEN}{name}"
    if find_spec("open_clip") is None:
        raise MissingPackage("open_clip", f"the model {spec}", "'robustsuite[clip]'")
    import open_clip as zoo

    if name not in zoo.list_models():
        raise UnknownName("open_clip model", name, zoo.list_models())
    config = zoo.get_model_config(name)
    tokens = None if {"hf_tokenizer_name", "hf_model_name"} & config["text_cfg"].keys() else zoo.get_tokenizer(name)
    if not isinstance(tokens, zoo.SimpleTokenizer) or "multimodal_cfg" in config:
        raise BadModel(f"expected a model of open_clip with CLIP's own text tower, got {name}; choose another")
    facts = zoo.get_pretrained_cfg(name, pretrained)
    if not pretrained or not (facts or Path(pretrained).expanduser().exists()):
        tags = ", ".join(zoo.list_pretrained_tags_by_model(name)) or "none"
        raise BadModel(f"expected pretrained= as a file of weights or a tag of {name} ({tags}), got {pretrained!r}; "
                       f"choose one")  # fmt: skip
    held = read_weights(_fetched(zoo, facts, spec) if facts else pretrained)
    net = _built(zoo, name, bool(facts.get("quick_gelu")))
    hint = "choose the name that the weights were trained under"
    stored = fill(net, chosen(held, net.state_dict(), "", spec), f"{spec} with {Path(pretrained).name}", space, hint)
    net.double().eval()

    def features(asked: list[str]) -> Tensor:
        for sentence in asked:
            _fits(sentence, len(tokens.encode(sentence)) + 2, tokens.context_length, spec)
        return net.encode_text(tokens(asked))  # type: ignore[no-any-return]

    scale, shape = net.logit_scale.detach().exp().float().reshape(()), net.visual.image_size
    served = ZeroShot(net.visual, heads(features, prompts, spec), scale)
    sized((shape, shape) if isinstance(shape, int) else tuple(shape), space, spec)
    statistics = tuple(facts.get("mean") or net.visual.image_mean), tuple(facts.get("std") or net.visual.image_std)
    note = "" if facts else f"{spec} with OpenAI's mean and std, of which {Path(pretrained).name} says nothing"
    made = finish(spec, served, space, statistics, "; ".join(filter(None, (stored, note))))
    return configured(made, name, config, facts)


def _fetched(zoo: Any, facts: dict[str, Any], spec: str) -> str:
    try:
        with hub():
            return str(zoo.download_pretrained(facts))
    except Exception as error:  # the clients raise their own classes
        raise downloaded(error, spec, "without a network, fetch the file elsewhere and name it") from error


def _built(zoo: Any, name: str, quick_gelu: bool) -> Any:
    """The network without weights, which open_clip would warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return zoo.create_model(name, force_quick_gelu=quick_gelu)
    finally:
        logging.disable(before)
