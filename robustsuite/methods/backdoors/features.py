"""What a network's last linear layer sees: the features most poisoning defenses look at."""

from __future__ import annotations

from collections.abc import Callable

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


def head_of(net: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
    """The linear layer that gives the logits, and x (N, C, H, W) -> its inputs (N, D), with their gradient.

    Raises Unsupported for a network whose logits are no linear layer's output.
    """
    called: list[tuple[nn.Linear, Tensor, Tensor]] = []
    device = next((p.device for p in net.parameters()), torch.device("cpu"))

    def seen(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        called.append((module, args[0], out))

    def asked(x: Tensor) -> Tensor:
        called.clear()
        handles = [m.register_forward_hook(seen) for m in net.modules() if isinstance(m, nn.Linear)]
        try:
            found: Tensor = net(x)
        finally:
            for handle in handles:
                handle.remove()
        return found

    with torch.no_grad():
        logits = asked(torch.full((1, *shape), 0.5, device=device))
    if not called or called[-1][1].ndim != 2 or not torch.equal(called[-1][2], logits):
        raise Unsupported("expected a network whose logits are a linear layer's output, got another; scan it by mm_bd")
    layer = called[-1][0]

    def inputs(x: Tensor) -> Tensor:
        asked(x)
        return called[-1][1]

    return layer, inputs
