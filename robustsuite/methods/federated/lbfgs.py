"""Limited-memory BFGS with a fixed step, over many independent problems at once.

Nocedal & Wright, Numerical Optimization, 2006, algorithm 7.4 (two-loop recursion); step sizes and skipped updates as in
Schmidt's minFunc (2005): the first step is min(1, 1 / |g|_1) lr along -g, later ones lr, and a pair (s, y) is only kept
where s.y > 1e-10.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustsuite.methods.federated.gradient_matching import Best, Variables, better

MEMORY = 100


def lbfgs(
    start: Variables,
    evaluate: Callable[[Variables], tuple[Variables, Tensor, Tensor]],
    iterations: int,
    *,
    lr: float = 1.0,
) -> Best:
    """The best of `iterations` + 1 points of each trial and restart; a row that stops being finite stands still.

    start: trees of (T, R, ...). The history holds the last 100 pairs of every row.
    """
    shapes = {k: v.shape for k, v in start.items()}
    t, r = next(iter(start.values())).shape[:2]
    x = flat(start)
    gradients, total, match = evaluate(start)
    best, g = better(None, Best(start, total, match)), flat(gradients)
    first = (1 / g.abs().sum(1, keepdim=True)).clamp_max(1.0) * lr
    d, step = -g, first
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = torch.ones_like(first)
    for _ in range(iterations):
        downhill = (d * g).sum(1, keepdim=True) < 0
        alive = torch.isfinite(total).view(-1, 1) & torch.isfinite(g).all(1, keepdim=True) & downhill
        move = torch.where(alive, step * d, 0.0)
        x = x + move
        variables = unflat(x, shapes)
        gradients, total, match = evaluate(variables)
        best = better(best, Best(variables, total, match))
        new = flat(gradients)
        y = torch.where(alive & torch.isfinite(new).all(1, keepdim=True), new - g, 0.0)
        ys = (y * move).sum(1, keepdim=True)
        keep = ys > 1e-10
        pairs = [*pairs, (torch.where(keep, move, 0.0), y, torch.where(keep, 1 / ys, 0.0))][-MEMORY:]
        scale = torch.where(keep, ys / y.square().sum(1, keepdim=True).clamp_min(1e-30), scale)
        g = new
        d, step = -two_loops(g, pairs, scale), torch.full_like(first, lr)
    shaped = {k: v.view(t, r, *v.shape[2:]) for k, v in best.variables.items()}
    return best._replace(variables=shaped)


def two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """H g (N, D) of the inverse Hessian that pairs (s, y, 1 / s.y), oldest first, and its scale (N, 1) stand for."""
    q, alphas = g, list[Tensor]()
    for s, y, rho in reversed(pairs):
        alphas.append(rho * (s * q).sum(1, keepdim=True))
        q = q - alphas[-1] * y
    q = q * scale
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - rho * (y * q).sum(1, keepdim=True))
    return q


def flat(variables: Variables) -> Tensor:
    """(T R, D): every trial and restart as one row."""
    return torch.cat([v.flatten(0, 1).flatten(1) for v in variables.values()], 1)


def unflat(x: Tensor, shapes: dict[str, torch.Size]) -> Variables:
    """The inverse of `flat`."""
    sizes = [shape[2:].numel() for shape in shapes.values()]
    parts = x.split(sizes, 1)
    return {k: part.reshape(shape) for (k, shape), part in zip(shapes.items(), parts, strict=True)}
