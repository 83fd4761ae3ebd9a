"""DP-SGD: no example moves the weights by more than a clip, and noise hides what it did (Abadi et al., 2016).

A step draws each example with probability q = batch / n, clips each one's gradient to length C, adds N(0, (noise C)^2)
to their sum and divides by the expected batch. What that spends is accounted for by Renyi's divergence of the sampled
Gaussian mechanism (Mironov, Talwar, Zhang, 2019), which holds for batches that are drawn so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.privacy import spent
from robustsuite.serve import stages
from robustsuite.serve.data import in_unit
from robustsuite.serve.models import Fit, Training
from robustsuite.serve.training import OPTIMISERS, Recipe, augmented, half_cosine, held, seeded, untrained

AT_ONCE = 64
"""Examples whose own gradients are held at once."""

DELTA = 1e-5
"""At which epsilon is told."""


@stages.train(
    paper="Abadi et al., 2016, arXiv:1607.00133",
    differs=(
        "trains from fresh weights, at a rate that falls by a half cosine",
        "epsilon by Renyi's divergence at whole orders up to 128, not by the moments accountant of the paper",
    ),
)
def dp_sgd(
    fit: Fit, *, noise: float = 1.0, clip: float = 1.0, epochs: int = 20, lr: float = 0.5, batch: int = 256,
    augment: bool = True,
) -> Fit:  # fmt: skip
    """Train by clipped gradients of each example with Gaussian noise; the finding dp_sgd tells the epsilon.

    noise: the deviation in units of clip. batch: expected examples a step. augment: random flips and crops. Raises
    BadValue, and Unsupported for a network with batch norm, whose answers to one example depend on others.
    """
    if not (noise > 0 and clip > 0 and lr > 0 and epochs >= 1 and batch >= 1):
        given = f"{noise=}, {clip=}, {epochs=}, {lr=}, {batch=}"
        raise BadValue(f"expected numbers above 0 for dp_sgd, got {given}; leave them out")
    recipe = Recipe(epochs, half_cosine(lr, epochs), batch=batch, flip=augment, crop=4 if augment else 0)

    def private(net: nn.Module, training: Training) -> nn.Module:
        if mixing := [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
            raise Unsupported(f"expected a network without batch norm for dp_sgd, got {len(mixing)} such layers, which "
                              f"mix examples; take one without")  # fmt: skip
        fresh = untrained(net, training.seed).to(training.device).train()
        rate, steps = _descended(fresh, training, recipe, noise, clip)
        rows = [[spent(rate, noise, steps, DELTA), DELTA, noise, clip, rate, steps]]
        columns = ["epsilon", "delta", "noise multiplier", "clip", "sampling rate", "steps"]
        table = {"columns": columns, "rows": rows}
        training.keep("dp_sgd", {"title": "What DP-SGD spends at most", "table": table})
        return fresh.eval().requires_grad_(False)

    return private


def _descended(net: nn.Module, training: Training, recipe: Recipe, noise: float, clip: float) -> tuple[float, int]:
    """Train in place; the sampling rate and the number of steps."""
    device = torch.device(training.device)
    pictures, y = held(training.train, device)
    rate = min(1.0, recipe.batch / len(y))
    each = max(1, round(1 / rate))
    params = dict(net.named_parameters())
    optimiser = OPTIMISERS["heavy_ball"](net.parameters())
    order = torch.Generator().manual_seed(training.seed)
    with seeded(training.seed, device):
        hidden = torch.Generator(device).manual_seed(training.seed)
        for step in range(recipe.epochs * each):
            drawn = (torch.rand(len(y), generator=order) < rate).nonzero().flatten().to(device)
            total = {name: torch.zeros_like(p) for name, p in params.items()}
            for rows in drawn.split(AT_ONCE):
                x = augmented(in_unit(pictures[rows]), recipe, order)
                for name, part in clipped(net, x, y[rows], clip).items():
                    total[name] += part
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step / each)
            for name, p in params.items():
                drawn_noise = torch.randn(p.shape, generator=hidden, device=device)
                p.grad = (total[name] + noise * clip * drawn_noise) / (rate * len(y))
            optimiser.step()
            if not (step + 1) % each:
                training.tell(f"dp_sgd, epoch {(step + 1) // each}/{recipe.epochs}")
    return rate, recipe.epochs * each


def clipped(net: nn.Module, x: Tensor, y: Tensor, clip: float) -> dict[str, Tensor]:
    """The sum of the cross-entropy's gradients of examples (B, C, H, W), each cut to length `clip`."""

    def loss(params: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(net, params, (one[None],)), label[None])

    params = {name: p.detach() for name, p in net.named_parameters()}
    found = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(params, x, y)
    length = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    scale = (clip / length.clamp_min(1e-12)).clamp(max=1)
    return {name: torch.einsum("b,b...->...", scale, g) for name, g in found.items()}
