"""What a network is made of that its adversarial pictures may betray: kernel size, activation, weight sparsity.

The attributes and their values are those of Yao et al. (2023, arXiv:2303.07474). They are read from what a network does
with one picture, so that functions and modules count alike, never from a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustsuite.errors import Unsupported

KERNELS = (3, 5, 7)
ACTIVATIONS = ("relu", "tanh", "elu")
SPARSITIES = (0.0, 0.375, 0.625)
NAMES = ("kernel", "activation", "sparsity")
CHANCE = 1 / 3
"""What a guesser reaches of one attribute; of all three at once its cube."""

OTHERS = ("gelu", "silu", "sigmoid", "leaky_relu", "hardtanh", "softplus", "hardswish", "hardsigmoid", "mish")
"""Activations that are none of the three; a network that has one of them is of no class."""

NEAR = 0.02
"""How far a share of zeros may be from the class that it is taken for."""


class Attributes(NamedTuple):
    """Of a network: the side of its kernels, its activation, the share of zeros among its convolutions' weights."""

    kernel: int
    activation: str
    sparsity: float

    def classes(self) -> Tensor:
        """The place (3,) of each among KERNELS, ACTIVATIONS and SPARSITIES."""
        nearest = min(SPARSITIES, key=lambda share: abs(share - self.sparsity))
        places = KERNELS.index(self.kernel), ACTIVATIONS.index(self.activation), SPARSITIES.index(nearest)
        return torch.tensor(places)

    def __str__(self) -> str:
        return f"kernel {self.kernel}, {self.activation}, {self.sparsity:.1%} of the weights zero"


COMBINATIONS = tuple(Attributes(k, a, s) for k in KERNELS for a in ACTIVATIONS for s in SPARSITIES)
"""All 27, the sparsity changing first."""


class _Watched(TorchDispatchMode):
    """Notes each convolution's weight, those of 1x1 aside, and each activation, while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: dict[int, Tensor] = {}
        self.activations: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func._schema.name).removeprefix("aten::").rstrip("_")
        if name == "convolution" and args[1][0, 0].numel() > 1:
            self.weights[args[1].data_ptr()] = args[1]
        elif name in ACTIVATIONS or name in OTHERS:
            self.activations.add(name)
        return func(*args, **(kwargs or {}))


def attributes_of(net: Callable[[Tensor], Tensor] | nn.Module, shape: tuple[int, int, int]) -> Attributes:
    """What a network computes with, read from one grey picture (C, H, W) that it is asked about, on its own device.

    1x1 convolutions, which shortcuts have whatever the kernel's size, are left out, with their weights.
    Raises Unsupported in a sentence for a network of none of the 27 combinations.
    """
    device = next((p.device for p in net.parameters()), "cpu") if isinstance(net, nn.Module) else "cpu"
    with torch.no_grad(), _Watched() as seen:
        net(torch.full((1, *shape), 0.5, device=device))
    sides = sorted({tuple(w.shape[2:]) for w in seen.weights.values()})
    if len(sides) != 1 or sides[0] not in [(k, k) for k in KERNELS]:
        found = ", ".join("x".join(map(str, side)) for side in sides) or "no convolution"
        raise Unsupported(f"expected convolutions of one size, 3x3, 5x5 or 7x7, got {found}; its kernel is of no class")
    if len(seen.activations) != 1 or not seen.activations <= set(ACTIVATIONS):
        found = ", ".join(sorted(seen.activations)) or "none"
        raise Unsupported(f"expected one activation of {', '.join(ACTIVATIONS)}, got {found}; it is of no class")
    zeros = sum(int((w == 0).sum()) for w in seen.weights.values())
    share = zeros / sum(w.numel() for w in seen.weights.values())
    if all(abs(share - known) > NEAR for known in SPARSITIES):
        raise Unsupported(f"expected 0, 37.5 or 62.5 % of the convolutions' weights to be zero, got {share:.1%}; "
                          f"its sparsity is of no class")  # fmt: skip
    return Attributes(sides[0][0], next(iter(seen.activations)), share)
