"""What a network's last linear layer sees: the features most poisoning defenses look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.errors import Unsupported
from robustsuite.serve.data import Split


def features(net: nn.Module, split: Split, batch: int = 256) -> Tensor:
    """Inputs (N, D) of the last linear layer that is called. Raises Unsupported for a net without one."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    seen: list[Tensor] = []
    handles = [
        m.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(1)))
        for m in net.modules()
        if isinstance(m, nn.Linear)
    ]
    parts = []
    try:
        with torch.no_grad():
            for _, x, _ in split.batches(batch):
                seen.clear()
                net(x.to(device))
                if not seen:
                    raise Unsupported("expected a network with a linear layer, got none; its features are not known")
                parts.append(seen[-1].cpu())
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(parts)
