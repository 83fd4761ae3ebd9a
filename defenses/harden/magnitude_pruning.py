"""Magnitude pruning: the smallest weights of the convolutions are cut, the rest fine-tuned (Han et al., 2015)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue, Unsupported
from robustsuite.serve import stages
from robustsuite.serve.models import Training
from robustsuite.serve.training import Recipe, fitted, half_cosine


@stages.harden(
    paper="Han et al., 2015, arXiv:1506.02626",
    splits=("train",),
    differs=(
        "convolutions alone, ranked over all of them and cut in one shot; the paper cuts layer by layer, in rounds",
    ),
)
def magnitude_pruning(
    net: nn.Module, training: Training, *, sparsity: float = 0.5, lr: float = 0.05, epochs: int = 4
) -> nn.Module:
    """The share `sparsity` of the convolutions' weights that is nearest to zero set to it, the others trained on.

    lr: the first of a half cosine. Raises BadValue for a share outside [0, 1), Unsupported without a convolution.
    """
    if not 0 <= sparsity < 1:
        raise BadValue(f"expected a sparsity in [0, 1), got {sparsity!r}; write 0.5")
    pruned = copy.deepcopy(net).to(training.device)
    masks = _masks(pruned, sparsity)
    _cut(pruned, masks)

    def held(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        _cut(net, masks)  # what the step before has moved off zero is set back before anything is computed
        return x

    trained = fitted(pruned, training, Recipe(epochs, half_cosine(lr, epochs), batch=64), perturb=held)
    _cut(trained, masks)
    return trained


def _masks(net: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Which weights stay, by the name of their convolution."""
    weights = {name: m.weight for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    if not weights:
        raise Unsupported("expected a network with a convolution, got none; magnitude pruning cuts its weights")
    sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    stays = torch.ones_like(sizes, dtype=torch.bool)
    stays[sizes.argsort(stable=True)[: round(sparsity * len(sizes))]] = False
    parts = stays.split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}


def _cut(net: nn.Module, masks: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_submodule(name).weight.mul_(mask)  # type: ignore[operator]
