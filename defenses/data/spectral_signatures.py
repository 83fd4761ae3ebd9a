"""Spectral signatures: poisons stand out along the first singular vector of a class (Tran et al., 2018, 1811.00636)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.backdoors.features import features
from robustsuite.serve import stages
from robustsuite.serve.data import Split


@stages.data(paper="Tran et al., 2018, arXiv:1811.00636, algorithm 1", learns=True)
def spectral_signatures(
    split: Split, trained: Callable[[Split], nn.Module], *, share: float = 0.15, oracle_rate: float = 0.0
) -> Split:
    """The train set without the examples of each class that lie farthest along its first singular vector.

    share: of each class removed. oracle_rate: the true poison rate, known to nobody outside an experiment; with it
    1.5 times that share of the whole set is removed from each class, at most half, as in the paper. Raises BadValue.
    """
    if not 0 <= oracle_rate < 1 or not 0 < share < 1:
        raise BadValue(f"expected rates between 0 and 1, got share={share!r}, oracle_rate={oracle_rate!r}")
    x, keep = features(trained(split), split).double(), torch.ones(len(split), dtype=torch.bool)
    for label in split.y.unique():
        rows = (split.y == label).nonzero().flatten()
        centred = x[rows] - x[rows].mean(0)
        first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        outlying = (centred @ first).square()
        wanted = int(1.5 * oracle_rate * len(split)) if oracle_rate else int(share * len(rows))
        keep[rows[outlying.argsort(descending=True)[: min(wanted, len(rows) // 2)]]] = False
    return split.at(keep.nonzero().flatten())
