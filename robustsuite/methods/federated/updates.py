"""What a client of a federated training computes and shares: the gradient of its batch, or its weights' change.

One step shares g = grad_theta CE(F(x), y). Several local steps of SGD (McMahan et al., 2017, arXiv:1602.05629) share
(theta_0 - theta_K) / rate, the sum of the gradients on the way, so that both are on one scale.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, replace_all_batch_norm_modules_, vmap
from torch.nn import functional
from torch.utils._pytree import tree_map

from robustsuite.config.threats import Update
from robustsuite.errors import Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.head import linear_head

Gradients = dict[str, Tensor]
"""By a parameter's name: (*its shape), or (T, *its shape) for T clients."""

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance (channels,) of what enters each batch norm, in the order of the forward pass."""

VALUES = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Float32 values of several clients' gradients that may be held at once."""

SMALL = 1 << 20
"""Parameters times pictures of a client below which vmap pays on a CPU: three times as quick for 16 clients of one
picture at 0.17 M parameters; above it, grouped convolutions cost more than one client after the other."""


@dataclass(frozen=True)
class Head:
    """A classifier's last linear layer: its module, and the names of its parameters."""

    module: nn.Module = field(repr=False)
    weight: str
    bias: str | None


class Client:
    """The network as a client uses it; `update` is differentiable in pictures and labels, and can be vmapped."""

    def __init__(self, net: nn.Module, terms: Update) -> None:
        self.net, self.terms = copy.deepcopy(net).eval().requires_grad_(False), terms
        norms = [m for m in self.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.running = [(m.running_mean, m.running_var) for m in norms]
        if terms.mode == "train":  # dropout stays off: the observer could not know its mask
            replace_all_batch_norm_modules_(self.net)
        self.norms = [*norms] if terms.mode == "train" else [_unfused(self.net, m) for m in norms]
        self.parameters = {k: p.detach() for k, p in self.net.named_parameters()}
        self.buffers = dict(self.net.named_buffers())
        self.size = sum(p.numel() for p in self.parameters.values())

    def update(self, x: Tensor, y: Tensor) -> Gradients:
        """What the client shares for pictures (B, C, H, W) in [0, 1] and classes (B,) or probabilities (B, K)."""
        return self.watched(x, y)[0]

    def watched(self, x: Tensor, y: Tensor) -> tuple[Gradients, Statistics]:
        """The update, and what the batch norms saw in the first step."""
        parameters, total, seen = self.parameters, Gradients(), Statistics()
        for step in range(self.terms.local_steps):
            found, statistics = grad(self._loss, has_aux=True)(parameters, x, y)
            total = {k: total[k] + g for k, g in found.items()} if step else found
            seen = seen or statistics
            parameters = {k: p - self.terms.rate * found[k] for k, p in parameters.items()}
        return total, seen

    def _loss(self, parameters: Gradients, x: Tensor, y: Tensor) -> tuple[Tensor, Statistics]:
        seen: Statistics = []

        def see(_: nn.Module, entering: tuple[Tensor, ...]) -> None:
            h = entering[0].transpose(0, 1).flatten(1)
            seen.append((h.mean(1), h.var(1, correction=0)))

        hooks = [module.register_forward_pre_hook(see) for module in self.norms]
        try:
            logits = functional_call(self.net, (parameters, self.buffers), (x,))
        finally:
            for hook in hooks:
                hook.remove()
        return functional.cross_entropy(logits, y), seen

    def head(self, shape: tuple[int, ...]) -> Head:
        """The last linear layer, for pictures of `shape` (C, H, W). Raises Unsupported where there is none."""
        device = next(iter(self.parameters.values())).device
        weight = linear_head(self.net, torch.full((2, *shape), 0.5, device=device), Rng.of(0, "head", torch.arange(2)))
        for name, module in self.net.named_modules():
            own = getattr(module, "weight", None)
            if isinstance(module, nn.Linear) and isinstance(own, Tensor) and own.data_ptr() == weight.data_ptr():
                prefix = f"{name}." if name else ""
                return Head(module, f"{prefix}weight", None if module.bias is None else f"{prefix}bias")
        raise Unsupported("expected a network that ends in a linear layer, got another head; its labels are not found")

    def features(self, x: Tensor, head: Head) -> Tensor:
        """What enters the last linear layer (N, d) for pictures (N, C, H, W); differentiable."""
        seen: list[Tensor] = []
        hook = head.module.register_forward_pre_hook(lambda _, entering: seen.append(entering[0]))
        try:
            self.net(x)
        finally:
            hook.remove()
        return seen[0]

    def together(self, pictures: int) -> int:
        """How many clients of so many pictures to compute in one vmapped pass; 0: one after the other."""
        device = next(iter(self.parameters.values())).device.type
        if device == "cpu":
            return 16 if pictures * self.size <= SMALL else 0
        return max(1, VALUES["cuda"] // (8 * self.size + pictures * (1 << 23)))


class _Running(nn.Module):
    """Batch norm by its running statistics in plain arithmetic.

    The fused kernel's second derivative falls into many small operations: a step on a small net took a fifth longer.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = (self.running_var + self.eps).rsqrt()
        normal = (x - self.running_mean.view(shape)) * scale.view(shape)
        if self.weight is None:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)


def _unfused(net: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """The batch norm's stand-in, put into its place; the norm itself where it keeps no running statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return norm
    name = next(k for k, m in net.named_modules() if m is norm)
    if not name:
        return norm
    stand_in = _Running(norm)
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, stand_in)
    return stand_in


def each(f: Callable[..., Any], together: int, *rows: Any) -> Any:
    """f over the leading dimension of trees of tensors: vmapped `together` at a time, or in turn for 0."""
    if together:
        return vmap(f, chunk_size=together)(*rows)
    count = len(next(t for t in _leaves(rows)))
    found = [f(*(tree_map(lambda t, i=i: t[i], row) for row in rows)) for i in range(count)]
    return tree_map(lambda *parts: torch.stack(parts), *found)


def _leaves(rows: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(found.append, rows)
    return found


def updates(client: Client, x: Tensor, y: Tensor) -> Gradients:
    """The updates (T, ...) of T clients with pictures (T, B, C, H, W) and classes (T, B)."""
    found: Gradients = each(client.update, client.together(x.shape[1]), x, y)
    return {k: g.detach() for k, g in found.items()}


def value_and_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """f(variables, row) -> (total, kept) as a function that also returns the gradient in `variables`."""
    return grad_and_value(f, has_aux=True)
