"""Sparsification: only the largest entries of each tensor are shared (Aji & Heafield, 2017, arXiv:1704.05021)."""

from __future__ import annotations

import torch

from robustsuite.errors import BadValue
from robustsuite.maths.projections import largest
from robustsuite.methods.federated.updates import Gradients
from robustsuite.serve import stages


def kept_entries(dummy: Gradients, seen: Gradients, *, share: float) -> Gradients:
    """One client's dummy update, cut to the entries that the client shared; differentiable."""
    return {k: torch.where(seen[k] != 0, g, 0.0) for k, g in dummy.items()}


@stages.share(
    name="gradient_sparsification",
    paper="Aji, Heafield, 2017, arXiv:1704.05021",
    surrogate=kept_entries,
    differs=("the informed observer reads the mask off the update's zeros and does not draw the dummy's own",),
)
def gradient_sparsification(update: Gradients, *, share: float = 0.9) -> Gradients:
    """Zero the given share of each tensor's entries, the smallest by size, in each client's update (T, ...).

    Nothing is carried over to the next round. Raises BadValue unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise BadValue(f"expected a share of 0 or more and below 1, got {share!r}; write 0.9")
    return {k: torch.where(largest(g.abs(), _kept(g[0].numel(), share)), g, 0.0) for k, g in update.items()}


def _kept(entries: int, share: float) -> int:
    return entries - int(share * entries + 1e-9)
