"""What repairs do with a defender's few clean pictures: batches of them, and steps that make a network forget some."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.serve.data import Split, in_unit
from robustsuite.serve.training import held


def batches(split: Split, *, epochs: int, size: int, seed: int, device: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(epoch, x (B, C, H, W), y (B,)) in a new order each epoch; what does not fill a batch is left out of the epoch.

    size: at most; a smaller split is one batch. Nothing comes of an empty one.
    """
    pictures, y = held(split, device) if len(split) else (torch.empty(0), split.y)
    order, size = torch.Generator().manual_seed(seed), min(size, len(y))
    for epoch in range(epochs if size else 0):
        for rows in torch.randperm(len(y), generator=order).split(size):
            if len(rows) == size:
                rows = rows.to(y.device)
                yield epoch, in_unit(pictures[rows]), y[rows]


def ascent(
    net: nn.Module, split: Split, optimiser: torch.optim.Optimizer, *, epochs: int, size: int, seed: int, device: str
) -> Iterator[int]:
    """Up the cross-entropy of a split's own labels, so that they are forgotten; hands over after each epoch.

    The optimiser holds parameters of `net`, which stays in eval mode: few pictures would move a norm's statistics.
    """
    net.eval()
    seen = -1
    for epoch, x, y in batches(split, epochs=epochs, size=size, seed=seed, device=device):
        if epoch > seen >= 0:
            yield seen
        seen = epoch
        with torch.enable_grad():
            loss = -functional.cross_entropy(net(x), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
        optimiser.step()
    if seen >= 0:
        yield seen
