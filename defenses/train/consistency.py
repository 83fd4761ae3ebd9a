"""Consistency regularisation: the noisy copies of a picture are to be answered alike, and surely.

Jeong, Shin (2020, arXiv 2006.04062). With m draws n_j ~ N(0, sigma^2 I) a picture, p_j = softmax f(x + n_j) and their
mean p,

    L = 1/m sum_j CE(f(x + n_j), y) + lambda 1/m sum_j KL(p || p_j) + eta H(p).

rRCM (Lei et al., 2025, arXiv 2501.13094) fine-tunes with this very loss, m = 2 and eta = 0.5. This is not rRCM: what it
fine-tunes is a vision transformer that is told the noise's level, pre-trained as a consistency model of
representations over 300,000 steps of 2048 pictures (CIFAR-10), and no small network without that input stands in
for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import parse_number
from robustsuite.errors import BadValue
from robustsuite.methods.smoothing import copies, soft_vote
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Batch, Objective, Recipe, fitted, thirds


@stages.train(
    paper="Jeong, Shin, 2020, arXiv:2006.04062",
    differs=(
        "fine-tunes what the recipe returns, in 10 epochs at rate 0.01; the authors train 150 from scratch at 0.1",
        "the last stage of rRCM (arXiv 2501.13094) is this loss; its pre-training of a network that is told the level "
        "of noise is not here",
    ),
)
def consistency(
    fit: Fit,
    *,
    sigma: float | str = 0.25,
    draws: int = 2,
    weight: float = 10.0,
    eta: float = 0.5,
    epochs: int = 10,
    lr: float = 0.01,
    augment: bool = True,
) -> Fit:
    """Fine-tune what the recipe returns to answer noisy copies alike; serve it by randomized_smoothing.

    sigma: the noise's standard deviation in [0, 1] pixels. draws: m, the noisy copies of a picture; a batch holds
    256 / m pictures. weight: lambda. augment: random flips and crops. Raises BadValue. Source: arXiv 2006.04062.
    """
    deviation = parse_number(sigma, "sigma")
    if not (deviation > 0 and 2 <= draws <= 256 and weight >= 0 and eta >= 0 and lr > 0):
        raise BadValue(
            f"expected sigma > 0, 2 to 256 draws, weight >= 0, eta >= 0 and lr > 0, got {sigma!r}, {draws!r}, "
            f"{weight!r}, {eta!r} and {lr!r}; write sigma: 0.25, draws: 2, weight: 10"
        )
    recipe = Recipe(epochs, thirds(lr, epochs), 256 // draws, weight_decay=1e-4, flip=augment, crop=4 if augment else 0)
    objective = on_copies(deviation, draws, weight, eta)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        return fitted(fit(net, training), training, recipe, objective=objective)

    return tuned


def on_copies(sigma: float, draws: int, weight: float, eta: float) -> Objective:
    """The cross-entropy on `draws` noisy copies of each picture, and what they disagree by."""

    def objective(net: nn.Module, batch: Batch) -> Tensor:
        x, y = batch.x, batch.y
        noise = sigma * torch.randn(len(x) * draws, *x.shape[1:], generator=batch.noise, device=x.device)
        logits = net(copies(x, noise)).float()
        kl, entropy = disagreement(logits, draws)
        cross_entropy = functional.cross_entropy(logits, y.repeat_interleave(draws))
        return cross_entropy + (weight * kl + eta * entropy).mean()

    return objective


def disagreement(logits: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Of logits (N * m, K), m a picture: the mean KL(p || p_j) (N,) of their mean p from each, and p's entropy (N,)."""
    log_mean = soft_vote(logits, m)
    mean = log_mean.exp()
    log_p = logits.log_softmax(1).unflatten(0, (-1, m))
    entropy = -(mean * log_mean).sum(1)
    cross = -(mean[:, None] * log_p).sum(2).mean(1)
    return cross - entropy, entropy
