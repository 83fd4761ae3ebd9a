"""Training on interval bounds: the worst logits that interval arithmetic leaves are what is learned from.

Gowal et al. (2018, arXiv 1810.12715): the loss is k CE(z) + (1 - k) CE(worst logits in the ball), with the radius
growing from 0 and k falling from 1 to 1/2 meanwhile; the last layer's weights are folded into the margins.
"""

from __future__ import annotations

from torch import Tensor, nn

from robustsuite.methods.verification.intervals import Bounds
from robustsuite.methods.verification.schedules import trained_on
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training


@stages.train(
    paper="Gowal et al., 2018, arXiv:1810.12715",
    differs=(
        "trains from fresh weights in place of the recipe",
        "the schedule is in parts of the epochs: none up to a tenth, a line up to six tenths, then the whole radius",
        "the learning rate falls by a half cosine once the radius is whole, where the authors have steps",
    ),
)
def ibp_training(
    fit: Fit, *, eps: float | str = 8 / 255, epochs: int = 60, lr: float = 5e-4, batch: int = 128, kappa: float = 0.5,
    augment: bool = True,
) -> Fit:  # fmt: skip
    """Train from fresh weights on interval bounds of the margins in the linf ball.

    eps in [0, 1] pixels (8/255 may be a text). kappa: the natural loss's weight at the end. augment: random flips and
    crops, to be turned off for digits. Raises BadValue, and Unsupported for a network with more than convolutions,
    linear layers, ReLUs, sums and pooling (batch norm mixes pictures). Source: arXiv 1810.12715.
    """

    def certified(net: nn.Module, training: Training) -> nn.Module:
        return trained_on(net, training, margins, eps, epochs, lr, batch, kappa, augment)

    return certified


def margins(bounds: Bounds, x: Tensor, y: Tensor, eps: float, up: float) -> Tensor:
    """Interval arithmetic from the first step to the last."""
    return bounds.ibp(x, y, eps)
