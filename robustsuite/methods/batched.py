"""Many networks of one architecture trained as one: stacked weights, one optimiser, pictures of its own for each.

On a GPU their forwards are one (torch.func.vmap, a grouped convolution); on a CPU, where that takes 1.2 to 2.6 times as
long as one after another, they are asked in turn. The steps are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

from robustsuite.errors import BadData
from robustsuite.serve.data import in_unit
from robustsuite.serve.models import Training
from robustsuite.serve.training import OPTIMISERS, Recipe, augmented, descend, finite, held, precision, seeded

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]
"""(stacked parameters, stacked buffers, x (M, B, C, H, W)) -> logits (M, B, K)."""


def fitted_together(nets: Sequence[nn.Module], training: Training, rows: Sequence[Tensor], recipe: Recipe) -> None:
    """Train networks in place, each on its own rows of training.train, as `training.fitted` trains one.

    Each takes as many steps an epoch as the one of the fewest rows has whole batches. No `perturb`, `select` or
    `augment` of the split. Raises BadData for rows that are no batch, BadValue where a loss stops being finite.
    """
    least = min(map(len, rows))
    size = min(recipe.batch, least)
    if not size:
        raise BadData("expected training pictures for each network, got none for one; draw from a larger pool")
    device = torch.device(training.device)
    pictures, y = held(training.train, device)
    for net in nets:
        net.to(device).train()
    params, buffers = stack_module_state(list(nets))
    params = {name: p.detach().requires_grad_(p.is_floating_point()) for name, p in params.items()}
    optimiser = OPTIMISERS[recipe.optimiser](list(params.values()), weight_decay=recipe.weight_decay)
    forward = (_at_once if device.type == "cuda" else _in_turn)(copy.deepcopy(nets[0]))
    order, steps = torch.Generator().manual_seed(training.seed), least // size
    with seeded(training.seed, device):
        for epoch in range(recipe.epochs):
            losses = []
            shuffled = torch.stack([own[torch.randperm(len(own), generator=order)[:least]] for own in rows])
            for i in range(steps):
                places = shuffled[:, i * size : (i + 1) * size].to(device)
                x = augmented(in_unit(pictures[places.flatten()]), recipe, order)
                with precision(device):
                    logits = forward(params, buffers, x.unflatten(0, places.shape)).float()
                    loss = functional.cross_entropy(
                        logits.flatten(0, 1), y[places.flatten()], label_smoothing=recipe.label_smoothing
                    )
                descend(loss * len(nets), optimiser, recipe.rate(epoch + i / steps))
                losses.append(loss.detach())
            mean = finite(losses, epoch)
            training.tell(f"{len(nets)} networks, epoch {epoch + 1}/{recipe.epochs}: loss {mean:.4f}")
    with torch.no_grad():
        for k, net in enumerate(nets):
            for name, tensor in (*net.named_parameters(), *net.named_buffers()):
                tensor.copy_((params if name in params else buffers)[name][k])
            net.eval().requires_grad_(False)


def _at_once(base: nn.Module) -> Forward:
    def one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(base, (params, buffers), (x,))
        return logits

    together: Forward = torch.vmap(one, randomness="different")
    return together


def _in_turn(base: nn.Module) -> Forward:
    def together(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        own = {name: p.unbind(0) for name, p in params.items()}
        return torch.stack([
            functional_call(base, ({name: parts[k] for name, parts in own.items()},
                                   {name: b[k] for name, b in buffers.items()}), (each,))
            for k, each in enumerate(x)
        ])  # fmt: skip

    return together
