"""CutMix: a box of another picture pasted in, labels mixed by area (Yun et al., 2019, arXiv:1905.04899).

lam ~ Beta(alpha, alpha); the box has a centre drawn uniformly over the picture and sides sqrt(1 - lam) of its own, cut
at the border; the labels are mixed by the share of pixels that each picture really has.
"""

from __future__ import annotations

import math

import torch
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import Batch, Recipe, fitted, one_cycle, untrained


@stages.train(
    paper="Yun et al., 2019, arXiv:1905.04899",
    differs=("the rate goes up and down once instead of in steps, over 60 epochs instead of 300",),
)
def cutmix(
    fit: Fit, *, alpha: float = 1.0, probability: float = 0.5, epochs: int = 60, lr: float = 0.2, augment: bool = True
) -> Fit:
    """Train from fresh weights on mixed pictures; what the recipe makes is not used.

    alpha: of the Beta distribution; probability: that a batch is mixed, 0.5 for CIFAR and 1 for ImageNet. lr: the peak
    of one cycle. augment: random flips and crops. Raises BadValue.
    """
    if not (alpha > 0 and 0 <= probability <= 1 and lr > 0):
        given = f"{alpha=}, {probability=}, {lr=}"
        raise BadValue(f"expected alpha, lr > 0 and probability in [0, 1] for cutmix, got {given}; mend it")
    recipe = Recipe(epochs, one_cycle(lr, epochs), flip=augment, crop=4 if augment else 0)

    def objective(net: nn.Module, batch: Batch) -> Tensor:
        x, y = batch.x, batch.y
        if float(torch.rand(1, generator=batch.noise, device=x.device)) >= probability:
            return functional.cross_entropy(net(x).float(), y)
        mixed, other, own = pasted(x, alpha, batch.noise)
        z = net(mixed).float()
        return own * functional.cross_entropy(z, y) + (1 - own) * functional.cross_entropy(z, y[other])

    def trained(net: nn.Module, training: Training) -> nn.Module:
        return fitted(untrained(net, training.seed), training, recipe, objective=objective)

    return trained


def pasted(x: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Pictures (N, C, H, W) with one box of their partners', who these are (N,), and the share of pixels they keep."""
    height, width = x.shape[2:]
    other = torch.randperm(len(x), generator=generator, device=x.device)
    u, *centre = torch.rand(3, generator=generator, device=x.device, dtype=torch.float64).tolist()
    side = math.sqrt(1 - float(betaincinv(alpha, alpha, u)))
    rows, columns = (_cut(at, side, n) for at, n in zip(centre, (height, width), strict=True))
    mixed = x.clone()
    mixed[:, :, rows, columns] = x[other][:, :, rows, columns]
    return mixed, other, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _cut(centre: float, side: float, n: int) -> slice:
    """Of n pixels those of a box with this centre and side, both shares of n, that lie inside the picture."""
    at, half = int(centre * n), int(side * n) // 2
    return slice(max(0, at - half), min(n, at + half))
