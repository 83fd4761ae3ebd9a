"""Effective robustness: what a system keeps under a shift beyond what its clean accuracy predicts.

The prediction is a line through the run's own systems on the logit scale, logit(acc_shift) = a logit(acc_clean) + b,
and the score the residual acc_shift - predicted (Taori et al., 2020, arXiv:2007.00644, whose line is through a testbed
of undefended models: with other systems it is another line).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 3
"""Systems below which there is no line to leave."""


def residuals(clean: Sequence[float], shifted: Sequence[float], n: int) -> list[float] | None:
    """acc_shift - predicted for each system, accuracies in [0, 1] over n examples; None where no line can be fitted.

    A line needs three systems with two clean accuracies; 0 and 1 are drawn in by half an example.
    """
    if len(clean) < LEAST or len(set(clean)) < 2:
        return None
    x, y = _logit(clean, n), _logit(shifted, n)
    a, b = np.polyfit(x, y, 1)
    predicted = 1 / (1 + np.exp(-(a * x + b)))
    return [float(v) for v in np.asarray(shifted) - predicted]


def _logit(rates: Sequence[float], n: int) -> np.ndarray:
    p = np.clip(np.asarray(rates, np.float64), 0.5 / n, 1 - 0.5 / n)
    return np.log(p / (1 - p))
