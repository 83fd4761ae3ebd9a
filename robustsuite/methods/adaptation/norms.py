"""Normalisation by what is asked: batch norm layers on the statistics of the batch, or on a moving mean of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsuite.errors import BadValue, Unsupported

Layer = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)


class Normalised(nn.Module):
    """A batch norm layer that takes its statistics from what it is asked: what the kinds below share.

    Its affine parameters are the layer's own objects. Statistics are the biased ones, as batch norm takes in training.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = layer.weight
        self.bias: nn.Parameter | None = layer.bias
        self.eps: float = layer.eps
        for name in ("mean", "var"):
            kept = getattr(layer, f"running_{name}")
            self.register_buffer(name, None if kept is None else kept.detach().clone())

    def scaled(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """x (N, C, ...) by these statistics (C,), then the affine map; differentiable in all of them."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        factor = (var + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight
        shift = -mean * factor if self.bias is None else self.bias - mean * factor
        return x * factor.view(shape) + shift.view(shape)


def of_batch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of x (N, C, ...) over all but the channels."""
    var, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
    return mean, var


class OfBatch(Normalised):
    """The batch's statistics, mixed with the source's as if those came of `prior` pictures: n / (n + prior) of them."""

    def __init__(self, layer: Layer, prior: float) -> None:
        super().__init__(layer)
        self.prior = prior
        if prior and self.mean is None:
            raise Unsupported("expected batch norm layers that keep statistics of training, got one that does not; "
                              "prior=0 needs none")  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if not self.prior:
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        share = len(x) / (len(x) + self.prior)
        mean, var = of_batch(x)
        return self.scaled(x, share * mean + (1 - share) * self.mean, share * var + (1 - share) * self.var)


class Moving(Normalised):
    """The source's statistics, moved by `share` towards each batch while it learns (RoTTA's robust batch norm)."""

    learning = False

    def __init__(self, layer: Layer, share: float) -> None:
        super().__init__(layer)
        self.share = share
        if self.mean is None:
            raise Unsupported("expected batch norm layers that keep statistics of training, got one that does not")

    def forward(self, x: Tensor) -> Tensor:
        if not self.learning:
            return self.scaled(x, self.mean, self.var)
        mean, var = of_batch(x)
        mean, var = self.mean.lerp(mean, self.share), self.var.lerp(var, self.share)
        self.mean, self.var = mean.detach(), var.detach()
        return self.scaled(x, mean, var)


def batch_normed(net: nn.Module, prior: float = 0.0) -> nn.Module:
    """A copy on the statistics of each batch. Raises Unsupported for a net without batch norm, BadValue."""
    if not prior >= 0:
        raise BadValue(f"expected prior >= 0, as a number of pictures, got {prior!r}; 0 forgets training's statistics")
    return _replaced(net, lambda layer: OfBatch(layer, prior))


def adaptable(net: nn.Module) -> nn.Module:
    """A copy whose batch norm layers take each batch's statistics; other norm layers stay as they are.

    Raises Unsupported for a net with no norm layer at all.
    """
    if any(isinstance(m, BATCH_NORMS) for m in net.modules()):
        return batch_normed(net)
    affine(net)
    return copy.deepcopy(net)


def moving_normed(net: nn.Module, share: float) -> nn.Module:
    """A copy on moving statistics. Raises Unsupported for a net without batch norm."""
    return _replaced(net, lambda layer: Moving(layer, share))


def learning(net: nn.Module, mode: bool) -> None:
    """Whether the moving statistics follow what comes."""
    for module in net.modules():
        if isinstance(module, Moving):
            module.learning = mode


def affine(net: nn.Module, skip: tuple[str, ...] = ()) -> list[nn.Parameter]:
    """Scale and shift of every norm layer, in the net's order; skip: layers whose name has one of these as a part.

    Raises Unsupported where there is none.
    """
    layers = [m for name, m in net.named_modules()
              if isinstance(m, (*NORMS, Normalised)) and not any(part in name for part in skip)]  # fmt: skip
    found = [p for layer in layers for p in layer.parameters(recurse=False)]
    if not found:
        raise Unsupported("expected a network with norm layers that scale and shift, got one without: there is nothing "
                          "that this method adapts")  # fmt: skip
    return found


def _replaced(net: nn.Module, made: Callable[[Layer], nn.Module]) -> nn.Module:
    net = copy.deepcopy(net)
    if isinstance(net, BATCH_NORMS):
        net = nn.Sequential(net)
    spots = [(parent, name, layer) for parent in net.modules() for name, layer in parent.named_children()
             if isinstance(layer, BATCH_NORMS)]  # fmt: skip
    if not spots:
        raise Unsupported("expected a network with batch norm layers, got one without: there are no statistics that "
                          "this method could take from what is asked")  # fmt: skip
    for parent, name, layer in spots:
        setattr(parent, name, made(layer))
    return net
