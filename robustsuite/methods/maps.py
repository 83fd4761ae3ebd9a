"""Maps of features over places, found in any network from what its modules return: attention maps and Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import Unsupported
from robustsuite.maths.losses import own


def feature_maps(net: nn.Module, ask: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What `ask()` answers (N, K), and of each size of picture the last (N, c, h, w) that a module returned, in order.

    In a residual network these are the outputs of its stages. Differentiable. Raises Unsupported where there are none.
    """
    last: dict[torch.Size, Tensor] = {}

    def see(_module: nn.Module, _args: object, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2:].numel() > 1:
            last.pop(out.shape[2:], None)  # to the end again
            last[out.shape[2:]] = out

    handles = [module.register_forward_hook(see) for module in net.modules()]
    try:
        logits = ask()
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise Unsupported(
            "expected a network with features over places (N, C, h, w), which attention and Grad-CAM read, got one "
            "without any; of attributions use gradient, integrated_gradients or rise"
        )
    return logits, list(last.values())


def attention(features: Tensor) -> Tensor:
    """Where a layer looks (N, h, w): squares summed over channels, of length 1 (Zagoruyko and Komodakis, 2017)."""
    squares = features.square().sum(1)
    found: Tensor = squares / (squares.flatten(1).norm(dim=1)[:, None, None] + 1e-6)
    return found


def grad_cam(
    net: nn.Module, x: Tensor, classes: Tensor, ask: Callable[[Tensor], Tensor] | None = None
) -> Tensor:  # fmt: skip
    """What in x (N, C, H, W) speaks for classes (N,): (N, H, W), not negative (Selvaraju et al., 2017, 1610.02391).

    relu(sum_k w_k A_k) of the last features over places A, w_k the mean over places of d logit / d A_k; stretched over
    the picture, bilinear. ask: x -> logits, where the network is not asked directly; rows that it adds are left out. No
    gradient passes through the map.
    """
    with torch.enable_grad():
        logits, found = feature_maps(net, partial(ask or net, x.detach().clone().requires_grad_()))
        features = found[-1]
        chosen = own(logits, classes).sum()
        slope = torch.autograd.grad(chosen, features, allow_unused=True)[0] if features.requires_grad else None
    if slope is None:
        raise Unsupported("expected logits that come of the last features over places, got others; Grad-CAM fails")
    heat = (slope.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()[: len(x)]
    return functional.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
