"""Weights from a file into an architecture; a file is data and nothing in it is ever run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustsuite.benchmarks.models.factories import call_factory
from robustsuite.benchmarks.models.finish import finish, statistics_of
from robustsuite.benchmarks.models.small_nets import ARCHITECTURES, build
from robustsuite.benchmarks.models.weights import Held, Weights, odd, read_weights
from robustsuite.errors import BadModel, BadValue, UnknownName, brief, quoted
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What wrappers (DataParallel, torch.compile, Lightning, ...) put before the name of every tensor."""


@loader()
def checkpoint(
    name: str,
    space: InputSpace,
    *,
    arch: str = "",
    weights: str = "",
    classes: str = "",
    mean: str = "",
    std: str = "",
    pad_type: str = "",
) -> Model:
    """A .safetensors or torch.save file: checkpoint:file.safetensors?arch=resnet4b&mean=0.5&std=0.25.

    arch: one of our small nets, torchvision:NAME, timm:NAME (with pad_type) or python:pkg.mod:factory; without it the
    one small net that the tensors fit. weights: which set, where a file has several, by its key: state_dict_ema. mean,
    std: for pixels in [0, 1]; without them the file's own metadata, without that none. Raises BadModel.
    """
    held, path = read_weights(name), Path(name)
    if classes and classes != str(space.classes):
        raise BadModel(f"expected a model of the data's {space.classes} classes, got classes={classes} for {path.name}")
    notes = []
    if ":" not in arch and arch not in ARCHITECTURES:
        fit = _fitting([held.sets[weights]] if weights in held.sets else held.sets.values(), space)
        if arch or len(fit) != 1:
            wanted, got = ("a known arch=", quoted(arch)) if arch else ("arch=...", "none")
            raise BadModel(f"expected {wanted} for {path.name}, got {got}; {_hint(fit)}")
        (arch,) = fit
        notes.append(f"{path.name} read as arch={arch}, the only one of ours that its tensors fit")
    net = architecture(arch, space, pad_type)
    what = f"{path.name} with arch={arch}"
    notes.append(fill(net, chosen(held, net.state_dict(), weights, path.name), what, space))
    statistics = statistics_of(
        mean or held.metadata.get("mean", ""), std or held.metadata.get("std", ""), space.channels
    )
    if not statistics:
        notes.insert(0, f"{path.name} without normalisation: it takes pixels in [0, 1] as they are")
    own = arch.removeprefix("python:").partition(":")[0] if arch.startswith("python:") else ""
    called = f"checkpoint:{path.stem}" + (f"({weights})" if weights else "")
    made = finish(called, net, space, statistics, "; ".join(filter(None, notes)), (own,) if own else ())
    return replace(made, classes=held.classes if len(held.classes) == space.classes else ())


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


def chosen(held: Held, ours: Weights, key: str, what: str) -> Weights:
    """The set under `key`, or the one that fits `ours`; where none does, the likeliest. Raises BadModel for several."""
    if key and key not in held.sets:
        there = ", ".join(map(brief, list(held.sets)[:8]))
        raise BadModel(f"expected weights= as a set that {what} has ({there}), got {key!r}; choose one of them")
    fit = [k for k, w in held.sets.items() if _shapes(unwrapped(w, ours)) == _shapes(ours)]
    if not key and len(fit) > 1:
        several, choice = " and ".join(fit[:4]), " or ".join(f"weights={k}" for k in fit[:4])
        raise BadModel(f"expected one set of weights in {what}, got {len(fit)} that fit: {several}; choose {choice}")
    return unwrapped(held.sets[key] if key else held.sets[fit[0]] if fit else held.first, ours)


def unwrapped(weights: Weights, ours: Weights) -> Weights:
    """The same tensors without prefixes that all their names have, as far as most of the names are those of `ours`."""
    found = [weights]
    while weights:
        if "n_averaged" in weights and all(k.startswith("module.") for k in weights if k != "n_averaged"):
            weights = {k: v for k, v in weights.items() if k != "n_averaged"}  # AveragedModel's own count
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in weights)), "")
        if not (prefix and weights):
            break
        weights = {k.removeprefix(prefix): v for k, v in weights.items()}
        found.append(weights)
    return max(reversed(found), key=lambda w: len(w.keys() & ours.keys()))


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    """By name, without the counters of batch normalisation, which an evaluation never reads."""
    return {k: v.shape for k, v in weights.items() if not (k.endswith("num_batches_tracked") or v.is_nested)}


def fill(net: nn.Module, weights: Weights, what: str, space: InputSpace, hint: str = "") -> str:
    """Load every tensor into its place, in float32; what a reader must know of that, or ''.

    Raises BadModel naming the first that is missing, left over, misshapen or no plain numbers. hint: what to do then,
    where it is not to choose another of our nets.
    """
    for key, tensor in weights.items():
        if how := odd(tensor):
            hint = "save those of the float model" if how == "quantised" else "save plain dense tensors"
            raise BadModel(f"expected plain weights in {what}, got {quoted(key)}, which is {how}; {hint}")
    ours, needed, given = net.state_dict(), _shapes(net.state_dict()), _shapes(weights)
    wrong = [_named("missing", needed.keys() - given, ours), _named("left over", given.keys() - needed, weights)]
    shared = sorted(needed.keys() & given)
    wrong += [f"{brief(k)} of {tuple(given[k])} for {tuple(needed[k])}" for k in shared if given[k] != needed[k]][:2]
    kinds = [k for k in shared if ours[k].is_floating_point() != weights[k].is_floating_point()]
    wrong += [f"{brief(k)} of {_dtype(weights[k].dtype)} for {_dtype(ours[k].dtype)}" for k in kinds[:2]]
    if any(wrong):
        detail = "; ".join(part for part in wrong if part)
        hint = hint or _hint(_fitting([weights], space))
        raise BadModel(f"expected weights that fit, got for {what}: {detail}; {hint}")
    net.load_state_dict({k: weights[k] for k in needed}, strict=False)
    stored = dict.fromkeys(weights[k].dtype for k in shared if weights[k].is_floating_point())
    other = [_dtype(dtype) for dtype in stored if dtype != torch.float32]
    return f"{what.partition(' with ')[0]} stored in {', '.join(other)}, computed in float32" if other else ""


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _named(word: str, keys: AbstractSet[str], order: Weights) -> str:
    first = [brief(key) for key in order if key in keys][:3]
    return f"{len(keys)} {word} ({', '.join(first)}{', ...' if len(keys) > 3 else ''})" if keys else ""


def _fitting(sets: Iterable[Weights], space: InputSpace) -> list[str]:
    """Which of the small nets one of these sets of tensors fits, by names and shapes."""
    sets, fit = list(sets), []
    for name in ARCHITECTURES:
        try:
            with torch.device("meta"):
                ours = build(name, space).state_dict()
        except RuntimeError:  # a picture too small for this net
            continue
        if any(_shapes(ours) == _shapes(unwrapped(weights, ours)) for weights in sets):
            fit.append(name)
    return fit


def _hint(fit: Sequence[str]) -> str:
    named = " and ".join(f"arch={name}" for name in fit)
    return f"its tensors fit {named}" if fit else f"own architectures: {', '.join(ARCHITECTURES)}"
