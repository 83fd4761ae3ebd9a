"""Adversarial distillation: teach the picture the probabilities an adversary with a class similarity would write down.

(Zhang and Wu, 2020, arXiv:1905.10695; with the settings of Paniagua, Grainger, Wu, 2023, arXiv:2312.11510.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadData, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import ordered_topk
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle

ALPHA, BETA = 10.0, 0.3
"""The first listed class' value before the softmax, and by how much each next one is smaller."""
FACTS = {
    "needs": Access.GRADIENTS | Access.SCORES,
    "norms": ("l2",),
    "goals": ("ordered_topk",),
    "paper": "Zhang and Wu, 2020, arXiv:1905.10695",
    "cost": ordered_topk.cost,
    "minimum_norm": True,
    "family": ("minimum norm",),
    "least": ordered_topk.LEAST,
    **WHITE_BOX,
}
EASED = "bisection moves to the weight a search started from, not to the one it had eased to"


@evasion.attack(**FACTS, differs=("the class similarity is the caller's, not GloVe's", EASED))
def adversarial_distillation(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    targets: Tensor | None,
    rng: Rng,
    similarity: str = "",
    searches: int = 1,
    iterations: int = 60,
    lr: float = 2.2e-3,
    upper: float = 20.0,
) -> Tensor:
    """Ordered top-K attack by the KL divergence from a distribution that ranks the list first, its likes next.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, K). similarity: a .npy or .csv file of numbers
    (classes, classes), such as cosines of word vectors. Raises BadValue without one, BadData where it does not fit.
    """
    if not similarity:
        raise BadValue(
            "expected similarity=FILE.npy or .csv for adversarial_distillation, got none; name one, or take the "
            "variant adversarial_distillation_zero"
        )
    schedule = ordered_topk.Schedule(searches, iterations, lr, upper)
    return _distil(model, x, targets, budget, schedule, rng=rng, alike=read_similarity(Path(similarity)).to(x))


@evasion.attack(**FACTS, differs=("every class is as similar to every other: 0", EASED))
def adversarial_distillation_zero(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    targets: Tensor | None,
    rng: Rng,
    searches: int = 1,
    iterations: int = 60,
    lr: float = 2.2e-3,
    upper: float = 20.0,
) -> Tensor:
    """Adversarial distillation that knows no class similarity: the classes not listed are all alike.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, K). Raises BadValue.
    """
    schedule = ordered_topk.Schedule(searches, iterations, lr, upper)
    return _distil(model, x, targets, budget, schedule, rng=rng, alike=None)


def _distil(
    model: Oracle, x: Tensor, targets: Tensor | None, budget: Ball, schedule: ordered_topk.Schedule, *,
    rng: Rng, alike: Tensor | None,
) -> Tensor:  # fmt: skip
    def pull(logits: Tensor, targets: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """KL(P || softmax(logits)) (N,)."""
        log_p = wanted(targets, logits.shape[1], alike).log_softmax(1)
        return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1), memory

    memory = x.new_zeros(len(x), 0)
    return ordered_topk.attack(model, x, targets, budget, pull, schedule, rng=rng, memory=memory)


def wanted(targets: Tensor, classes: int, alike: Tensor | None) -> Tensor:
    """The adversary's values (N, classes) before the softmax: alpha - beta (i - 1) for t_i, mean likeness elsewhere."""
    if alike is not None and alike.shape != (classes, classes):
        raise BadData(f"expected a similarity of shape {(classes, classes)}, got {tuple(alike.shape)}; name another")
    n, k = targets.shape
    zero = torch.zeros(n, classes, device=targets.device)
    mean = zero if alike is None else alike[targets].mean(1)
    ranked = (ALPHA - BETA * torch.arange(k, device=targets.device)).expand(n, k)
    return mean.scatter(1, targets, ranked.to(mean.dtype))


def read_similarity(file: Path) -> Tensor:
    """A matrix (C, C) float32 from .npy or .csv; raises BadData."""
    try:
        binary = file.suffix == ".npy"
        matrix = np.load(file, allow_pickle=False) if binary else np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise BadData(f"expected numbers as .npy or .csv in {str(file)!r}, got {error}; name another file") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise BadData(f"expected a square matrix of finite numbers in {str(file)!r}, got shape {matrix.shape}; mend it")
    return torch.tensor(matrix, dtype=torch.float32)
