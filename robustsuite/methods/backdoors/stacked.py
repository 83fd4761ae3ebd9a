"""Many small networks of one architecture trained at once, each on its own pictures: their weights are one stack.

The stack is asked by vmap and its summed loss descended, so each network's gradient is its own. Everything random comes
from the seeds; a network's batches do not depend on its neighbours, its last bits may, as kernels differ by size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

from robustsuite.serve.data import in_unit
from robustsuite.serve.training import OPTIMISERS, Recipe, augmented, untrained


def trained(
    net: nn.Module, pictures: Tensor, y: Tensor, rows: Tensor, seeds: Sequence[int], recipe: Recipe
) -> list[nn.Module]:
    """One network a seed, its weights drawn by it, trained on its own rows; in eval mode, frozen, on the CPU.

    net: the architecture. pictures (P, C, H, W), uint8 or in [0, 1], and y (P,): of all of them; rows (S, M): which of
    these each one trains on.
    """
    members = [untrained(net, seed).train().requires_grad_(True) for seed in seeds]
    weights, buffers = stack_module_state(members)
    shell = copy.deepcopy(net).train()

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(shell, (weights, buffers), (x,))
        return out

    asked = torch.vmap(one, randomness="different")
    optimiser = OPTIMISERS[recipe.optimiser](weights.values(), weight_decay=recipe.weight_decay)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    batches = rows.shape[1] // recipe.batch
    for epoch in range(recipe.epochs):
        shuffled = torch.stack(
            [own[torch.randperm(len(own), generator=g)] for own, g in zip(rows, orders, strict=True)]
        )
        for i, part in enumerate(shuffled[:, : batches * recipe.batch].split(recipe.batch, dim=1)):
            drawn = [augmented(in_unit(pictures[r]), recipe, g) for r, g in zip(part, orders, strict=True)]
            x, labels = torch.stack(drawn), y[part]
            logits = asked(weights, buffers, x)
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / recipe.batch
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch + i / batches)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    for i, member in enumerate(members):
        member.load_state_dict({name: t[i].detach() for name, t in {**weights, **buffers}.items()})
    return [member.eval().requires_grad_(False) for member in members]
