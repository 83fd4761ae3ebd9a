"""A network's last linear map, found from what it computes, not from what its layers are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import fed

RESHAPES = (
    "View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "Squeeze", "Unsqueeze", "Mean", "AvgPool2D",
    "MkldnnAdaptiveAvgPool2D", "AdaptiveAvgPool2D",
)  # fmt: skip
"""Operations after the linear one that leave it linear: other shapes, and averages over places."""


class Called(NamedTuple):
    """A linear layer in a forward: what it was handed, and what it gave."""

    layer: nn.Linear
    entering: Tensor
    leaving: Tensor


def linear_calls(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Called]]:
    """The net's answer to x (N, C, H, W), and its linear layers in the order of their calls; differentiable."""
    called: list[Called] = []
    handles = [m.register_forward_hook(lambda m, args, out: called.append(Called(m, args[0], out)))
               for m in net.modules() if isinstance(m, nn.Linear)]  # fmt: skip
    try:
        answer: Tensor = net(x)
    finally:
        for handle in handles:
            handle.remove()
    return answer, called


def last_linear(net: nn.Module, x: Tensor) -> Called:
    """The linear layer that is called last on x (N, C, H, W): what enters it are the features; differentiable.

    Raises Unsupported for a network without one.
    """
    called = linear_calls(net, x)[1]
    if not called:
        raise Unsupported("expected a network with a linear layer, got none; its features are not known")
    return called[-1]


def head_of(net: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
    """The linear layer that gives the logits, and x (N, C, H, W) -> its inputs (N, D), with their gradient.

    Raises Unsupported for a network whose logits are no linear layer's output.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.no_grad():
        logits, called = linear_calls(net, torch.full((1, *shape), 0.5, device=device))
    if not called or called[-1].entering.ndim != 2 or not torch.equal(called[-1].leaving, logits):
        raise Unsupported("expected a network whose logits are a linear layer's output, got another; its features are "
                          "not known")  # fmt: skip
    return called[-1].layer, lambda x: linear_calls(net, x)[1][-1].entering


def linear_head(net: nn.Module, picture: Tensor, rng: Rng) -> Tensor:
    """The weight (classes, d) with logits = weight features + bias, from the graph of one picture (1, C, H, W).

    A matrix product or convolution, possibly averaged over places afterwards, whose matrix is a weight of the net. What
    the features are does not matter. Raises Unsupported, naming the last operation, where there is no such head.
    """
    with torch.enable_grad(), fed(net, rng):
        logits: Tensor = net(picture.detach().clone().requires_grad_())
    node = logits.grad_fn
    while node is not None and _passes(node):
        (node,) = _parents(node)
    weight = None if node is None else _matrix(node)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    if weight is None or weight.shape[0] != logits.shape[1]:
        last = "no gradient" if node is None else _name(node)
        raise Unsupported(f"expected a network whose last operation is linear, got one that ends in {last}; use pgd")
    if weight.untyped_storage().data_ptr() not in own:
        raise Unsupported(
            f"expected a last matrix that is a weight of the network, got one computed on the way ({_name(node)}), as "
            "in a cosine head; use pgd"
        )
    return weight.detach()


def _name(node: object) -> str:
    """An operation's name without torch's ending: 'Softmax'."""
    return type(node).__name__.split("Backward")[0]


def _parents(node: torch.autograd.graph.Node) -> list[torch.autograd.graph.Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _passes(node: torch.autograd.graph.Node) -> bool:
    """Whether to look one operation further back: a reshape, an average, or a bias that is added."""
    return len(_parents(node)) == 1 and _name(node) in (*RESHAPES, "Add")


def _matrix(node: torch.autograd.graph.Node) -> Tensor | None:
    """The matrix (outputs, inputs) of a linear operation with one input; None for any other."""
    saved = {name: getattr(node, name, None) for name in ("_saved_mat2", "_saved_weight")}
    if _name(node) in ("Addmm", "Mm") and isinstance(saved["_saved_mat2"], Tensor) and len(_parents(node)) == 1:
        return saved["_saved_mat2"].t()
    if _name(node) != "Convolution" or not isinstance(saved["_saved_weight"], Tensor):
        return None
    kernel = saved["_saved_weight"]
    pointwise = kernel.shape[2:].numel() == 1 and getattr(node, "_saved_groups", 1) == 1
    return kernel.flatten(1) if pointwise and not getattr(node, "_saved_transposed", False) else None
