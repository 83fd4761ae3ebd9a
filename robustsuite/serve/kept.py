"""Trained weights on disk, each under the key of all that went into them; what is missing or does not fit is made anew.

Written aside, then renamed: a killed run leaves no half file. A full disk only costs the next run its time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from platformdirs import user_cache_dir
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustsuite.records.leases import held, waited
from robustsuite.serve.models import Fit, Training

Weights = dict[str, Tensor]
FINDINGS = TypeAdapter(dict[str, dict[str, Any]])


def cache_folder() -> Path:
    """Where trained weights are kept: $ROBUSTSUITE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("ROBUSTSUITE_CACHE") or user_cache_dir("robustsuite"))


def key_of(facts: list[str]) -> str:
    """The key under which a training of these facts is kept."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def file_of(key: str) -> Path:
    """Where the weights of this key are, if they are."""
    return cache_folder() / "weights" / f"{key}.safetensors"


def wanted(key: str) -> bool:
    """Whether another process is training it now."""
    return held(_lease(key))


def _lease(key: str) -> Path:
    return file_of(key).with_suffix(".lease")


def kept(fit: Fit, key: str, shapes: tuple[Fit, ...] = ()) -> Fit:
    """The same recipe, its result and findings kept.

    shapes: what turns the network before into the kept one's architecture, in order.
    """

    def filled(weights: Weights, net: nn.Module, training: Training) -> nn.Module:
        for shape in shapes:
            net = shape(net, training)
        _held_against(weights, net.state_dict())
        net.load_state_dict(weights)
        return net.to(memory_format=torch.contiguous_format)  # as `fitted` returns it, for the same bits

    return _kept(fit, key, filled, lambda trained, net: trained.state_dict())


def learnt(defense: Fit, key: str, shape: Fit) -> Fit:
    """A wrapper that learns: what it learnt is kept; the network it wraps is not, and is never written to.

    shape: the wrapper before it has learnt.
    """

    def filled(weights: Weights, net: nn.Module, training: Training) -> nn.Module:
        wrapper = shape(net, training).to(training.device)
        found = _besides(wrapper, net)
        _held_against(weights, found)
        for name, tensor in found.items():
            tensor.copy_(weights[name])
        return wrapper.eval().requires_grad_(False)

    return _kept(defense, key, filled, _besides)


def _held_against(weights: Weights, wanted: Weights) -> None:
    """Raises ValueError before anything is overwritten: what would be trained anew starts from these tensors."""
    shapes, expected = ({name: tensor.shape for name, tensor in state.items()} for state in (weights, wanted))
    if shapes != expected or not all(bool(t.isfinite().all()) for t in weights.values() if t.is_floating_point()):
        raise ValueError("the kept weights are of another network, or damaged")


def _besides(wrapper: nn.Module, net: nn.Module) -> Weights:
    """The tensors of a wrapper that are not the network's own."""
    own = {tensor.data_ptr() for tensor in net.state_dict().values()}
    return {name: tensor for name, tensor in wrapper.state_dict().items() if tensor.data_ptr() not in own}


def _kept(
    fit: Fit, key: str, filled: Callable[[Weights, nn.Module, Training], nn.Module],
    weights: Callable[[nn.Module, nn.Module], Weights],
) -> Fit:  # fmt: skip
    """filled: the trained network from its weights; weights: of a network (trained, before), what is to be kept."""

    def made(net: nn.Module, training: Training) -> nn.Module:
        with waited(_lease(key)):  # of several processes one trains, the others wait and read
            return once(net, training)

    def once(net: nn.Module, training: Training) -> nn.Module:
        file, findings = file_of(key), dict[str, dict[str, Any]]()
        if file.exists():
            try:
                with safe_open(file, "pt") as opened:
                    known = FINDINGS.validate_json((opened.metadata() or {}).get("findings", "{}"))
                trained = filled(load_file(file), net, training)
            except (RuntimeError, SafetensorError, OSError, ValueError):
                training.tell(f"the kept weights {file.name} do not fit; training again")
            else:
                for name, finding in known.items():
                    training.keep(name, finding)
                return trained

        def keep(name: str, finding: dict[str, Any]) -> None:
            findings[name] = finding
            training.keep(name, finding)

        trained = fit(net, replace(training, keep=keep))
        save(weights(trained, net), file, findings)
        return trained

    return made


def save(weights: Weights, file: Path, findings: dict[str, dict[str, Any]] | None = None) -> None:
    """Put weights and findings into a file, where that can be done."""
    aside = file.with_suffix(f".{uuid4().hex}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
        save_file(tensors, aside, metadata={"findings": json.dumps(findings or {})})
        os.replace(aside, file)
    except (OSError, SafetensorError):
        with suppress(OSError):
            aside.unlink(missing_ok=True)
