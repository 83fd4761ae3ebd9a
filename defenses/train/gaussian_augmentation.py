"""Gaussian augmentation: train on x + N(0, sigma^2 I), so that the smoothed network has something to vote on.

Cohen, Rosenfeld, Kolter (2019, arXiv 1902.02918), section 4: noise on [0, 1] pixels, before normalisation and without
clipping; SGD with momentum 0.9 and weight decay 1e-4, the rate divided by 10 after each third of the epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Perturb, Recipe, fitted, thirds


@stages.train(
    paper="Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918",
    differs=(
        "fine-tunes what the recipe returns, in 10 epochs at rate 0.01; the authors train 90 from scratch at 0.1",
    ),
)
def gaussian_augmentation(
    fit: Fit, *, sigma: float | str = 0.25, epochs: int = 10, lr: float = 0.01, augment: bool = True
) -> Fit:
    """Fine-tune what the recipe returns on pictures with Gaussian noise; serve it by randomized_smoothing.

    sigma: the noise's standard deviation in [0, 1] pixels. augment: random flips and crops, to be turned off for
    digits. Raises BadValue. Source: arXiv 1902.02918.
    """
    deviation = parse_number(sigma, "sigma")
    if not (deviation > 0 and lr > 0):
        raise BadValue(f"expected sigma > 0 and lr > 0, got {sigma!r} and {lr!r}; write sigma: 0.25")
    recipe = Recipe(epochs, thirds(lr, epochs), batch=256, weight_decay=1e-4, flip=augment, crop=4 if augment else 0)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        return fitted(fit(net, training), training, recipe, perturb=noisy(deviation))

    return tuned


def noisy(sigma: float) -> Perturb:
    """x + N(0, sigma^2 I)."""

    def perturb(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        return x + sigma * torch.randn(x.shape, generator=generator, device=x.device)

    return perturb
