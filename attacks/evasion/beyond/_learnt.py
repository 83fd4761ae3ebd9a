"""One change for every picture, learnt on pictures of the adversary's own by what a served network answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.randomness import Rng
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

MOST = 9.0
"""Where the cross entropy of a picture that is wrong already stops to count, so that it does not drown the others."""


def learnt(
    model: Oracle, aux: Aux, change: Tensor, shown: Callable[[Tensor, Tensor, Rng], Tensor],
    moved: Callable[[Tensor, Tensor, float], Tensor], *, steps: int, batch: int,
) -> Tensor:  # fmt: skip
    """The change (1, ...) after `steps` questions about `batch` pictures each.

    shown: (pictures (B, C, H, W), the change, a stream a picture) -> what is asked about. moved: (change, its gradient,
    the share of the steps that is left) -> the next one. It depends on the adversary's pictures alone, so that it is
    the same for whichever pictures are attacked; what is asked is shared out among these. Raises BadValue.
    """
    if steps < 1 or batch < 1:
        raise BadValue(f"expected steps, batch >= 1, got {steps=}, {batch=}; write steps=100, batch=32")
    owned, device = aux.pictures, change.device
    streams = Rng.of(0, "universal", torch.arange(len(owned)))
    for k in range(steps):
        some = streams.fold(k).fold("order").uniform().argsort(stable=True)[:batch]
        x, y = owned.images(some).to(device), owned.y[some].to(device)
        with torch.enable_grad():
            leaf = change.detach().requires_grad_()
            seen = shown(x, leaf, streams[some].fold(k).to(device))
            rows = torch.arange(len(some), device=device) % len(model.rows)
            ask = model[rows].gradient(seen.detach(), partial(_clipped, y=y))
            (slope,) = torch.autograd.grad(seen, leaf, ask.grad)
        change = moved(change, slope, 1 - k / steps)
    return change


def _clipped(logits: Tensor, y: Tensor) -> Tensor:
    loss = losses.cross_entropy(logits, y)
    return torch.where(loss < MOST, loss, MOST)
