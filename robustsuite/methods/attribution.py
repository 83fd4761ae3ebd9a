"""Where a net looks: gradient maps and class activation maps, differentiable where an attack must steer them.

The derivative of a ReLU net's gradient map is almost everywhere zero, so an attack on the map softens the ReLUs first
(Zhang et al., 2020, "Interpretable deep learning under fire", arXiv 1812.00891, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from robustsuite.errors import UnknownName, Unsupported
from robustsuite.maths import losses

BETA = 20.0
"""Sharpness of softplus, log(1 + exp(beta z)) / beta, that stands in for ReLU: maps of a CIFAR-10 ResNet-20 keep a
correlation of 0.97 with its own, and so far softened they can be steered."""

POOL = 4
"""Side of the squares a gradient map is averaged over."""

_RELU = {functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class SmoothReLU(TorchFunctionMode):
    """While entered, every ReLU computes softplus: modules, functions and methods alike, with no net rebuilt."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _RELU:
            return functional.softplus(args[0], beta=BETA)
        if func is functional.relu6:
            return functional.softplus(args[0], beta=BETA) - functional.softplus(args[0] - 6, beta=BETA)
        return func(*args, **(kwargs or {}))


Interpreter = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(net, x (N, C, H, W), classes (N,)) -> map (N, h, w) in [0, 1]; a graph is kept where x asks for a gradient."""


def gradient_map(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """|d cross-entropy / d x|, its maximum over channels, pooled over 4 x 4 and scaled to [0, 1] (N, h, w)."""
    steered = x.requires_grad
    with torch.enable_grad():
        leaf = x if steered else x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(_surprise(net(leaf), classes).sum(), leaf, create_graph=steered)
    side = min(POOL, *x.shape[-2:])
    return scaled(functional.avg_pool2d(grad.abs().amax(1, keepdim=True), side)[:, 0])


def _surprise(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy (N,) as log(1 + exp(-log-odds)): its gradient keeps its direction where softmax rounds to 1."""
    others = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)
    return functional.softplus(others - losses.own(logits, classes))


def activation_map(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """CAM (Zhou et al., 2016, arXiv 1512.04150): sum_k w_{class,k} A_k of the last features, scaled to [0, 1].

    Raises Unsupported unless the net averages its last feature map into one linear layer.
    """
    seen: list[Tensor] = []
    heads: list[nn.Linear] = []

    def look(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(module, nn.Linear):
            heads.append(module)
        elif isinstance(out, Tensor) and out.dim() == 4 and out[0, 0].numel() > 1:
            seen.append(out)

    handles = [module.register_forward_hook(look) for module in net.modules()]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    if not heads or not seen or seen[-1].shape[1] != heads[-1].in_features:
        raise Unsupported(
            "expected a net that averages its last feature map into one linear layer, which is what a class activation "
            "map reads, got another; use interpreter=grad"
        )
    return scaled(torch.einsum("nk,nkhw->nhw", heads[-1].weight[classes], seen[-1]))


INTERPRETERS: dict[str, Interpreter] = {"grad": gradient_map, "cam": activation_map}


def interpreter_named(name: str) -> Interpreter:
    """The interpreter of this name: grad or cam. Raises UnknownName."""
    if name not in INTERPRETERS:
        raise UnknownName("interpreter", name, INTERPRETERS)
    return INTERPRETERS[name]


def scaled(raw: Tensor) -> Tensor:
    """Maps (N, h, w) moved and stretched to [0, 1], each by itself; a constant map becomes 0."""
    least, most = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    return (raw - least) / (most - least).clamp_min(torch.finfo(raw.dtype).tiny)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared differences (N,) of two maps (N, h, w), summed."""
    return (a - b).square().flatten(1).sum(1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N,) of where two maps (N, h, w) in [0, 1] exceed 1/2; 1 where neither does anywhere."""
    a, b = (a > 0.5).flatten(1), (b > 0.5).flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp_min(1), 1.0)
