"""Training on bounds: how the radius and the weights of the losses follow the epochs, and the loop of both methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadValue
from robustsuite.methods.verification.intervals import Bounds
from robustsuite.serve.models import Training
from robustsuite.serve.training import Batch, Recipe, fitted, half_cosine, untrained

Margins = Callable[[Bounds, Tensor, Tensor, float, float], Tensor]
"""(network, x, y, eps, share of the ramp passed) -> lower bounds (N, classes - 1) of z_y - z_j."""


@dataclass(frozen=True)
class Ramp:
    """Up to `warmup` of the epochs 0, up to `top` a line from 0 to 1, then 1."""

    epochs: int
    warmup: float = 0.1
    top: float = 0.6

    def __call__(self, epoch: float) -> float:
        return min(1.0, max(0.0, (epoch / self.epochs - self.warmup) / (self.top - self.warmup)))

    def rate(self, peak: float) -> Callable[[float], float]:
        """A learning rate: the peak until the top, then a half cosine to 0."""
        down = half_cosine(peak, 1)
        return lambda epoch: down(max(0.0, (epoch / self.epochs - self.top) / (1 - self.top)))


def worst_case(margins: Tensor) -> Tensor:
    """The mean cross-entropy of the worst logits that these lower bounds (N, classes - 1) of the margins leave."""
    return functional.softplus(torch.logsumexp(-margins, 1)).mean()


def trained_on(
    net: nn.Module, training: Training, margins: Margins, eps: float | str, epochs: int, lr: float, batch: int,
    kappa: float, augment: bool,
) -> nn.Module:  # fmt: skip
    """Fresh weights, trained on k CE(z) + (1 - k) worst_case(margins), where k falls from 1 to kappa along the ramp.

    eps in [0, 1] pixels. Raises BadValue, and Unsupported for a network that intervals do not pass.
    """
    radius = parse_number(eps)
    if not (0 <= kappa <= 1 and lr > 0 and batch >= 1 and epochs >= 1):
        given = f"{kappa=}, {lr=}, {batch=}, {epochs=}"
        raise BadValue(f"expected kappa in [0, 1] and lr, batch, epochs above 0, got {given}; leave them out")
    ramp = Ramp(epochs)
    recipe = Recipe(epochs, ramp.rate(lr), batch=batch, optimiser="adamw", weight_decay=0.0,
                    flip=augment, crop=4 if augment else 0)  # fmt: skip

    def loss(bounds: nn.Module, at: Batch) -> Tensor:
        assert isinstance(bounds, Bounds)
        x, y, up = at.x, at.y, ramp(at.epoch)
        k = 1 - (1 - kappa) * up
        natural = functional.cross_entropy(bounds(x).float(), y)
        return k * natural + (1 - k) * worst_case(margins(bounds, x, y, radius * up, up).float())

    done = fitted(Bounds(untrained(net, training.seed)), training, recipe, objective=loss)
    return done.net  # type: ignore[return-value]
