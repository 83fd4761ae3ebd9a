"""I-BAU: a universal perturbation is unlearnt, its own reaction to the weights included.

Zeng, Chen, Park, Mao, Jin, Jia, ICLR 2022, "Adversarial Unlearning of Backdoors via Implicit Hypergradient"
(arXiv:2110.03735).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.methods.backdoors.detection import halves
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.training import full_batches

PRICE = 0.001
"""Of the perturbation's squared length, in the inner problem."""

INNER_LR, MAP_LR = 10.0, 0.1
"""Step sizes of the inner ascent, and of the map whose fixed point the perturbation is taken for."""


@stages.harden(
    paper="Zeng et al., 2022, arXiv:2110.03735",
    splits=("val",),
    differs=(
        "clean pictures are one half of val's; the authors' code takes 5000 of the test set",
        "steps are counted, so that fewer clean pictures do not mean fewer of them; 50 is the authors' one pass",
        "the inner problem of a hypergradient is on the outer's own batch; the authors' code takes the first one",
    ),
)
def ibau(
    net: nn.Module, training: Training, *, rounds: int = 5, steps: int = 50, lr: float = 1e-3, share: float = 0.01,
    terms: int = 5,
) -> nn.Module:  # fmt: skip
    """min over weights of the loss on clean pictures, a share of them under the worst universal perturbation.

    rounds: of finding the perturbation anew. steps: on batches of 100, to find it and to unlearn it. lr: of Adam on
    the weights. share: of each batch that is perturbed, at least one picture. terms: of the series.
    """
    clean, _ = halves(training)
    device = training.device
    net = copy.deepcopy(net).to(device).eval().requires_grad_(True)
    weights = list(net.parameters())
    optimiser = torch.optim.Adam(weights, lr=lr)
    for i in range(rounds):
        drawn = partial(full_batches, clean, device, epochs=steps, size=100, seed=training.seed + i)
        delta = torch.zeros_like(clean.images(torch.arange(1)), device=device)
        with torch.enable_grad():
            for _, x, _ in islice(drawn(), steps):
                delta.requires_grad_()
                (slope,) = torch.autograd.grad(inner(net, x, net(x).argmax(1), delta), delta)
                delta = (delta - INNER_LR * slope).detach()
            for _, x, y in islice(drawn(), steps):
                delta.requires_grad_()
                marked = torch.zeros(len(x), 1, 1, 1, device=device)
                marked[: max(1, int(share * len(x)))] = 1
                outer = functional.cross_entropy(net(x + marked * delta), y)
                slopes = hypergradient(inner(net, x, y, delta), outer, delta, weights, terms=terms, step=MAP_LR)
                for weight, slope in zip(weights, slopes, strict=True):
                    weight.grad = slope
                optimiser.step()
    return net.requires_grad_(False)


def inner(net: nn.Module, x: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """What the perturbation (1, C, H, W) descends: minus the loss of pictures under it, and the price of its length."""
    return -functional.cross_entropy(net(x + delta), y) + PRICE * delta.square().sum()


def hypergradient(
    inner: Tensor, outer: Tensor, delta: Tensor, weights: Sequence[Tensor], *, terms: int, step: float
) -> list[Tensor]:
    """d outer / d weights where delta minimises `inner`, by the fixed point of delta - step d inner / d delta.

    The direct gradient and v d(map)/d(weights), v the first `terms` of the Neumann series of outer's gradient through
    d(map)/d(delta) (Grazzi et al., 2020, arXiv:2006.16218, fixed point method). inner, outer: scalars of both.
    """
    direct = torch.autograd.grad(outer, [delta, *weights], allow_unused=True)
    wanted = torch.zeros_like(delta) if direct[0] is None else direct[0]
    (slope,) = torch.autograd.grad(inner, delta, create_graph=True)

    def back(v: Tensor, through: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(-step * slope, through, v, retain_graph=True, allow_unused=True)

    v = torch.zeros_like(delta)
    for _ in range(terms):
        moved = back(v, [delta])[0]
        v = v + (0 if moved is None else moved) + wanted
    parts = zip(weights, direct[1:], back(v, weights), strict=True)
    return [sum((g for g in (first, second) if g is not None), torch.zeros_like(w)) for w, first, second in parts]
