"""A ReLU network as affine pieces: what stands before each ReLU is affine in the input and in the ReLUs before it.

    h_i = c_i + sum_{j < i} W_ij v_j,   v_0 = x,   v_i = relu(h_i),   and the logits are the last h.

So one forward in which every ReLU's output is replaced by zeros gives all c_i, and that forward's vector-Jacobian
products apply all W_ij transposed, for whatever convolutions, sums and averages lie between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustsuite.errors import Unsupported

AFFINE = frozenset({
    "conv1d", "conv2d", "linear", "flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "contiguous", "to", "float", "double", "add", "add_", "sub", "sub_", "rsub", "neg", "cat",
    "avg_pool2d", "adaptive_avg_pool2d", "mean", "batch_norm", "dropout", "pad", "size", "dim", "__get__", "__len__",
})  # fmt: skip
"""Functions that are affine in all their tensors together, and questions about shapes."""
TIMES = frozenset({"mul", "div", "true_divide", "matmul", "bmm", "mm", "__truediv__", "__mul__", "__matmul__"})
"""Functions that are affine in one tensor while the others stay as they are; a divisor has to stay."""
RELU = frozenset({"relu", "relu_"})
CALLED = {"__add__": "add", "__iadd__": "add_", "__radd__": "add", "__sub__": "sub", "__rsub__": "rsub",
          "__neg__": "neg", "__rmul__": "mul"}  # fmt: skip


class Pieces(NamedTuple):
    """One forward over n rows. values: x and each ReLU's output, all leaves; before: what each ReLU reads, and z."""

    values: list[Tensor]
    before: list[Tensor]


class Cut(TorchFunctionMode):
    """Replaces every ReLU's output by a leaf, or records it; anything that is not affine is refused by name."""

    def __init__(self, leaf: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.leaf = leaf
        self.values: list[Tensor] = []
        self.before: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        moving = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor) and arg.requires_grad]
        listed = any(isinstance(arg, list | tuple) and any(map(_moves, arg)) for arg in args)
        if name in RELU and moving:
            self.before.append(moving[0])
            self.values.append(self.leaf(moving[0]))
            return self.values[-1]
        if moving or listed:
            _refuse_unless_affine(CALLED.get(name, name), args, moving)
        return func(*args, **kwargs)


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _refuse_unless_affine(name: str, args: tuple[Any, ...], moving: list[Tensor]) -> None:
    if name in AFFINE:
        return
    divides = "div" in name and len(args) > 1 and _moves(args[1])
    if name in TIMES and len(moving) == 1 and not divides:
        return
    raise Unsupported(
        f"expected a network of affine layers and ReLUs for branch and bound, got {name!r} of what depends on the "
        "input; certify it by lirpa or by smoothing"
    )


class ReluNet:
    """A frozen copy of a network in eval mode, known to be affine between its ReLUs, row by row.

    shapes: of the input and of each ReLU's output, one row. Raises Unsupported for another network.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        some = x[:1].detach()
        rows = torch.cat([some, some.flip(-1), 0.5 * some])
        pieces = cut(self.net, rows, torch.relu)
        self.shapes = [value.shape[1:] for value in pieces.values]
        self.outputs = pieces.before[-1].shape[1]
        with torch.no_grad():
            alone = torch.cat([self.net(row[None]) for row in rows])
        scale = alone.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp_min(1e-30)
        if any(len(value) != len(rows) for value in pieces.values) or not torch.allclose(
            pieces.before[-1] / scale, alone / scale, 0, 1e-3, equal_nan=True
        ):
            raise Unsupported(
                "expected a network that answers each picture by itself, got other outputs in a batch or after a cut "
                "at its ReLUs; call .eval(), and avoid in-place changes of what is read again"
            )

    def pieces(self, n: int, like: Tensor) -> Pieces:
        """The forward of n rows whose input and ReLU outputs are all zeros."""
        return cut(self.net, like.new_zeros(n, *self.shapes[0]))


def cut(net: nn.Module, x: Tensor, value: Callable[[Tensor], Tensor] = torch.zeros_like) -> Pieces:
    """The forward of x (N, C, H, W) with every ReLU's output replaced by a leaf: `value` of its input, or zeros.

    Raises Unsupported for what is not affine in between; with weights that are trained it takes that on trust.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        mode = Cut(lambda h: value(h.detach()).requires_grad_())
        with mode:
            logits = net(leaf)
    return Pieces([leaf, *mode.values], [*mode.before, logits])
