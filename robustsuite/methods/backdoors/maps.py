"""Maps of features over places, found in any network from what its modules return: attention maps and Grad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import Unsupported


def feature_maps(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits of x (N, C, H, W), and of each size of picture the last (N, c, h, w) that a module returned, in order.

    In a residual network these are the outputs of its stages. Differentiable. Raises Unsupported where there are none.
    """
    last: dict[torch.Size, Tensor] = {}

    def see(_module: nn.Module, _args: object, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and len(out) == len(x) and out.shape[2:].numel() > 1:
            last.pop(out.shape[2:], None)  # to the end again
            last[out.shape[2:]] = out

    handles = [module.register_forward_hook(see) for module in net.modules()]
    try:
        logits: Tensor = net(x)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise Unsupported("expected a network with features over places (N, C, h, w), got one without any")
    return logits, list(last.values())


def attention(features: Tensor) -> Tensor:
    """Where a layer looks (N, h, w): squares summed over channels, of length 1 (Zagoruyko and Komodakis, 2017)."""
    squares = features.square().sum(1)
    found: Tensor = squares / (squares.flatten(1).norm(dim=1)[:, None, None] + 1e-6)
    return found


def grad_cam(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """What in x (N, C, H, W) speaks for classes (N,): (N, H, W), not negative (Selvaraju et al., 2017, 1610.02391).

    Of the last features over places, whose channels are weighed by their mean gradient. No gradient passes through it.
    """
    with torch.enable_grad():
        logits, found = feature_maps(net, x.detach().clone().requires_grad_())
        chosen = logits.gather(1, classes[:, None]).sum()
        (slope,) = torch.autograd.grad(chosen, found[-1], allow_unused=True)
    if slope is None:
        raise Unsupported("expected logits that come of the last features over places, got others; Grad-CAM fails")
    heat = (slope.mean((2, 3), keepdim=True) * found[-1].detach()).sum(1, keepdim=True).relu()
    return functional.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
