"""Denoised smoothing: a denoiser before a network that never saw noise, so that the pair can be smoothed.

Salman, Sun, Yang, Kapoor, Kolter (2020, arXiv 2003.01908). The network F stays as it is; a DnCNN D (Zhang et al., 2017,
arXiv 1608.03981), which predicts the noise and takes it away, is trained on the defender's pictures by

    mse:        ||D(x + n) - x||^2,                          n ~ N(0, sigma^2 I),
    stability:  CE(F(D(x + n)), argmax F(x)),

one after the other (the paper's Stab+MSE), or one alone. What is served is F(D(.)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Reshaping, Training, ready
from robustsuite.serve.training import Batch, Objective, Recipe, fitted, thirds


@stages.train(
    paper="Salman et al., 2020, arXiv:2003.01908",
    differs=(
        "a DnCNN of 6 layers of 32 filters by default; the authors' have 17 of 64, and they train 90 epochs",
        "Adam without weight decay; the authors' code adds 1e-4 of it",
        "the last epoch is kept; the authors' code keeps the best on the test set",
    ),
)
def denoised_smoothing(
    fit: Fit,
    *,
    sigma: float | str = 0.25,
    mse_epochs: int = 10,
    stability_epochs: int = 5,
    lr: float = 1e-3,
    depth: int = 6,
    width: int = 32,
    augment: bool = True,
) -> Fit:
    """Put a trained denoiser before what the recipe returns, which stays as it is; serve both by randomized_smoothing.

    sigma: the noise's standard deviation in [0, 1] pixels. mse_epochs, stability_epochs: either may be 0. depth, width:
    convolutions of the denoiser and their filters. augment: random flips and crops. Raises BadValue.
    Source: arXiv 2003.01908.
    """
    deviation = parse_number(sigma, "sigma")
    if not (deviation > 0 and min(mse_epochs, stability_epochs) >= 0 and mse_epochs + stability_epochs and lr > 0):
        raise BadValue(
            f"expected sigma > 0, epochs of mse or stability and lr > 0, got {sigma!r}, {mse_epochs!r}, "
            f"{stability_epochs!r} and {lr!r}; write sigma: 0.25, mse_epochs: 10"
        )
    if depth < 2 or width < 1:
        raise BadValue(f"expected depth >= 2 and width >= 1, got {depth!r} and {width!r}; write depth: 6, width: 32")

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return nn.Sequential(denoiser(training.train.shape[0], depth, width, training.seed), net)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        first, unchanged = shape(ready(fit(net, training), training.device), training).children()
        unwatched = replace(training, watch=False)  # a denoiser has no accuracy
        after: Objective = partial(stability, deviation, unchanged)
        for epochs, objective in ((mse_epochs, partial(mse, deviation)), (stability_epochs, after)):
            if epochs:
                recipe = Recipe(epochs, thirds(lr, epochs), 256, "adamw", 0.0, flip=augment, crop=4 if augment else 0)
                first = fitted(first, unwatched, recipe, objective=objective)
        return nn.Sequential(first, unchanged)

    return Reshaping(tuned, shape)


class Denoiser(nn.Module):
    """x - body(x): the body predicts the noise."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)  # type: ignore[no-any-return]


def denoiser(channels: int, depth: int, width: int, seed: int) -> Denoiser:
    """An untrained DnCNN: its last convolution is 0, so that it returns what it is given."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
    return Denoiser(nn.Sequential(*layers, last))


def mse(sigma: float, net: nn.Module, batch: Batch) -> Tensor:
    """How far the denoised picture is from the picture."""
    return functional.mse_loss(net(_noisy(batch, sigma)).float(), batch.x)


def stability(sigma: float, classifier: Callable[[Tensor], Tensor], net: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of the classifier's answer to the denoised picture with its own answer to the clean one."""
    with torch.no_grad():
        answer = classifier(batch.x).argmax(1)
    return functional.cross_entropy(classifier(net(_noisy(batch, sigma))).float(), answer)


def _noisy(batch: Batch, sigma: float) -> Tensor:
    return batch.x + sigma * torch.randn(batch.x.shape, generator=batch.noise, device=batch.x.device)
