"""Neurons as factors: channels that are weakened, perturbed and cut, in any network.

A neuron is a channel of a batch norm, as pruning of backdoors is implemented; in a network without one, an output of a
convolution or of a linear layer other than the last.
"""

from __future__ import annotations

import copy
from itertools import islice

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from robustsuite.errors import Unsupported
from robustsuite.serve.data import Split
from robustsuite.serve.training import accuracy, full_batches, seeded

Factors = dict[str, Tensor]
"""By layer, a factor for each of its neurons (C,)."""

THRESHOLDS = [round(0.05 * i, 2) for i in range(19)]
"""Masks up to which neurons are cut, one after the other."""


def called(net: nn.Module, picture: Tensor, *kinds: type[nn.Module]) -> list[nn.Module]:
    """The modules of these kinds in the order they are called on a picture (1, C, H, W)."""
    found: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda m, *_: found.append(m)) for m in net.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            net(picture)
    finally:
        for handle in handles:
            handle.remove()
    return found


def layers(net: nn.Module, picture: Tensor) -> dict[str, nn.Module]:
    """The layers of neurons by name, in the order they are called on a picture (1, C, H, W). Raises Unsupported."""
    names = {module: name for name, module in net.named_modules()}
    norms = [m for m in called(net, picture, nn.BatchNorm2d) if m.affine]
    found = norms or called(net, picture, nn.Conv2d, nn.Linear)[:-1]
    if not found:
        raise Unsupported("expected a network with batch norms, convolutions or hidden linear layers, got none to cut")
    return {names[m]: m for m in found}


def asked(net: nn.Module, weights: Factors, biases: Factors, x: Tensor) -> Tensor:
    """Logits (N, K) with each neuron's incoming weights and bias times its factors; differentiable in these."""
    changed, held = {}, dict(net.named_parameters())
    for name, factor in weights.items():
        weight = held[f"{name}.weight"]
        changed[f"{name}.weight"] = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        if (bias := held.get(f"{name}.bias")) is not None and name in biases:
            changed[f"{name}.bias"] = bias * biases[name]
    logits: Tensor = functional_call(net, changed, (x,))
    return logits


def masks(
    net: nn.Module, clean: Split, *, eps: float, alpha: float, lr: float, steps: int, seed: int, device: str,
    batch: int = 128,
) -> Factors:  # fmt: skip
    """Masks in [0, 1] that keep clean pictures right although every neuron is perturbed (Wu and Wang, 2021, ANP).

    min over m of alpha L(m w, b) + (1 - alpha) max over |d|, |e| <= eps of L((m + d) w, (1 + e) b): one signed step
    from a random start inside, SGD with momentum 0.9 outside. With eps = 0 nothing is perturbed and alpha scales the
    loss. The network is asked in train mode, a copy of it. The global random states are left as they were.
    """
    net = copy.deepcopy(net).to(device).requires_grad_(False)
    names = layers(net.eval(), clean.images(torch.arange(1)).to(device))
    kept = {name: torch.ones(len(layer.get_parameter("weight")), device=device) for name, layer in names.items()}
    for mask in kept.values():
        mask.requires_grad_()
    optimiser = torch.optim.SGD(kept.values(), lr=lr, momentum=0.9)
    draws = torch.Generator(device).manual_seed(seed)
    net.train()
    with seeded(seed, device), torch.enable_grad():
        for _, x, y in islice(full_batches(clean, device, epochs=steps, size=batch, seed=seed), steps):
            loss = alpha * functional.cross_entropy(asked(net, kept, {}, x), y)
            if eps:
                noise = _worst(net, kept, x, y, eps, draws)
                loss = loss + (1 - alpha) * functional.cross_entropy(_perturbed(net, kept, noise, x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for mask in kept.values():
                    mask.clamp_(0, 1)
    return {name: mask.detach() for name, mask in kept.items()}


Noise = list[Factors]
"""What is added to the factors of the weights, and of the biases."""


def _perturbed(net: nn.Module, kept: Factors, noise: Noise, x: Tensor) -> Tensor:
    weights, biases = noise
    return asked(net, {n: kept[n] + d for n, d in weights.items()}, {n: 1 + e for n, e in biases.items()}, x)


def _worst(net: nn.Module, kept: Factors, x: Tensor, y: Tensor, eps: float, draws: torch.Generator) -> Noise:
    """The noise within eps after one signed step of eps up the loss, from a uniform start."""
    start = [{n: eps * (2 * torch.rand(m.shape, generator=draws, device=m.device) - 1) for n, m in kept.items()}
             for _ in range(2)]  # fmt: skip
    leaves = [d.requires_grad_() for part in start for d in part.values()]
    fixed = {name: mask.detach() for name, mask in kept.items()}
    loss = functional.cross_entropy(_perturbed(net, fixed, start, x), y)
    grads = iter(torch.autograd.grad(loss, leaves, allow_unused=True))  # a layer without bias has nothing to move
    return [
        {n: (d.detach() + eps * (0 if (g := next(grads)) is None else g.sign())).clamp(-eps, eps)
         for n, d in part.items()} for part in start
    ]  # fmt: skip


def cut(net: nn.Module, keep: Factors) -> nn.Module:
    """A copy whose neurons with a factor of 0 have no incoming weights; their biases stay, as the authors' do."""
    net = copy.deepcopy(net)
    held = dict(net.named_parameters())
    with torch.no_grad():
        for name, factor in keep.items():
            held[f"{name}.weight"][factor.to(held[f"{name}.weight"].device) == 0] = 0
    return net


def pruned(net: nn.Module, found: Factors, rest: Split, tolerance: float) -> tuple[nn.Module, int]:
    """The network without the neurons of the smallest masks, and how many these are.

    The threshold rises in steps of 0.05 up to 0.9 until the accuracy on `rest` is more than `tolerance` below.
    """
    floor = accuracy(net, rest) - tolerance
    best, gone = net, 0
    for threshold in THRESHOLDS:
        keep = {name: (mask > threshold).float() for name, mask in found.items()}
        number = int(sum((factor == 0).sum() for factor in keep.values()))
        if number == gone:
            continue
        tried = cut(net, keep)
        if accuracy(tried, rest) < floor:
            break
        best, gone = tried, number
    return best, gone
