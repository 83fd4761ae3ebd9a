"""Weights from a file into an architecture; a file is data and nothing in it is ever run."""

from __future__ import annotations

import pickle
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robustsuite.benchmarks.models.factories import call_factory
from robustsuite.benchmarks.models.finish import finish, statistics_of
from robustsuite.benchmarks.models.small_nets import ARCHITECTURES, build
from robustsuite.errors import BadModel, BadValue, UnknownName
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader

Weights = dict[str, Tensor]
NESTS = ("state_dict", "model_state_dict", "model", "net", "ema", "params")


@loader()
def checkpoint(
    name: str,
    space: InputSpace,
    *,
    arch: str = "",
    classes: str = "",
    mean: str = "",
    std: str = "",
    pad_type: str = "",
) -> Model:
    """A .safetensors or torch.save file: checkpoint:file.safetensors?arch=resnet4b&mean=0.5&std=0.25.

    arch: one of our small nets, torchvision:NAME, timm:NAME (with pad_type) or python:pkg.mod:factory. mean, std: for
    pixels in [0, 1]; without them the file's own metadata, without that none. Raises BadModel.
    """
    path = Path(name).expanduser()
    weights, metadata = read_weights(path)
    if classes and classes != str(space.classes):
        raise BadModel(f"expected a model of the data's {space.classes} classes, got classes={classes} for {path.name}")
    if not arch:
        raise BadModel(f"expected arch=... for {path.name}, got none; {_fitting(weights, space)}")
    net = architecture(arch, space, pad_type)
    fill(net, weights, f"{path.name} with arch={arch}", space)
    statistics = statistics_of(mean or metadata.get("mean", ""), std or metadata.get("std", ""), space.channels)
    note = "" if statistics else f"{path.name} without normalisation: it takes pixels in [0, 1] as they are"
    own = arch.removeprefix("python:").partition(":")[0] if arch.startswith("python:") else ""
    return finish(f"checkpoint:{path.stem}", net, space, statistics, note, (own,) if own else ())


def architecture(arch: str, space: InputSpace, pad_type: str = "") -> nn.Module:
    """An untrained network from 'resnet4b', 'torchvision:NAME', 'timm:NAME' or 'python:pkg.mod:factory'."""
    scheme, colon, rest = arch.partition(":")
    if pad_type and scheme != "timm":
        raise BadValue(f"expected pad_type with a timm architecture, got arch={arch!r}; leave pad_type out")
    if not colon:
        return build(arch, space)
    if scheme == "python":
        return call_factory(rest)
    if scheme == "torchvision":
        import torchvision

        if rest not in torchvision.models.list_models():
            raise UnknownName("torchvision model", rest, get_close_matches(rest, torchvision.models.list_models()))
        net: nn.Module = torchvision.models.get_model(rest, weights=None, num_classes=space.classes)
        return net
    if scheme == "timm":
        import timm

        if rest not in timm.list_models():
            raise UnknownName("timm model", rest, get_close_matches(rest, timm.list_models()))
        extra: dict[str, Any] = {"pad_type": pad_type} if pad_type else {}
        made: nn.Module = timm.create_model(rest, num_classes=space.classes, in_chans=space.channels, **extra)
        return made
    raise BadValue(f"expected arch as NAME, torchvision:NAME, timm:NAME or python:pkg.mod:factory, got {arch!r}")


def read_weights(path: Path) -> tuple[Weights, dict[str, str]]:
    """Named float32 tensors and the file's metadata. Raises BadModel for whatever is not plain weights."""
    if not path.is_file():
        raise BadModel(f"expected a file of weights, got {str(path)!r}, which is {_absence(path)}; check the path")
    head = path.open("rb").read(64).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadModel(f"expected weights in {path.name}, got a web page; the download went wrong, fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadModel(f"expected weights in {path.name}, got a Git LFS pointer; run `git lfs pull` for the real file")
    weights, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_torch_file(path), {})
    floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    return floats, metadata


def _absence(path: Path) -> str:
    return "a folder" if path.is_dir() else "not there"


def _safetensors(path: Path) -> tuple[Weights, dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadModel(f"expected a safetensors file in {path.name}, got {error}; export the model again") from error


def _torch_file(path: Path) -> Weights:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadModel(
            f"expected plain weights in {path.name}, got something else; nothing in it was run; "
            f"save model.state_dict() as safetensors where you trust its origin"
        ) from error
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    if not isinstance(content, dict) or not content:
        raise BadModel(
            f"expected a dictionary of tensors in {path.name}, got {type(content).__name__}; save state_dict()"
        )
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise BadModel(f"expected tensors in {path.name}, got {odd[0]!r} that is none; save model.state_dict() alone")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def fill(net: nn.Module, weights: Weights, what: str, space: InputSpace) -> None:
    """Load every tensor into its place. Raises BadModel naming the first that is missing, left over or misshapen."""
    ours = net.state_dict()
    needed = {key for key in ours if not key.endswith("num_batches_tracked")}
    given = {key for key in weights if not key.endswith("num_batches_tracked")}
    wrong = [_named("missing", needed - given, ours), _named("left over", given - needed, weights)]
    shapes = {k for k in needed & given if ours[k].shape != weights[k].shape}
    wrong += [f"{k} of {tuple(weights[k].shape)} for {tuple(ours[k].shape)}" for k in sorted(shapes)[:2]]
    if any(wrong):
        detail = "; ".join(part for part in wrong if part)
        raise BadModel(f"expected weights that fit, got for {what}: {detail}; {_fitting(weights, space)}")
    net.load_state_dict({k: weights[k] for k in needed}, strict=False)


def _named(word: str, keys: set[str], order: Weights) -> str:
    first = [key for key in order if key in keys][:3]
    return f"{len(keys)} {word} ({', '.join(first)}{', ...' if len(keys) > 3 else ''})" if keys else ""


def _fitting(weights: Weights, space: InputSpace) -> str:
    """Which of the small nets these tensors would fit."""
    shapes = {k: v.shape for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    fit = []
    for name in ARCHITECTURES:
        try:
            with torch.device("meta"):
                ours = build(name, space).state_dict()
        except RuntimeError:  # a picture too small for this net
            continue
        if {k: v.shape for k, v in ours.items() if not k.endswith("num_batches_tracked")} == shapes:
            fit.append(name)
    return f"its tensors fit arch={fit[0]}" if fit else f"own architectures: {', '.join(ARCHITECTURES)}"
