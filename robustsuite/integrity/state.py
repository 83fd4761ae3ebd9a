"""What a network carries from one question to the next: parameters, buffers and plain attributes, in figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

IGNORED = ("training", "rng", "_modules")
"""Streams are handed to a network by whoever asks; modules are walked by themselves."""

DEEP, LONG = 4, 1000
"""How far into attributes, and how many entries of each, are looked at."""


def state_of(net: nn.Module) -> dict[str, object]:
    """Every number and word that the network holds, by 'module.attribute'; equal where nothing changed."""
    found: dict[str, object] = {}
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                found |= {f"{prefix}{k}": _figure(v, DEEP) for k, v in value.items()}
            elif key not in IGNORED and not key.endswith("_hooks"):
                found[f"{prefix}{key}"] = _figure(value, DEEP)
    return found


def _figure(value: Any, depth: int) -> object:
    if isinstance(value, Tensor):
        flat = value.detach().double().nan_to_num(nan=-1.25)
        return tuple(value.shape), float(flat.sum()), float(flat.abs().sum())
    if isinstance(value, np.ndarray):
        return value.shape, hash(value.tobytes())
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if depth and isinstance(value, Mapping):
        return tuple((repr(k), _figure(v, depth - 1)) for k, v in list(value.items())[:LONG])
    if depth and isinstance(value, list | tuple | set | frozenset):
        return len(value), tuple(_figure(v, depth - 1) for v in list(value)[:LONG])
    if isinstance(value, nn.Module | torch.Generator | type) or callable(value):
        return type(value).__name__
    if depth and hasattr(value, "__dict__"):
        return tuple((k, _figure(v, depth - 1)) for k, v in vars(value).items() if k not in IGNORED)
    return type(value).__name__


@contextmanager
def kept(net: nn.Module) -> Iterator[None]:
    """Give every module its attributes back, those that were assigned to; what they hold is not copied.

    A script's tables are views of what its interpreter holds, not dictionaries: they are left alone.
    """
    saved = [(module, {k: dict(v) if _table(k, v) else v for k, v in vars(module).items()}) for module in net.modules()]
    try:
        yield
    finally:
        for module, attributes in saved:
            for key in vars(module).keys() - attributes.keys():
                del module.__dict__[key]
            for key, value in attributes.items():
                if _table(key, vars(module).get(key)):
                    vars(module)[key].clear()
                    vars(module)[key].update(value)
                else:
                    module.__dict__[key] = value


def _table(key: str, value: object) -> bool:
    return key in ("_parameters", "_buffers") and isinstance(value, dict)
