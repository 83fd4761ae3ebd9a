"""Pictures by their frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosines(k: int, n: int) -> Tensor:
    """The k first rows (k, n) float64 of the orthonormal DCT-II of length n; their transpose is its inverse."""
    i, j = torch.arange(n, dtype=torch.float64), torch.arange(k, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi / n * (i + 0.5) * j) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows
