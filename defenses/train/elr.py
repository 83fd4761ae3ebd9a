"""ELR: early-learning regularisation against wrong labels (Liu et al., 2020, arXiv:2007.00151).

A network learns what is common before it learns wrong labels by heart. Each example keeps a moving average t of what
was answered to it, and the loss holds the answer p to that:

    t <- beta t + (1 - beta) p,   loss = CE(p, y) + lam mean log(1 - <t, p>),

with t = 0 before the first epoch and no gradient through t. By the logits, the second term's gradient is
lam p_c sum_k (t_k - t_c) p_k / (1 - <t, p>): it pulls towards what t says, and outweighs a label that t contradicts.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Batch, Objective, Rate, Recipe, fitted, untrained

RESTART, LOWEST, LEAST = 10, 1e-3, 1e-4
"""Epochs between warm restarts and the rate they fall to; what the probabilities that are averaged are held above."""


@stages.train(
    paper="Liu et al., 2020, arXiv:2007.00151",
    differs=(
        "the answer under the logarithm is not cut to 1e-4 ... 1 - 1e-4, as the authors' code cuts it: a cut has no "
        "gradient. What is averaged is cut, so that the logarithm stays finite",
    ),
)
def elr(
    fit: Fit, *, lam: float = 3.0, beta: float = 0.7, epochs: int = 150, lr: float = 0.02, augment: bool = True
) -> Fit:
    """Train from fresh weights under the regulariser; what the recipe makes is not used.

    lam, beta: the term's weight and the average's memory; 7 and 0.9 for CIFAR-100. lr: where each cycle of 10 epochs
    starts. augment: random flips and crops, to be turned off for digits. Raises BadValue.
    """
    if not (lam >= 0 and 0 <= beta <= 1 and lr > 0):
        raise BadValue(f"expected lam >= 0, beta in [0, 1] and lr > 0 for elr, got {lam=}, {beta=}, {lr=}; mend it")
    recipe = Recipe(
        epochs, restarted(lr, min(RESTART, epochs)), optimiser="heavy_ball", weight_decay=1e-3, flip=augment,
        crop=4 if augment else 0,
    )  # fmt: skip

    def trained(net: nn.Module, training: Training) -> nn.Module:
        fresh = untrained(net, training.seed)
        return fitted(fresh, training, recipe, objective=regularised(len(training.train), lam, beta))

    return trained


def restarted(lr: float, cycle: int) -> Rate:
    """From lr down by a half cosine, constant inside an epoch, and again after every `cycle` epochs."""
    low = min(lr, LOWEST)
    return lambda epoch: low + 0.5 * (lr - low) * (1 + math.cos(math.pi * (math.floor(epoch) % cycle) / cycle))


def regularised(examples: int, lam: float, beta: float) -> Objective:
    """The loss over a train split of so many examples, whose averages it keeps from batch to batch."""
    averages: list[Tensor] = []

    def objective(net: nn.Module, batch: Batch) -> Tensor:
        logits, rows = net(batch.x).float(), batch.rows
        if not averages:
            averages.append(logits.new_zeros(examples, logits.shape[1]))
        p = logits.softmax(1)
        held = p.detach().clamp(LEAST, 1 - LEAST)
        averages[0][rows] = beta * averages[0][rows] + (1 - beta) * held / held.sum(1, keepdim=True)
        early = (1 - (averages[0][rows] * p).sum(1)).log().mean()
        loss: Tensor = functional.cross_entropy(logits, batch.y) + lam * early
        return loss

    return objective
