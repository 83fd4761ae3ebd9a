"""SmoothAdv: adversarial training of the smoothed classifier, with the noise that it is trained on.

Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck (2019, arXiv 1906.04584). With m draws n_j ~ N(0, sigma^2 I) a
picture, kept through the ascent,

    J(z) = -log (1/m sum_j softmax f(z + n_j))_y                                    (eq. 6)

is ascended in the l2 ball from z = x, by steps of 2 eps / steps along the gradient's direction, and the network learns
by cross-entropy on the m pictures z + n_j. eps grows linearly from 0 over the first `warmup` epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import L2, parse_number
from robustsuite.errors import BadValue
from robustsuite.maths.projections import unit
from robustsuite.methods.smoothing import copies, soft_vote
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Batch, Objective, Recipe, fitted, thirds


@stages.train(
    paper="Salman et al., 2019, arXiv:1906.04584",
    differs=(
        "fine-tunes what the recipe returns, in 10 epochs at rate 0.01; the authors train 150 from scratch at 0.1",
        "where the gradient is 0 a picture stays; the authors' code moves it along random noise",
        "the mean probability is taken in logarithms; the authors' code cuts it at 1e-20, where its gradient is 0",
    ),
)
def smoothadv(
    fit: Fit,
    *,
    sigma: float | str = 0.25,
    eps: float | str = "64/255",
    steps: int = 2,
    draws: int = 2,
    warmup: int = 2,
    epochs: int = 10,
    lr: float = 0.01,
    augment: bool = True,
) -> Fit:
    """Fine-tune what the recipe returns on pictures that are adversarial to its vote; serve it by randomized_smoothing.

    sigma: the noise's standard deviation, eps: the l2 budget, both in [0, 1] pixels. draws: m, the noisy copies of a
    picture; a batch holds 256 / m pictures. warmup: epochs until the full eps. steps=0 and draws=1 is
    gaussian_augmentation. augment: random flips and crops. Raises BadValue. Source: arXiv 1906.04584.
    """
    deviation, radius = parse_number(sigma, "sigma"), parse_number(eps, "eps")
    if not (deviation > 0 and radius >= 0 and steps >= 0 and 1 <= draws <= 256 and warmup >= 0 and lr > 0):
        raise BadValue(
            f"expected sigma > 0, eps >= 0, steps >= 0, 1 to 256 draws, warmup >= 0 and lr > 0, got {sigma!r}, "
            f"{eps!r}, {steps!r}, {draws!r}, {warmup!r} and {lr!r}; write sigma: 0.25, eps: 64/255, draws: 2"
        )
    recipe = Recipe(epochs, thirds(lr, epochs), 256 // draws, weight_decay=1e-4, flip=augment, crop=4 if augment else 0)
    objective = on_adversarial_noise(deviation, radius, steps, draws, warmup)

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        return fitted(fit(net, training), training, recipe, objective=objective)

    return tuned


def on_adversarial_noise(sigma: float, eps: float, steps: int, draws: int, warmup: int) -> Objective:
    """The cross-entropy on the noisy copies of what `ascended` finds with that very noise."""

    def objective(net: nn.Module, batch: Batch) -> Tensor:
        x, y = batch.x, batch.y
        noise = sigma * torch.randn(len(x) * draws, *x.shape[1:], generator=batch.noise, device=x.device)
        now = eps * min(1.0, (int(batch.epoch) + 1) / warmup) if warmup else eps
        x_adv = ascended(net, x, y, noise, now, steps)
        return functional.cross_entropy(net(copies(x_adv, noise)).float(), y.repeat_interleave(draws))

    return objective


def ascended(net: nn.Module, x: Tensor, y: Tensor, noise: Tensor, eps: float, steps: int) -> Tensor:
    """The pictures (N, C, H, W) that raise J most in the l2 ball; the network is asked in eval mode, as by the authors.

    noise (N * m, C, H, W): the first picture's m draws, then the second's.
    """
    if not steps or not eps:
        return x
    ball, x_adv, training = L2(eps), x, net.training
    net.eval()
    for _ in range(steps):
        leaf = x_adv.detach().requires_grad_()
        (g,) = torch.autograd.grad(smoothed_loss(net, leaf, y, noise), leaf)
        x_adv = ball.project(x, x_adv + 2 * eps / steps * unit(g, "l2"))
    net.train(training)
    return x_adv


def smoothed_loss(net: nn.Module, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """J, summed over the pictures."""
    log_p = soft_vote(net(copies(x, noise)).float(), len(noise) // len(x))
    return functional.nll_loss(log_p, y, reduction="sum")
