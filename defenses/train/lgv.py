"""LGV: weights that SGD at a high constant rate passes in the vicinity of a trained network.

Gubri, Cordy, Papadakis, Le Traon, Sen, ECCV 2022, "LGV: Boosting Adversarial Example Transferability from Large
Geometric Vicinity" (arXiv 2207.13129). Made for the adversary's own nets: the attack transfer asks another of them at
each step. Served as a defense they answer with their mean logits.
"""

from __future__ import annotations

from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.snapshots import collected, shaped
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Reshaping, Training
from robustsuite.serve.training import Recipe

BATCH, DECAY = 256, 1e-4


@stages.train(
    paper="Gubri et al., 2022, arXiv:2207.13129",
    differs=(
        "the snapshots of an epoch are of one pass over the pictures; the authors' code draws each quarter anew",
        "pictures are flipped and shifted by 4 pixels, as CIFAR's are; the authors train on ImageNet's random crops",
    ),
)
def lgv(fit: Fit, *, epochs: int = 10, snapshots: int = 4, lr: float = 0.05, augment: bool = True) -> Fit:
    """Go on from what the recipe returns by SGD of momentum 0.9 at a constant rate, and keep weights on the way.

    snapshots: an epoch. augment: random flips and crops, to be turned off for digits. Raises BadValue.
    """
    if epochs < 1 or snapshots < 1 or not lr > 0:
        given = f"{epochs=}, {snapshots=}, {lr=}"
        raise BadValue(f"expected epochs, snapshots >= 1 and lr > 0 for lgv, got {given}; write epochs=10")
    recipe = Recipe(
        epochs, lambda _: lr, batch=BATCH, optimiser="heavy_ball", weight_decay=DECAY, flip=augment,
        crop=4 if augment else 0,
    )  # fmt: skip
    after = [(i + 1) / snapshots for i in range(epochs * snapshots)]

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        return collected(fit(net, training), training, recipe, after)

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return shaped(net, len(after))

    return Reshaping(tuned, shape)
