"""A short federated training, to see what a share-stage defense leaves of learning.

FedSGD (McMahan et al., 2017, arXiv:1602.05629): each round a few clients share one update of a small batch, the server
steps along their mean with momentum. Batch norm uses each batch's own statistics, in training and in scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustsuite.config.threats import Update
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.observation import observed
from robustsuite.methods.federated.updates import Client, Gradients
from robustsuite.serve.data import Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.stages import Applied

JUDGED = 500
"""Test pictures that the result is asked about."""

LARGE = 1 << 22
"""Parameters above which a network is not trained so on a CPU: a ResNet-18 would take minutes a defense."""


@dataclass(frozen=True)
class Rounds:
    """How long: rounds of `clients` clients with `batch` examples each; the server's learning rate and momentum."""

    rounds: int = 60
    clients: int = 8
    batch: int = 8
    lr: float = 0.05
    momentum: float = 0.9


def accuracy(
    net: nn.Module, train: Split, test: Split, share: Sequence[Applied], seed: int, *,
    rounds: Rounds | None = None, device: str = "cpu",
) -> float:  # fmt: skip
    """Share of right answers in [0, 1] after the rounds; `net` is where they start, and is left alone."""
    rounds = rounds or Rounds()
    client = Client(net.to(device), Update(rounds.batch, mode="train"))
    velocity: Gradients = {k: torch.zeros_like(p) for k, p in client.parameters.items()}
    order = torch.Generator().manual_seed(seed)
    for step in range(rounds.rounds):
        rows = torch.randint(len(train), (rounds.clients, rounds.batch), generator=order)
        x = train.images(rows.flatten()).view(*rows.shape, *train.images(rows[:1, 0]).shape[1:]).to(device)
        rng = Rng.of(seed, f"federated/{step}", torch.arange(rounds.clients))
        update = observed(client, x, train.y[rows].to(device), share, rng.to(device)).update
        for k, p in client.parameters.items():
            velocity[k] = rounds.momentum * velocity[k] + update[k].mean(0)
            client.parameters[k] = p - rounds.lr * velocity[k]
    return _right(client, test.first(min(JUDGED, len(test))), device)


def _right(client: Client, test: Split, device: str) -> float:
    right: list[Tensor] = []
    with torch.no_grad():
        for _, x, y in test.batches(100):
            logits = functional_call(client.net, (client.parameters, client.buffers), (x.to(device),))
            right.append(logits.argmax(1).cpu() == y)
    return float(torch.cat(right).float().mean())


class Learnt:
    """The accuracies measured so far in this process: each (network, data, defenses, seed) is trained once."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], float] = {}

    def __call__(self, cycle: Lifecycle, asked: Split) -> float | None:
        """The accuracy, from fresh weights, under the lifecycle's share defenses.

        None without a train split, and for a large network on a CPU. Asked about the data set's test split, where it
        has one, else about `asked`.
        """
        splits, share = cycle.data.splits, cycle.at("share")
        large = sum(p.numel() for p in cycle.model.net.parameters()) > LARGE and cycle.device.startswith("cpu")
        if "train" not in splits or large:
            return None
        train, test = splits["train"], splits.get("test", asked)
        about = cycle.model.sha256, train.sha256, test.sha256, "+".join(map(str, share)), str(cycle.seed), cycle.device
        if about not in self.known:
            net = cycle.shared(trained=False)
            self.known[about] = accuracy(net, train, test, share, cycle.seed, device=cycle.device)
        return self.known[about]
