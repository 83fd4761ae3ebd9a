"""Gradients of nets the adversary owns: MI-FGSM on one or several surrogates (Dong et al., 2018, arXiv 1710.06081).

Nothing here asks the attacked system anything, so nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.randomness import Rng
from robustsuite.methods.snapshots import Snapshots
from robustsuite.serve.oracle import TILE

Asked = Callable[[Tensor], Tensor]
"""Pictures (N, C, H, W) -> logits (N, K)."""

Objective = Callable[[Tensor], Tensor]
"""Pictures (N, C, H, W) -> what to ascend (N,), differentiable, each row by itself."""


def networks(net: Callable[[str], nn.Module], surrogates: str) -> list[nn.Module]:
    """The nets a text of model specs names, joined by ' + ', frozen. Raises BadValue where it names none."""
    if not surrogates.strip():
        raise BadValue(
            "expected surrogates: a model spec of the adversary's own net, got ''; write for example "
            "surrogates='recipe:scenes_resnet', several joined by ' + '"
        )
    return [net(spec.strip()) for spec in surrogates.split(" + ")]


def members(nets: Sequence[nn.Module]) -> list[Asked]:
    """Each net as a function of pictures; one that holds snapshots as each of them."""
    return [one for net in nets for one in (net.members() if isinstance(net, Snapshots) else [net])]


def shuffled(n: int, steps: int) -> list[int]:
    """Which of n nets each step asks: all once in a random order, then in another; the same whatever the batch."""
    passes = [Rng.of(i, "light", torch.arange(n)).uniform().argsort() for i in range(-(-steps // n))]
    found: list[int] = torch.cat(passes).tolist()
    return found[:steps]


def mean_loss(nets: Sequence[nn.Module], y: Tensor) -> Objective:
    """The cross-entropy of y (N,), averaged over the nets: an ensemble in losses."""
    return lambda x: torch.stack([losses.cross_entropy(net(x), y) for net in nets]).mean(0)


def mean_logits(nets: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Logits (N, K), averaged over the nets."""
    return torch.stack([net(x) for net in nets]).mean(0)


def momentum(
    objective: Objective, start: Tensor, centre: Tensor, *, eps: float, size: float, steps: int = 10, decay: float = 1.0
) -> Tensor:
    """MI-FGSM from `start` in the linf ball of eps around `centre`, both (N, C, H, W), and the box.

    g <- decay g + grad / ||grad||_1; x <- project(x + size sign(g)). size: in pixel units of [0, 1].
    """
    x, g = start, torch.zeros_like(start)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(objective(leaf).sum(), leaf)
        g = decay * g + projections.unit(grad, "l1")
        x = projections.linf(centre, x + size * g.sign(), eps)
    return x


def in_tiles(n: int, width: int, f: Callable[[Tensor], Tensor]) -> Tensor:
    """f over the rows 0 ... n - 1 (n > 0), `width` at a time, each time padded to whole tiles by its last row.

    f: rows (M,) -> (M, ...). A row's result is the same bits whatever stands beside it (CPU).
    """
    parts = []
    for rows in torch.arange(n).split(max(width, 1)):
        missing = -len(rows) % TILE
        parts.append(f(torch.cat([rows, rows[-1:].expand(missing)]))[: len(rows)])
    return torch.cat(parts)
