"""ImageNet-C's corruptions on the fly: fifteen and four extra, five severities, three image sizes, in batches.

"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (Hendrycks and Dietterich, 2019,
https://arxiv.org/abs/1903.12261). The distribution of every corruption is the published one, not its samples;
frost's textures differ unless a folder is named (see frost_textures). The published files were also saved as
JPEG of quality 85, which costs a network some accuracy: `jpeg_roundtrip=85` does the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustsuite.benchmarks.shifts import blur, digital, noise, spatter, weather
from robustsuite.benchmarks.shifts.filters import floor8
from robustsuite.benchmarks.shifts.frost_textures import frost_textures
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA, PARAMETERS
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: getattr(module, name)
    for module in (noise, blur, weather, digital, spatter)
    for name in CORRUPTIONS + EXTRA
    if hasattr(module, name)
}
_MIN_SIDE = 16
# values that a CPU core's second-level cache holds: a larger batch is worked through in parts
_PART = 1 << 18
# these hand a batch to threads
_WHOLE = {"jpeg_compression"}


def corrupt(
    name: str,
    x: Tensor,
    severity: int,
    *,
    rng: Rng,
    parameters: str = "imagenet",
    jpeg_roundtrip: int | None = None,
    frost_folder: str | None = None,
) -> Tensor:
    """Corrupted images (N, 3, H, W) float32 on the 8-bit grid (values k / 255), truncated as published.

    x: (N, 3, H, W) in [0, 1], H and W at least 16, rounded to the 8-bit grid first. severity: 1 ... 5.
    rng: a stream an image; an image's corruption depends on its own stream alone, never on the batch.
    parameters: the constants for `imagenet` (224 px), `tiny_imagenet` (64) or `cifar` (32).
    jpeg_roundtrip: quality of a final JPEG encoding and decoding (the published files: 85).
    frost_folder: photographs of frost to use instead of the procedural textures.
    Raises UnknownName for a name or parameter set, BadValue for a severity, shape or stream count, BadData for
    an empty frost folder.
    """
    _check(name, x, severity, rng, parameters)
    c = PARAMETERS[parameters][name][severity - 1]
    rng = rng.fold(f"{name}/{severity}")
    extra: dict[str, Any] = {"textures": frost_textures(frost_folder).to(x.device)} if name == "frost" else {}
    part = max(1, _PART // math.prod(x.shape[1:])) if x.device.type == "cpu" and name not in _WHOLE else len(x)
    out = torch.empty(x.shape, device=x.device)
    for start in range(0, len(x), max(part, 1)):
        rows = slice(start, start + part)
        clean = (x[rows] * 255).round_().clamp_(0, 255).div_(255)
        out[rows] = floor8(_FUNCTIONS[name](clean, c, rng[rows], **extra))
    return out if jpeg_roundtrip is None else digital.jpeg(out, jpeg_roundtrip)


def _check(name: str, x: Tensor, severity: int, rng: Rng, parameters: str) -> None:
    if name not in _FUNCTIONS:
        raise UnknownName("corruption", name, CORRUPTIONS + EXTRA)
    if parameters not in PARAMETERS:
        raise UnknownName("parameter set", parameters, PARAMETERS)
    if severity not in (1, 2, 3, 4, 5):
        raise BadValue(f"expected a severity from 1 to 5, got {severity!r}; 0 would be the clean image")
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < _MIN_SIDE or not x.is_floating_point():
        raise BadValue(
            f"expected float images (N, 3, H, W) with sides of at least {_MIN_SIDE}, "
            f"got {tuple(x.shape)} {x.dtype}; convert them to [0, 1] RGB"
        )
    if len(rng) != len(x):
        raise BadValue(f"expected one random stream an image, got {len(rng)} for {len(x)}; make them by image id")
