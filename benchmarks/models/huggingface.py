"""Image classifiers of transformers, from a folder or the Hub: what their processor does moves into the network."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torch import Tensor, nn

from robustsuite.benchmarks.models.files import regular
from robustsuite.benchmarks.models.finish import Statistics, downloaded, finish
from robustsuite.errors import BadModel, MissingPackage
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader

FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors", "*.index.json")
"""What is fetched from the Hub: data, never code."""


class Flipped(nn.Module):
    """A network that takes its channels in the other order (BGR)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x.flip(1))


@loader(requires="transformers")
def hf(name: str, space: InputSpace, *, revision: str = "") -> Model:
    """An image classifier of transformers over [0, 1] pictures: hf:FOLDER or hf:microsoft/resnet-50?revision=COMMIT.

    Its processor's rescaling and normalisation are done inside; pictures must have the size that the processor makes.
    Weights are read from safetensors only, and no code that comes with them is run. Raises MissingPackage, BadModel.
    """
    spec, folder = opened("hf", name, revision)
    net: nn.Module = network(folder, spec, "AutoModelForImageClassification", "an image classifier")
    config: Any = net.config
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise BadModel(f"expected one class a picture from {spec}, got a multi-label classifier; choose another")
    return replace(preprocessed(net, config, folder, spec, space), classes=_classes(config))


def opened(scheme: str, name: str, revision: str, more: tuple[str, ...] = ()) -> tuple[str, Path]:
    """What a model is called, and its folder with config.json: name itself, or the Hub's files in the cache.

    more: patterns of data that are fetched besides FILES. Raises MissingPackage, BadModel.
    """
    if find_spec("transformers") is None:
        raise MissingPackage("transformers", f"the model {scheme}:{name}", "'robustsuite[hf]'")
    local = Path(name).expanduser().is_dir()
    spec = f"{scheme}:{Path(name).name if local else name}" + (f"@{revision}" if revision else "")
    folder = _folder(name, revision, spec, more)
    for file in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        regular(str(file), f"the {file.name} of {spec}")
    return spec, folder


def preprocessed(net: nn.Module, config: Any, folder: Path, spec: str, space: InputSpace) -> Model:
    """The network with its processor's work done inside, both configurations part of its identity. Raises BadModel."""
    processor = _processor(folder, spec)
    if asked := size(processor):
        sized(asked, space, spec)
    if processor.get("do_flip_channel_order"):
        net = Flipped(net)
    dtype = str(getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or "").removeprefix("torch.")
    note = f"{spec} stored in {dtype}, computed in float32" if dtype not in ("", "float32") else ""
    made = finish(spec, net, space, statistics(processor, space.channels, spec), note)
    return configured(made, config.to_dict(), processor)


def sized(asked: tuple[int, int], space: InputSpace, spec: str) -> None:
    """Raises BadModel unless the data's pictures have the height and width that the model asks for."""
    if asked != (space.height, space.width):
        raise BadModel(f"expected pictures of {asked[0]}x{asked[1]} for {spec}, which its processor makes, got data of "
                       f"{space.height}x{space.width}; choose data of that size")  # fmt: skip


def configured(model: Model, *facts: object) -> Model:
    """The model, known by these facts besides its weights: what JSON can hold."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return replace(model, behaviour={**model.behaviour, f"config {digest}": digest})


def _folder(name: str, revision: str, spec: str, more: tuple[str, ...]) -> Path:
    """The folder itself, or the Hub's files in the cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        if revision:
            raise BadModel(f"expected revision= with a name on the Hub, got the folder {name}; leave revision out")
        return path
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise BadModel(f"expected a folder or a name such as microsoft/resnet-50, got {name!r}, which is no folder; "
                       f"check the path")  # fmt: skip
    from huggingface_hub import snapshot_download

    try:
        with hub():
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=[*FILES, *more]))
    except Exception as error:  # the client raises its own classes, httpx's and OSError
        hint = "without a network, load it once elsewhere and copy $HF_HOME, or name a folder with its files"
        raise downloaded(error, spec, hint) from error


@contextmanager
def hub() -> Iterator[None]:
    """Where the Hub's host has no address, ask the local cache alone: its client would retry for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def network(folder: Path, spec: str, kind: str, what: str) -> Any:
    """The network of a class of transformers, every weight from the files; `what` it is, with its article.

    In eager attention, whose bits do not depend on a back end. Raises BadModel.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        net, found = getattr(transformers, kind).from_pretrained(
            str(folder), use_safetensors=True, trust_remote_code=False, local_files_only=True,
            attn_implementation="eager", output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # OSError, ValueError and KeyError, each with several lines
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        raise BadModel(f"expected {spec} as {what} with safetensors that transformers knows, got: {line}; "
                       f"nothing of its own code is run, export it so") from error  # fmt: skip
    finally:
        transformers.utils.logging.set_verbosity(level)
    resized = [f"{key[0]} of another size" for key in found["mismatched_keys"]]
    lacking = sorted([*map(str, found["missing_keys"]), *resized])
    if lacking:
        raise BadModel(f"expected every weight of {spec}, got {len(lacking)} that would be drawn at random "
                       f"({', '.join(lacking[:3])}); name {what} that was trained")  # fmt: skip
    return net


def _processor(folder: Path, spec: str) -> dict[str, Any]:
    """What the image processor says of itself, its class's defaults filled in."""
    import transformers

    try:
        found = transformers.AutoImageProcessor.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # OSError, ValueError and ImportError, each with several lines
        raise BadModel(f"expected preprocessor_config.json beside the weights of {spec}, got none that is read; "
                       f"it says what pixels the network takes, add it") from error  # fmt: skip
    facts: dict[str, Any] = json.loads(json.dumps(found.to_dict(), default=str))
    return facts


def size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """The height and width of the pictures that a processor makes, None where it leaves them as they are."""
    crop = processor.get("do_center_crop") and processor.get("crop_size")
    asked = crop or (processor.get("do_resize", True) and processor.get("size"))
    if not isinstance(asked, Mapping):
        return (asked, asked) if isinstance(asked, int) and asked else None
    edge = asked.get("shortest_edge")
    found = asked.get("height", edge), asked.get("width", edge)
    return (int(found[0]), int(found[1])) if all(found) else None


def statistics(processor: Mapping[str, Any], channels: int, spec: str) -> Statistics | None:
    """Mean and std over [0, 1] pixels that do what the processor does to 0 ... 255: rescale, then normalise."""
    scale = 255 * float(processor.get("rescale_factor") or 1 / 255) if processor.get("do_rescale", True) else 255.0
    offset = -1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0] * channels, [1.0] * channels
    if processor.get("do_normalize", True):
        given = [processor.get(key) for key in ("image_mean", "image_std")]
        mean, std = ([one] * channels if isinstance(one, int | float) else list(one or ()) for one in given)
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise BadModel(f"expected image_mean and image_std of {channels} numbers from the processor of {spec}, got "
                           f"{given[0]} and {given[1]}; mend preprocessor_config.json")  # fmt: skip
        if processor.get("include_top"):  # EfficientNet divides twice
            std = [one * one for one in std]
    pair = tuple((m - offset) / scale for m in mean), tuple(s / scale for s in std)
    return None if pair == ((0.0,) * channels, (1.0,) * channels) else pair


def _classes(config: Any) -> tuple[str, ...]:
    """The names of the classes in their order; none where transformers made them up."""
    named = {int(key): str(value) for key, value in (getattr(config, "id2label", None) or {}).items()}
    names = tuple(named[key] for key in sorted(named))
    return () if names == tuple(f"LABEL_{i}" for i in range(len(names))) else names
