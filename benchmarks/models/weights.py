"""Named tensors in a file: every set of weights that a framework wrote into it. Nothing in a file is ever run.

torch.load reads with weights_only=True. Harmless classes that stand beside weights (a Namespace, numpy scalars, paths)
are read as stand-ins that hold nothing, so that no code of theirs is called either; any other class is refused by name.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robustsuite.benchmarks.models.files import kind_of, regular
from robustsuite.errors import BadModel

Weights = dict[str, Tensor]

NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "module", "weights", "params", "ema", "model_ema",
    "state_dict_ema", "teacher",
)  # fmt: skip
"""Keys under which frameworks keep weights, the likeliest first; a set under another key is found as well."""

NAMES = ("classes", "class_names", "class_to_idx", "idx_to_class", "id2label", "label2id")
"""Keys under which the classes' names stand."""

DEPTH = 3
"""How many dictionaries deep a set of weights may stand."""

INERT = (
    "argparse.Namespace", "types.SimpleNamespace",
    *(f"numpy.{part}.multiarray.{name}" for part in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray", "numpy.dtype", "numpy.bool_", "numpy.float64", "numpy.float32", "numpy.int64",
    *(f"{module}.{kind}{name}" for module in ("pathlib", "pathlib._local") for name in ("Path",)
      for kind in ("Posix", "Windows", "PurePosix", "PureWindows", "")),
)  # fmt: skip
"""Classes that hold numbers, words and paths, and functions that make them."""

PLAIN = "save model.state_dict() alone, as .safetensors, where you trust its origin"


class Stand:
    """In the place of what is not needed: it takes anything and keeps nothing."""

    def __new__(cls, *args: object) -> Stand:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Held(NamedTuple):
    """The sets of weights in a file by their key, 'ema' or 'model.teacher' ('.': the file's own), and its metadata.

    classes: their names in order, where the file has such a list beside the weights.
    """

    sets: dict[str, Weights]
    metadata: dict[str, str]
    classes: tuple[str, ...] = ()

    @property
    def first(self) -> Weights:
        """The set under the likeliest key, of those of one rank the largest."""

        def rank(key: str) -> tuple[int, int]:
            last = key.rpartition(".")[2]
            return NESTS.index(last) if last in NESTS else len(NESTS), -len(self.sets[key])

        return self.sets[min(self.sets, key=rank)]


def read_weights(name: str) -> Held:
    """Every set of named tensors in a .safetensors or torch.save file, as they are stored.

    Raises BadModel for whatever is not plain weights, before it is read where that shows.
    """
    path = regular(name, "a file of weights")
    if path.suffix == ".json":
        raise BadModel(f"expected a file of weights, got {path.name}{_index(path)}; save one state_dict() in one file")
    held = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    if not held.sets:
        raise BadModel(f"expected named tensors in {path.name}, got none; save model.state_dict()")
    return held


def _index(path: Path) -> str:
    try:
        parts = len(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ", which is text"
    return f", the index of weights in {parts} shards"


def _safetensors(path: Path) -> Held:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, AttributeError) as error:  # a dtype that this torch has not
        raise BadModel(f"expected a safetensors file in {path.name}, got {error}; export the model again") from error
    return Held({".": tensors} if tensors else {}, metadata)


def _torch_file(path: Path) -> Held:
    kind = kind_of(path)
    if kind == "torchscript":
        raise BadModel(f"expected plain weights in {path.name}, got TorchScript; load it as torchscript:{path.name}")
    if kind == "export":
        raise BadModel(f"expected plain weights in {path.name}, got an exported program; load it as export:{path.name}")
    stands = [(Stand, name) for name in INERT]
    try:
        with torch.serialization.safe_globals(stands), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # that the pickle's protocol is a newer one
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, torch and zip raise classes of many kinds
        raise _unread(path, error) from error
    if isinstance(content, nn.Module) or not isinstance(content, Mapping):
        got = type(content).__name__
        raise BadModel(f"expected a dictionary of tensors in {path.name}, got {got}; save model.state_dict()")
    return Held(dict(_sets(content)), {}, next(filter(None, (_names(content.get(key)) for key in NAMES)), ()))


def _names(value: object) -> tuple[str, ...]:
    """A list of names, or a mapping between names and their numbers 0, 1, ...; () for anything else."""
    if isinstance(value, Mapping):
        numbered = {k: v for v, k in value.items()} if all(isinstance(k, str) for k in value) else dict(value)
        value = [numbered.get(i) for i in range(len(value))]
    named = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return tuple(value) if named else ()  # type: ignore[arg-type]


def _unread(path: Path, error: Exception) -> BadModel:
    """Why a file is not read, with the classes that it names where they are what stops it."""
    found = f"expected plain weights in {path.name}, got"
    blocked = sorted(set(_globals(path, error)) - set(INERT))
    listed = ", ".join(blocked[:3]) + (f" and {len(blocked) - 3} more" if len(blocked) > 3 else "")
    if not blocked or not isinstance(error, pickle.UnpicklingError):
        return BadModel(f"{found} something else; nothing in it was run; {PLAIN}")
    if any(name.startswith(("torchao.", "bitsandbytes.", "torch.ao.")) for name in blocked):
        return BadModel(f"{found} quantised ones ({listed}); nothing in it was run; save those of the float model")
    if any(".tensor.DTensor" in name or "ShardedTensor" in name for name in blocked):
        return BadModel(f"{found} shards ({listed}); nothing in it was run; gather one full state_dict() and save that")
    if any(name.startswith("torch.nn.modules.") for name in blocked):
        return BadModel(
            f"{found} a whole pickled network ({listed}); nothing in it was run; "
            f"save its state_dict(), or load it as python:pkg.mod:factory"
        )
    return BadModel(f"{found} the class {listed} beside them; nothing in it was run; {PLAIN}")


def _globals(path: Path, error: Exception) -> list[str]:
    """The classes and functions a file names and torch does not allow; of files older than torch 1.6 the first."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # no archive of torch.save
        return re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]


def _sets(content: Mapping[Any, Any]) -> Iterator[tuple[str, Weights]]:
    """(key, tensors) for each dictionary that has tensors by name, outermost first, each but once."""
    seen: set[int] = set()
    layer: list[tuple[str, Mapping[Any, Any]]] = [(".", content)]
    for _ in range(DEPTH):
        inner: list[tuple[str, Mapping[Any, Any]]] = []
        for key, mapping in layer:
            if id(mapping) in seen:
                continue
            seen.add(id(mapping))
            if tensors := {k: v for k, v in mapping.items() if isinstance(k, str) and _holds(v)}:
                yield key, {k: _tensor(v) for k, v in tensors.items()}
            named = [(k, v) for k, v in mapping.items() if isinstance(k, str) and isinstance(v, Mapping)]
            inner += [(k if key == "." else f"{key}.{k}", v) for k, v in named]
        layer = inner


def _holds(value: object) -> bool:
    packed = isinstance(value, tuple) and bool(value) and isinstance(value[0], Tensor) and value[0].is_quantized
    return isinstance(value, Tensor) or packed


def _tensor(value: Any) -> Tensor:
    """A tensor; of a quantised layer's packed pair, the weights."""
    tensor: Tensor = value if isinstance(value, Tensor) else value[0]
    return tensor


def odd(tensor: Tensor) -> str:
    """What makes a tensor no plain dense numbers, '' where nothing does."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized or (tensor.dtype.is_floating_point and tensor.dtype.itemsize < 2):
        return "quantised"
    if tensor.is_complex():
        return "complex"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type}"
    return "" if type(tensor) in (Tensor, nn.Parameter) else f"a {type(tensor).__name__}"
