"""Steps that make a network forget what it is shown."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from robustsuite.serve.data import Split
from robustsuite.serve.training import full_batches


def ascent(
    net: nn.Module, split: Split, optimiser: torch.optim.Optimizer, *, epochs: int, size: int, seed: int, device: str
) -> Iterator[int]:
    """Up the cross-entropy of a split's own labels, so that they are forgotten; hands over after each epoch.

    The optimiser holds parameters of `net`, which stays in eval mode: few pictures would move a norm's statistics.
    """
    net.eval()
    seen = -1
    for epoch, x, y in full_batches(split, device, epochs=epochs, size=size, seed=seed):
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
