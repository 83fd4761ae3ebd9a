"""What attacks ascend: functions (logits (N, K), y (N,)) -> (N,), larger is nearer to a mistake."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.errors import BadValue, UnknownName

Loss = Callable[[Tensor], Tensor]
"""A loss with its labels bound: logits (N, K) -> (N,)."""


def others_max(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit (N,) of any class but y."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def own(logits: Tensor, y: Tensor) -> Tensor:
    """The logit (N,) of class y."""
    return logits.gather(1, y[:, None]).squeeze(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax_y."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: positive exactly where the answer is wrong (Carlini & Wagner, 2017, 1608.04644)."""
    return others_max(logits, y) - own(logits, y)


def goal_margin(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """How far (N,) an answer is past its goal, > 0 where it is reached: any class but y, or that of targets (N, 1)."""
    return margin(logits, y) if targets is None else -margin(logits, targets[:, 0])


CONFIDENCE_MARGIN = 1e-5
"""A wrong class must lead by more than this before an attack calls an image broken; the judge re-asks near ties."""


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} p_j - p_y after the softmax (PMA, 2025, arXiv 2411.15210)."""
    return margin(logits.softmax(1), y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)) (Croce & Hein, 2020, 2003.01690)."""
    if logits.shape[1] < 3:
        raise BadValue(f"expected at least 3 classes for the DLR loss, got {logits.shape[1]}; use loss 'margin'")
    z = logits.topk(3, dim=1).values
    return margin(logits, y) / (z[:, 0] - z[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) (Croce & Hein, 2020, 2003.01690, eq. 7)."""
    if logits.shape[1] < 4:
        raise BadValue(f"expected at least 4 classes for the targeted DLR loss, got {logits.shape[1]}; use 'margin'")
    z = logits.topk(4, dim=1).values
    return (own(logits, target) - own(logits, y)) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "pma": probability_margin,
}


def loss_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of this name: ce, margin, dlr or pma (probability margin)."""
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    return LOSSES[name]
