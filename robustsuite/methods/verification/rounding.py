"""How far from 0 the sign of a bound is in doubt: no bound here counts the rounding of its own sums."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.errors import BadData, Unsupported
from robustsuite.maths.numerics import float32

NEAR = 1e-3
"""A float32 bound this share of its scale away from 0 has its sign: the scale is the largest of the image's logits and
bounds. Errors up to 3e-6 of it were measured (CROWN at 1/255 and 2/255 on cifar10_cnn_a_adv, logits x 0.001 to 10,000:
2.4e-8 to 0.27), and 7.5e-4 in absolute terms on other networks with logits as they are."""
NOISE = 1e3
"""So often the difference between the image's logits in float32 and in float64 is near as well: it is large where
large numbers cancel inside the network, which its outputs do not show."""
DOUBLE = 1e-6
"""Near in float64 is this share of near in float32: its unit of rounding is 2e-9 of the other's."""


class Scale(NamedTuple):
    """Of each picture its largest logit, and the largest difference between its logits in the two precisions (N,)."""

    largest: Tensor
    apart: Tensor

    def near(self, bounds: Tensor) -> Tensor:
        """How far (N,) float64 from 0 the signs of float32 bounds (N, K) are still in doubt."""
        if not len(bounds):
            return self.largest.new_zeros(0)
        return NEAR * torch.maximum(self.largest, bounds.double().abs().amax(1)) + NOISE * self.apart


def scale_of(net: nn.Module, other: nn.Module, x: Tensor, batch_size: int | None = None) -> Scale:
    """The scale of pictures (N, C, H, W); `other` is the network in the other precision. Raises Unsupported."""
    if not len(x):
        return Scale(*(x.new_zeros(0, dtype=torch.float64) for _ in range(2)))
    turned = x.to(torch.float32 if x.dtype == torch.float64 else torch.float64)
    z, again = _logits(net, x, batch_size).double(), _logits(other, turned, batch_size).double()
    return Scale(z.abs().amax(1), (z - again).abs().amax(1))


def in_the_other_precision(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy of the network in float64 for float32, and in float32 for float64."""
    return copy.deepcopy(net).to(torch.float32 if x.dtype == torch.float64 else torch.float64)


def boundable(net: nn.Module, x: Tensor) -> None:
    """Raise Unsupported for weights and pictures of another dtype than float32 or float64, or of two; BadData for
    pictures outside [0, 1].
    """
    weights = next(net.parameters(), x)
    if weights.dtype not in (torch.float32, torch.float64) or x.dtype != weights.dtype:
        raise Unsupported(
            f"expected weights and images both float32 or both float64, got {weights.dtype} and {x.dtype}; "
            "call .float() on both: bounds in fewer bits are not sound"
        )
    if not ((x >= 0) & (x <= 1)).all():
        raise BadData(f"expected images in [0, 1], got values in [{x.min():g}, {x.max():g}]; divide bytes by 255")


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32 and no autocast: both make bounds unsound."""
    with float32(), torch.autocast(device.type, enabled=False):
        yield


def _logits(net: nn.Module, x: Tensor, batch_size: int | None) -> Tensor:
    """Logits (N, K) in the dtype of x."""
    try:
        with torch.no_grad(), full_precision(x.device):
            return torch.cat([net(part) for part in torch.split(x, batch_size or 256)])
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "type" not in str(error):
            raise
        raise Unsupported(
            f"expected a network that computes in float32 and in float64, got {str(error).splitlines()[0]!r} for "
            f"{x.dtype}; register its constants as buffers, so that .double() reaches them"
        ) from None
