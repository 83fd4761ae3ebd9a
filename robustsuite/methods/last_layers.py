"""Last layers learnt anew on a frozen body: one, or several that a detector chooses among."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.methods.edits import Edit
from robustsuite.methods.head import head_of
from robustsuite.serve.data import Split, in_unit
from robustsuite.serve.training import half_cosine, held

BATCH, AT_ONCE = 256, 512


class LastLayers(nn.Module):
    """Features (N, D) -> logits (N, K): H linear heads, weighted by a linear detector's posterior.

    All heads start from the same last layer, and the detector from no opinion: together they then answer as it does.
    """

    def __init__(self, head: nn.Linear, heads: int) -> None:
        super().__init__()
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias.detach()
        self.weight = nn.Parameter(head.weight.detach().repeat(heads, 1, 1))
        self.bias = nn.Parameter(bias.repeat(heads, 1))
        self.detector = nn.Parameter(torch.zeros(heads, head.in_features).to(head.weight))
        self.prior = nn.Parameter(torch.zeros(heads).to(head.weight))

    def each(self, f: Tensor) -> Tensor:
        """What every head says (N, H, K)."""
        return torch.einsum("nd,hkd->nhk", f, self.weight) + self.bias

    def chosen(self, f: Tensor) -> Tensor:
        """The detector's logits (N, H)."""
        return functional.linear(f, self.detector, self.prior)

    def forward(self, f: Tensor) -> Tensor:
        return (self.chosen(f).softmax(1)[:, :, None] * self.each(f)).sum(1)


def with_last_layers(net: nn.Module, shape: tuple[int, ...], heads: int) -> tuple[nn.Module, LastLayers]:
    """A copy of the network with `heads` last layers in place of its own, and these.

    shape: of a picture (C, H, W). Raises Unsupported for a network whose logits are no linear layer's output.
    """
    head, _ = head_of(net, shape)
    name = next(name for name, module in net.named_modules() if module is head)
    made, layers = copy.deepcopy(net), LastLayers(head, heads)
    made.set_submodule(name, layers)
    return made, layers


def seen(net: nn.Module, split: Split, edits: Sequence[Edit], device: str, seed: int) -> Tensor:
    """What the last layer sees (1 + edits, N, D) of the pictures as they are, and of each edit."""
    pictures, _ = held(split, device)
    noise = torch.Generator(device).manual_seed(seed)
    _, body = head_of(net, tuple(pictures.shape[1:]))
    made = []
    with torch.no_grad():
        for edit in (None, *edits):
            parts = [in_unit(pictures[rows]) for rows in torch.arange(len(split)).split(AT_ONCE)]
            made.append(torch.cat([body(edit(x, noise) if edit else x) for x in parts]))
    return torch.stack(made)


def learn(layers: LastLayers, draws: Sequence[Tensor], y: Tensor, epochs: int, lr: float, seed: int) -> None:
    """Teach each head its own edit, and the detector which edit a picture has; in place, by Adam under a half cosine.

    draws: features (H, N, D), taken in turn by the epochs. y (N,). In a batch each picture has an edit drawn at random.
    """
    layers.requires_grad_(True)
    optimiser, rate = torch.optim.Adam(layers.parameters(), lr=lr), half_cosine(lr, epochs)
    order, n = torch.Generator().manual_seed(seed), len(y)
    with torch.enable_grad():
        for epoch in range(epochs):
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch)
            f = draws[epoch % len(draws)]
            edit = torch.randint(len(f), (n,), generator=order).to(y.device)
            for rows in torch.randperm(n, generator=order).to(y.device).split(BATCH):
                own, shown = edit[rows], f[edit[rows], rows]
                said = layers.each(shown)[torch.arange(len(rows), device=y.device), own]
                loss = functional.cross_entropy(said, y[rows]) + functional.cross_entropy(layers.chosen(shown), own)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    layers.requires_grad_(False)
