"""How far a net's confidence is from its accuracy: RMS and expected calibration error.

RMS over bins of 100 examples of neighbouring confidence (Hendrycks et al., 2021, arXiv:1907.07174, whose code leaves
out the last bin; here every example counts, and below 1500 examples the bins are 15 smaller ones of at least 10),
expected over 15 bins of equal width (Guo et al., 2017, arXiv:1706.04599).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BIN, LEAST = 100, 10
WIDTHS = 15


def rms_calibration_error(confidence: Any, right: Any) -> float:
    """sqrt(sum_b n_b / n (acc_b - conf_b)^2), in [0, 1]; confidence and right (N,)."""
    order = np.argsort(np.asarray(confidence, np.float64), kind="stable")
    bins = max(1, len(order) // BIN, min(WIDTHS, len(order) // LEAST))
    groups = np.array_split(order, bins)
    return float(np.sqrt(sum(share * gap**2 for share, gap in _gaps(confidence, right, groups))))


def expected_calibration_error(confidence: Any, right: Any) -> float:
    """sum_b n_b / n |acc_b - conf_b|, in [0, 1]; confidence and right (N,)."""
    place = np.ceil(np.asarray(confidence, np.float64) * WIDTHS).clip(1, WIDTHS)
    groups = [np.flatnonzero(place == b) for b in range(1, WIDTHS + 1)]
    return float(sum(share * gap for share, gap in _gaps(confidence, right, groups)))


def _gaps(confidence: Any, right: Any, groups: list[Any]) -> Iterator[tuple[float, float]]:
    """(share of the examples, |accuracy - mean confidence|) of every bin that holds any."""
    c, r = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    for rows in groups:
        if len(rows):
            yield len(rows) / len(c), abs(r[rows].mean() - c[rows].mean())
