"""CROWN-IBP: training on linear bounds over interval bounds, and on the intervals alone at the end.

Zhang et al. (2020, arXiv 1906.06316): the margins are bounded by beta CROWN-IBP + (1 - beta) IBP, where beta falls from
1 to 0 while the radius grows: the tighter bound steadies the start, the cheaper one does better at the end.
"""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.methods.verification.intervals import Bounds
from robustsuite.methods.verification.schedules import trained_on
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training


@stages.train(
    paper="Zhang et al., 2020, arXiv:1906.06316; Xu et al., 2020, arXiv:2002.12920",
    differs=(
        "trains from fresh weights in place of the recipe",
        "every margin is bounded by a row of its own: the losses are not fused into one row, so it costs classes - 1",
        "the schedule is in parts of the epochs: none up to a tenth, a line up to six tenths, then the whole radius",
        "the learning rate falls by a half cosine once the radius is whole, where the authors have steps",
    ),
)
def crown_ibp_training(
    fit: Fit, *, eps: float | str = 8 / 255, epochs: int = 60, lr: float = 5e-4, batch: int = 128, kappa: float = 0.0,
    augment: bool = True,
) -> Fit:  # fmt: skip
    """Train from fresh weights on CROWN-IBP bounds of the margins in the linf ball, passing to interval bounds.

    eps in [0, 1] pixels (8/255 may be a text). lr, batch: Adam's peak rate and the pictures of a step. kappa: the
    natural loss's weight at the end. augment: random flips and crops, to be turned off for digits. Raises as
    ibp_training does. Source: arXiv 1906.06316.
    """

    def certified(net: nn.Module, training: Training) -> nn.Module:
        return trained_on(net, training, margins, eps, epochs, lr, batch, kappa, augment)

    return certified


def margins(bounds: Bounds, x: Tensor, y: Tensor, eps: float, up: float) -> Tensor:
    """beta = 1 - up of the CROWN pass, the rest of the intervals; without a pass once its weight is 0."""
    if up >= 1:
        return bounds.ibp(x, y, eps)
    tight, plain = bounds.crown_ibp(x, y, eps)
    return (1 - up) * tight + up * plain
