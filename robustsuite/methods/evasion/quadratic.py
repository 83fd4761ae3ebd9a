"""The nearest features whose logits stand in a given order: many small quadratic programs at once, in logit space.

A linear head gives logits A f + b. Of all z with the wanted order, the nearest to f solves (Paniagua, Grainger, Wu,
2023, arXiv:2312.11510)

    min ||z - f||^2   s.t.   logit_{u(j)}(z) - logit_j(z) >= margin   for every class j but the first of the list,

where u(j) is the class listed just before j, and the last one listed for a j that is not. Its dual has one multiplier
l_j >= 0 a class, needs the logits and the Gram matrix G = A A' only, and gives z - f = A' s with s = D' l, D being the
matrix of the differences above. Since the loss ||z - f||^2 is a squared distance to a convex set, its gradient in f
is 2 (f - z) with z held fixed (the envelope theorem): nothing is differentiated through the solver.

Solver: the projected Newton method (Bertsekas, 1982, SIAM J. Control Optim. 20(2)) on the multipliers in use and the
few constraints violated most. Few constraints bind, so its systems are small, and from one step of an attack to the
next the binding ones hardly change: it is started from the last multipliers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.serve.oracle import TILE

MARGIN = 0.2
TOLERANCE = 1e-6
"""By how much a constraint may be missed, and a slack differ from 0 under a multiplier, in logits."""
RIDGE = 1e-9
"""Added to the dual's diagonal, relative to the Gram matrix': a list out of reach keeps finite multipliers."""
ENTERING, BUCKET, MOST = 32, 32, 100
"""Constraints that may enter in one step; sizes of systems are rounded up to a multiple of BUCKET, so that a row's
arithmetic does not depend on its neighbours; steps at most."""
HALVINGS = 10


class Order(NamedTuple):
    """Lists of classes (N, K) and, for each class (N, C), the class that must lead it; the first leads itself."""

    targets: Tensor
    above: Tensor


def order(targets: Tensor, classes: int) -> Order:
    """The constraints of lists (N, K) of distinct classes among `classes`."""
    above = targets[:, -1:].repeat(1, classes)
    above = above.scatter(1, targets, torch.cat([targets[:, :1], targets[:, :-1]], 1))
    return Order(targets, above)


def gram(weight: Tensor) -> Tensor:
    """A A' (C, C) in float64 of a head A (C, d)."""
    wide = weight.detach().double()
    return wide @ wide.T


def combined(multipliers: Tensor, to: Order) -> Tensor:
    """s = D' l (N, C): the nearest features are z = f + A' s, their logits those of f plus G s."""
    t, l = to.targets, multipliers
    listed = l.gather(1, t)
    rest = l.sum(1, keepdim=True) - listed.sum(1, keepdim=True)
    received = torch.cat([listed[:, 1:], rest], 1)
    return (-l).scatter_add(1, t, received)


def slack(logits: Tensor, to: Order, margin: float = MARGIN) -> Tensor:
    """logit_{u(j)} - logit_j - margin (N, C): negative where the order is violated; 0 for the list's first class."""
    first = to.targets[:, :1]
    return (logits.gather(1, to.above) - logits - margin).scatter(1, first, 0.0)


def multipliers(logits: Tensor, to: Order, gram: Tensor, start: Tensor, margin: float = MARGIN) -> Tensor:
    """The dual's solution l (N, C) float64, from `start` (N, C) >= 0, for features with these logits (N, C).

    gram: (C, C) float64. A list out of reach ends finite, at the step limit at the latest. Bertsekas, 1982.
    """
    q, l = slack(logits.detach().double().nan_to_num(0.0, 0.0, 0.0), to, margin), start.clone()
    ridge = RIDGE * gram.diagonal().mean()
    left = torch.arange(len(q), device=q.device)
    for _ in range(MOST):
        part = Order(to.targets[left], to.above[left])
        y = q[left] + slack(times(combined(l[left], part), gram), part, 0.0) + ridge * l[left]
        missed = torch.where(l[left] > 0, y.abs(), -y).amax(1)
        size = _size(l[left], y)
        open_, width = torch.stack([missed > TOLERANCE, -(-size // BUCKET) * BUCKET]).cpu()  # all the host must know
        if not bool(open_.any()):
            break
        if not bool(open_.all()):
            rows, width = open_.nonzero().flatten().to(left), width[open_ > 0]
            left, y, size, part = left[rows], y[rows], size[rows], Order(part.targets[rows], part.above[rows])
        l[left] = _step(l[left], y, part, gram, ridge, size, width)
    return l


def times(s: Tensor, gram: Tensor) -> Tensor:
    """s G (N, C), in whole tiles of rows: see oracle.TILE."""
    missing = -len(s) % TILE
    padded = torch.cat([s, s.new_zeros(missing, s.shape[1])]) if missing else s
    return (padded @ gram)[: len(s)]


def _size(l: Tensor, y: Tensor) -> Tensor:
    """How many multipliers (N,) a step moves: those in use, and of the violated constraints at most ENTERING."""
    used = (l > 0).sum(1)
    return used + ((l <= 0) & (-y > TOLERANCE)).sum(1).clamp_max(ENTERING)


def _step(l: Tensor, y: Tensor, to: Order, gram: Tensor, ridge: Tensor, size: Tensor, width: Tensor) -> Tensor:
    """One projected Newton step of every row, in groups of equal width (N,), which the host knows."""
    score = torch.where(l > 0, torch.inf, -y)
    fresh = l.clone()
    for n in width.unique().tolist():
        alike = width == n
        rows = slice(None) if bool(alike.all()) else alike.nonzero().flatten().to(l.device)
        free = score[rows].topk(min(n, l.shape[1]), 1)
        chosen = torch.arange(free.indices.shape[1], device=l.device) < size[rows, None]
        part = Order(to.targets[rows], to.above[rows])
        moved = _newton(l[rows].gather(1, free.indices), y[rows].gather(1, free.indices), chosen,
                        _curvature(free.indices, part, gram), ridge)  # fmt: skip
        fresh[rows] = l[rows].scatter(1, free.indices, moved)
    return fresh


def _curvature(free: Tensor, to: Order, gram: Tensor) -> Tensor:
    """D G D' (N, n, n) at the constraints `free` (N, n)."""
    t, j = to.targets, free
    leads = (to.above.gather(1, j)[:, :, None] == t[:, None]).to(gram.dtype)  # (N, n, K), which listed class leads j
    crossed = leads @ gram[t[:, :, None], j[:, None]]
    among = leads @ gram[t[:, :, None], t[:, None]] @ leads.mT
    return gram[j[:, :, None], j[:, None]] - crossed - crossed.mT + among


def _newton(l: Tensor, y: Tensor, chosen: Tensor, h: Tensor, ridge: Tensor) -> Tensor:
    """Multipliers (N, n) after the best of several steps along max(0, l + a p), p the Newton direction."""
    both = chosen[:, :, None] & chosen[:, None]
    h = torch.where(both, h, 0.0) + torch.diag_embed(torch.where(chosen, ridge, 1.0))
    factor = torch.linalg.cholesky_ex(h + 1e-13 * torch.diag_embed(h.diagonal(dim1=1, dim2=2)))[0]
    p = -torch.cholesky_solve((y * chosen)[:, :, None], factor).squeeze(2).nan_to_num(0.0, 0.0, 0.0) * chosen
    lengths = 0.5 ** torch.arange(HALVINGS, dtype=l.dtype, device=l.device)
    change = (l[:, None] + lengths[:, None] * p[:, None]).clamp_min(0) - l[:, None]
    gain = (change @ h * change).sum(2) / 2 + (change * y[:, None]).sum(2)
    best = gain.argmin(1)
    moved = l + change[torch.arange(len(l), device=l.device), best]
    return torch.where(chosen, moved.clamp_min(0), l)
