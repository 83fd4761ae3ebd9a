"""Clipping: an update longer than the bound is scaled down to it.

(Abadi et al., 2016, arXiv:1607.00133, algorithm 1.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.errors import BadValue
from robustsuite.maths.projections import per_row
from robustsuite.methods.federated.updates import Gradients
from robustsuite.serve import stages


def clipped_again(dummy: Gradients, seen: Gradients, *, bound: float) -> Gradients:
    """One client's dummy update, clipped as the client's was; differentiable."""
    factor = _factor(torch.stack([g.square().sum() for g in dummy.values()]).sum(), bound)
    return {k: g * factor for k, g in dummy.items()}


@stages.share(name="gradient_clipping", paper="Abadi et al., 2016, arXiv:1607.00133", surrogate=clipped_again)
def gradient_clipping(update: Gradients, *, bound: float = 4.0) -> Gradients:
    """Scale each client's update (T, ...) to Euclidean length `bound` over all parameters, if it is longer.

    An informed observer clips its dummy too. Raises BadValue for bound <= 0.
    """
    if bound <= 0:
        raise BadValue(f"expected bound > 0, got {bound!r}; write 4")
    squares = torch.stack([g.flatten(1).square().sum(1) for g in update.values()]).sum(0)
    return {k: g * per_row(_factor(squares, bound), g) for k, g in update.items()}


def _factor(squares: Tensor, bound: float) -> Tensor:
    length = squares.clamp_min(1e-30).sqrt()
    return torch.where(length > bound, bound / length, 1.0)
