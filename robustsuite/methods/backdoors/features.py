"""What a network's last linear layer sees: the features most poisoning defenses look at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.methods.head import linear_calls
from robustsuite.serve.data import Split


def features(net: nn.Module, split: Split, batch: int = 256) -> Tensor:
    """Inputs (N, D) of the last linear layer that is called. Raises Unsupported for a net without one."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    parts = []
    with torch.no_grad():
        for _, x, _ in split.batches(batch):
            called = linear_calls(net, x.to(device))[1]
            if not called:
                raise Unsupported("expected a network with a linear layer, got none; its features are not known")
            parts.append(called[-1].entering.flatten(1).cpu())
    return torch.cat(parts)


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
