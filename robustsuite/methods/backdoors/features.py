"""What a network's last linear layer sees: the features most poisoning defenses look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.methods.head import head_of, last_linear
from robustsuite.serve.data import Split

__all__ = ["features", "head_of"]
"""Scanners know both by this file: their source is what a calibration rests on."""


def features(net: nn.Module, split: Split, batch: int = 256) -> Tensor:
    """Inputs (N, D) of the last linear layer that is called. Raises Unsupported for a net without one."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    parts = []
    with torch.no_grad():
        for _, x, _ in split.batches(batch):
            parts.append(last_linear(net, x.to(device)).entering.flatten(1).cpu())
    return torch.cat(parts)
