"""A network asked for its logits and for what its last linear layer sees, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.methods.head import linear_calls


def with_features(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the inputs (N, D) of the last linear layer that is called; differentiable.

    Raises Unsupported for a net without one.
    """
    logits, called = linear_calls(net, x)
    if not called or called[-1].entering.ndim != 2:
        raise Unsupported("expected a network whose last layer is linear, got another: it has no features to compare")
    return logits, called[-1].entering


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
