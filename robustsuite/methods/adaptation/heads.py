"""A network asked for its logits and for what its last linear layer sees, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported


def with_features(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the inputs (N, D) of the last linear layer that is called; differentiable.

    Raises Unsupported for a net without one.
    """
    seen: list[Tensor] = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in net.modules()
               if isinstance(m, nn.Linear)]  # fmt: skip
    try:
        logits: Tensor = net(x)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or seen[-1].ndim != 2:
        raise Unsupported("expected a network whose last layer is linear, got another: it has no features to compare")
    return logits, seen[-1]


def contrasted(parts: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss of parts (N, V, D): each picture's V rows are to be alike, and unlike others'.

    Khosla et al., 2020, arXiv:2004.11362, with every row as an anchor: the mean of minus the log probability of its
    positives among all others.
    """
    n, views, _ = parts.shape
    rows = nn.functional.normalize(parts.transpose(0, 1).flatten(0, 1), dim=1)
    own = torch.eye(n * views, dtype=torch.bool, device=rows.device)
    likeness = (rows @ rows.T / temperature).masked_fill(own, -torch.inf)
    log_p = likeness - likeness.logsumexp(1, keepdim=True)
    positive = torch.eye(n, dtype=torch.bool, device=rows.device).repeat(views, views) & ~own
    return -log_p[positive].view(n * views, views - 1).mean()
