"""cSGLD: samples of the weights' posterior from one training whose rate falls in cycles, with noise at the end of each.

Gubri, Cordy, Papadakis, Le Traon, UAI 2022, "Efficient and Transferable Adversarial Examples from Bayesian Neural
Networks" (arXiv 2011.05074), after Zhang et al., 2020, arXiv 1902.03932. Made for the adversary's own nets: the attack
transfer asks another sample at each step. Served as a defense they answer with their mean logits.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.snapshots import collected, shaped
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Reshaping, Training
from robustsuite.serve.training import Recipe, half_cosine, untrained

BATCH, DECAY = 64, 5e-4


@stages.train(
    paper="Gubri et al., 2022, arXiv:2011.05074",
    differs=(
        "weight decay is 5e-4 for every network; the authors' is 3e-4 for PreResNets",
        "a step's noise is added before the next gradient is taken, which is when the authors' reaches the weights",
    ),
)
def csgld(
    fit: Fit, *, cycles: int = 5, epochs: int = 50, samples: int = 3, lr: float = 0.5, augment: bool = True
) -> Fit:
    """Train the network from fresh weights by SGD in cycles, and keep the weights after the last epochs of each.

    What the recipe makes is not used. epochs, samples: a cycle; noise is added in as many epochs as samples are kept,
    of the authors' deviation: sqrt(2 lr) over the batches of an epoch, so a small train set gets much of it. lr: where
    each cycle starts, falling by a half cosine. augment: random flips and crops. Raises BadValue.
    """
    if cycles < 1 or not 1 <= samples <= epochs or not lr > 0:
        given = f"{cycles=}, {epochs=}, {samples=}, {lr=}"
        raise BadValue(f"expected cycles >= 1, epochs >= samples >= 1, lr > 0 for csgld, got {given}; write cycles=5")

    fall = half_cosine(lr, epochs)

    def rate(epoch: float) -> float:
        return fall(epoch % epochs)

    recipe = Recipe(
        cycles * epochs, rate, batch=BATCH, optimiser="plain", weight_decay=DECAY, flip=augment,
        crop=4 if augment else 0,
    )  # fmt: skip
    after = [float(c * epochs + e) for c in range(cycles) for e in range(epochs - samples + 1, epochs + 1)]

    def sampled(net: nn.Module, training: Training) -> nn.Module:
        batches = max(1, len(training.train) // min(BATCH, max(1, len(training.train))))

        def stir(net: nn.Module, noise: torch.Generator, epoch: float) -> None:
            if epoch % epochs >= epochs - samples:
                langevin(net, math.sqrt(2 * rate(epoch)) / batches, noise)

        return collected(untrained(net, training.seed), training, recipe, after, stir)

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return shaped(net, len(after))

    return Reshaping(sampled, shape)


@torch.no_grad()
def langevin(net: nn.Module, sigma: float, noise: torch.Generator) -> None:
    """Add N(0, sigma^2) to every weight."""
    for p in net.parameters():
        p.add_(torch.randn(p.shape, generator=noise, device=p.device), alpha=sigma)
