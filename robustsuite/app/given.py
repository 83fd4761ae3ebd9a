"""What a user hands over from Python, held against what is expected: pictures, labels, a budget, a network.

Each function returns it in the one form that the suite works on, or raises a sentence that quotes what came.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access, Linf, within_box
from robustsuite.config.transforms import Allowed
from robustsuite.errors import BadData, BadModel, BadValue
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, answering, shown, weights_sha256

CHANNELS = (1, 3)
NEARLY = 0.01
"""Beyond [0, 1] by less than this: a resize that overshoots, or rounding."""


def numbers(value: Any, what: str) -> tuple[Tensor, str]:
    """A tensor on the CPU without a gradient, and what its numbers are called; raises BadData for what is none."""
    if isinstance(value, Tensor):
        name, tensor = str(value.dtype).removeprefix("torch."), value.detach().cpu()
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadData(f"expected {what} as a tensor or an array, got {_named(value)}; stack them") from error
        if array.dtype.kind not in "biuf":
            got = "text" if array.dtype.kind in "US" else f"{_named(value)} of {array.dtype}"
            raise BadData(f"expected {what} as numbers, got {got}; hand a tensor or an array of numbers")
        name = array.dtype.name
        tensor = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if tensor.is_complex() or tensor.is_quantized or tensor.is_sparse:
        raise BadData(f"expected {what} as plain numbers, got {name}; convert them")
    wide = not tensor.is_floating_point() and name not in ("bool", "uint8")
    return (tensor.to(torch.int64) if wide else tensor), name


def _named(value: object) -> str:
    return type(value).__name__


def pixels(pictures: Any) -> Tensor:
    """Pictures (N, C, H, W), uint8 or float32 in [0, 1], from arrays (N, C, H, W), (N, H, W, C) or grey (N, H, W).

    The axis of 1 or 3 is the channels'. Raises BadData, with the shape or the range that was found.
    """
    x, kind = numbers(pictures, "pictures")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or not x.numel():
        raise BadData(f"expected pictures (N, C, H, W) and one or more, got shape {tuple(x.shape)}; reshape them")
    x = _channels_first(x)
    if x.dtype == torch.uint8:
        return x.contiguous()
    if not x.is_floating_point():
        hint = "divide by 65535" if kind == "uint16" else "write x.float()" if kind == "bool" else "convert to uint8"
        raise BadData(f"expected uint8 or floats in [0, 1] as pictures, got {kind} {_range(x)}; {hint}")
    x = x.to(torch.float32).contiguous()
    if not bool(x.isfinite().all()):
        bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten()
        raise BadData(
            f"expected finite pixels, got NaN or infinity in {len(bad)} of {len(x)} pictures, in number {int(bad[0])} "
            f"first; leave them out"
        )
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        return x
    if low >= -NEARLY and high <= 1 + NEARLY:
        hint = "write x.clamp(0, 1)"
    elif low < 0:
        hint = "they look normalised: hand the raw ones and give the model its mean and std as a first layer"
    else:
        hint = "divide by 255" if high > 2 else "write x.clamp(0, 1) if that is what they mean"
    raise BadData(f"expected floats in [0, 1] as pictures, got {_range(x)}; {hint}")


def _range(x: Tensor) -> str:
    x = x.to(torch.int64) if x.dtype == torch.bool else x
    return f"from {x.min().item():.6g} to {x.max().item():.6g}"


def _channels_first(x: Tensor) -> Tensor:
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if x.shape[2:] == (1, 1):
        return x
    if first and last:
        raise BadData(
            f"expected pictures whose channels are told by an axis of 1 or 3, got shape {tuple(x.shape)}, where two "
            f"are; they are too small to tell"
        )
    if not first and not last and x.shape[1] > min(x.shape[2:]):
        raise BadData(f"expected pictures (N, C, H, W) with 1 or 3 channels, got shape {tuple(x.shape)}; drop alpha")
    return x.permute(0, 3, 1, 2) if last and not first else x


def class_numbers(labels: Any, n: int, classes: int | None = None) -> Tensor:
    """Labels (N,) int64 of n pictures, in 0 ... classes - 1; (N, 1) is taken too.

    Raises BadData for one-hot and several labels a picture, booleans, fractions, other counts and what is out of range.
    """
    y, kind = numbers(labels, "labels")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        ones = bool(((y == 0) | (y == 1)).all())
        if ones and bool((y.sum(1) == 1).all()):
            raise BadData(f"expected one class number a picture, got one-hot rows {tuple(y.shape)}; write y.argmax(1)")
        many = "several classes a picture" if ones else "several numbers a picture"
        raise BadData(f"expected one class number a picture, got {many}, shape {tuple(y.shape)}; choose one of them")
    if y.ndim != 1:
        raise BadData(f"expected labels (N,), got shape {tuple(y.shape)}; reshape them")
    if len(y) != n or not n:
        raise BadData(f"expected as many labels as pictures and one or more, got {len(y)} labels and {n} pictures")
    if kind == "bool":
        raise BadData("expected class numbers as labels, got booleans; write y.long() if True is class 1")
    if y.is_floating_point() and not bool((y == y.round()).all() and y.isfinite().all()):
        raise BadData(f"expected whole numbers as labels, got {kind} {_range(y)}; hand class numbers")
    low, high = int(y.min()), int(y.max())
    if low < 0 or (classes is not None and high >= classes):
        most = "" if classes is None else f" ... {classes - 1}"
        hint = "leave pictures without a class out" if low < 0 else "count classes from 0"
        raise BadData(f"expected labels from 0{most}, got {low} ... {high}; {hint}")
    return y.to(torch.int64)


def ball(budget: Any) -> Allowed:
    """The budget, Linf(8/255) for None; raises BadValue for a bare number and for pixel units of 0 ... 255."""
    if budget is None:
        return Linf(8 / 255)
    if not hasattr(budget, "norm") or not hasattr(budget, "eps"):
        raise BadValue(f"expected a ball as the budget, got {budget!r}; write rs.Linf(8/255)")
    found: Allowed = within_box(budget)
    return found


def network(net: Any, x: Tensor, device: Any, *, gradients: bool, classes: int) -> Model:
    """A model of a copy in eval mode on the device, which answers x (N, C, H, W) with logits alone.

    gradients: they are asked for. classes: how many there are, 0 where that is its own to say. The network itself is
    left as it is. Raises BadModel with what it answered or raised.
    """
    try:
        asked, copied = (copy.deepcopy(net).to(device).eval() for _ in range(2))  # one keeps what it computed
        with torch.enable_grad():
            out = asked(x[:1].to(device).requires_grad_(gradients))
    except Exception as error:  # anybody's code
        kinds = {str(p.dtype).removeprefix("torch.") for p in net.parameters() if p.is_floating_point()} - {"float32"}
        hint = f"its weights are {', '.join(sorted(kinds))}, hand net.float()" if kinds else "mend it or the pictures"
        said = f"{_named(error)}: {(str(error).strip().splitlines() or ['no message'])[0][:160]}"
        raise BadModel(f"expected an answer to pictures {tuple(x[:1].shape)} in float32, got {said}; {hint}") from error
    answers, logits, note = answering(copied, out, "the network", classes)
    if logits.shape[1] < 2:
        raise BadModel("expected logits of two classes or more, got one column z; return torch.cat([-z, z], 1) / 2")
    channels, height, width = x.shape[1:]
    space = InputSpace(channels, height, width, logits.shape[1])
    shows = shown(answers, space, device)
    if gradients and not shows & Access.GRADIENTS:
        raise BadModel(
            "expected answers with a gradient, got none; remove detach() or no_grad(), or attack without gradients: "
            "attack='square'"
        )
    return Model("given", answers, space, weights_sha256(net), note=note, shows=shows)


def home(net: Any, x: Any, device: Any) -> torch.device:
    """Where to compute: as asked, where the network is, where the pictures are; raises BadModel, BadValue."""
    if not isinstance(net, nn.Module):
        raise BadModel(f"expected an nn.Module, got {_named(net)}; wrap it in one")
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise BadModel("expected a network in Python, got a scripted or traced one; hand what it was made from")
    if device is None:
        device = next((p.device for p in net.parameters()), x.device if isinstance(x, Tensor) else "cpu")
    try:
        return torch.empty(0, device=device).device  # which card 'cuda' means
    except Exception as error:  # torch has many
        raise BadValue(f"expected a device of this machine, got {device!r}; leave it out or write 'cpu'") from error
