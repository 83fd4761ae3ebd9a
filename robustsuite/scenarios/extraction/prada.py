"""PRADA: do the distances between a client's queries look like those of natural pictures? (Juuti et al., 2019).

Juuti, Szyller, Marchal, Asokan (2019, arXiv:1805.02628). Of each answered class a growing set is kept. A query's
distance to its class's set is natural where such distances are normally distributed; synthetic queries, which are
copies moved by one step or drawn from a generator, are not. Every EVERY queries the distances of all classes are
pooled and the Shapiro-Wilk statistic W is taken; the alarm is W < delta. Only W is used: its p-value means nothing for
more than 5,000 points.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DELTA = 0.9
"""W below which an alarm is raised; the paper chooses it by benign traffic, and so must whoever reads `prada_w`."""

EVERY, OF_CLASS, LEAST, OUTLYING = 10, 10, 100, 3.0
"""Queries between two tests; distances of a class and in all that it takes; deviations beyond which one is dropped."""


class Watched(NamedTuple):
    """after: queries until the alarm, NaN for none; w: the least W until then, NaN where there was too little."""

    after: float
    w: float


def watched(x: Tensor, classes: Tensor, delta: float = DELTA) -> Watched:
    """What the detector says of pictures (N, C, H, W), in order, that were answered with classes (N,)."""
    distances, said = least_distances(x, classes), classes.numpy()
    least = np.nan
    for n in range(EVERY, len(said) + 1, EVERY):
        w = statistic(distances[:n], said[:n])
        least = np.fmin(least, w)
        if w < delta:
            return Watched(float(n), float(w))
    return Watched(np.nan, float(least))


def least_distances(x: Tensor, classes: Tensor) -> NDArray[np.float64]:
    """How far (N,) each picture is, in l2, from its class's growing set; NaN of the first of a class.

    A picture joins the set where that is above its threshold: the largest yet of mean - standard deviation of those
    distances with which pictures joined.
    """
    found = np.full(len(x), np.nan)
    for one in classes.unique():
        rows = (classes == one).nonzero().flatten()
        flat = x[rows].flatten(1).double()
        apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        members, joined, threshold = np.zeros(len(rows), dtype=bool), list[float](), 0.0
        members[0] = True
        for i in range(1, len(rows)):
            nearest = float(apart[i, members].min())
            found[rows[i]] = nearest
            if nearest > threshold:
                members[i] = True
                joined.append(nearest)
                threshold = max(threshold, float(np.mean(joined) - np.std(joined)))
    return found


def statistic(distances: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """Shapiro-Wilk's W of the distances of classes that have enough, outliers dropped; NaN where too few are left."""
    from scipy.stats import shapiro  # takes most of a second to import

    told = np.isfinite(distances)
    counted = np.bincount(classes[told], minlength=int(classes.max(initial=0)) + 1)
    pooled = distances[told & (counted[classes] >= OF_CLASS)]
    if len(pooled):
        pooled = pooled[np.abs(pooled - pooled.mean()) <= OUTLYING * pooled.std()]
    if len(pooled) <= LEAST or not np.ptp(pooled):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of p beyond 5,000 points, which is not used
        return float(shapiro(pooled).statistic)
