"""Victims that learn without labels: `contrastive:scenes_resnet` is SimSiam, then a linear layer on frozen features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.errors import BadValue
from robustsuite.integrity.probes import fits
from robustsuite.methods.contrastive import Siamese, probed
from robustsuite.serve.data import InputSpace, in_unit
from robustsuite.serve.models import Model, Training, loader
from robustsuite.serve.training import descend, finite, half_cosine, held, seeded

VERSION = 1
"""Raised whenever the same parameters would train another network, so that no cached one is taken for it."""

BATCH = 128


@dataclass(frozen=True)
class WithoutLabels:
    """A recipe: SimSiam on the train split's pictures, then the last layer alone on its labels."""

    build: Callable[[], nn.Module]
    epochs: int
    peak: float

    def __call__(self, net: nn.Module, training: Training) -> nn.Module:
        device = torch.device(training.device)
        pictures, y = held(training.train, device)
        shape, size = tuple(pictures.shape[1:]), min(BATCH, len(y))
        rate = half_cosine(self.peak, self.epochs)
        with seeded(training.seed, device):
            noise = torch.Generator(device).manual_seed(training.seed)
            net = self.build().to(device)
            siamese = Siamese(net, shape).to(device).train()
            optimiser = torch.optim.SGD(siamese.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
            for epoch in range(self.epochs):
                batches, losses = torch.randperm(len(y)).to(device).split(size), []
                for i, rows in enumerate(batches):
                    if len(rows) == size:
                        x = in_unit(pictures[rows])
                        loss = siamese.loss(training.train.augment(x, noise) if training.train.augment else x)
                        descend(loss, optimiser, rate(epoch + i / len(batches)))
                        losses.append(loss.detach())
                training.tell(f"epoch {epoch + 1}/{self.epochs}: loss {finite(losses, epoch):.4f}")
        net.eval().requires_grad_(False)
        probed(net, shape, pictures, y)
        return net


@loader()
def contrastive(name: str, space: InputSpace, *, epochs: int | str = 100, lr: float | str = 0.06) -> Model:
    """One of our small nets, its features learnt from pictures alone by SimSiam, its last layer from labels.

    lr: the first rate, which falls by a half cosine. The val and test splits are not looked at. Raises UnknownName,
    BadValue, BadModel.
    """
    try:
        cycles, peak = int(epochs), float(lr)
    except ValueError as error:
        raise BadValue(f"expected epochs and lr as numbers, got {epochs!r} and {lr!r}; write epochs=100") from error
    if cycles < 1 or peak <= 0:
        raise BadValue(f"expected epochs >= 1 and lr > 0, got {epochs!r} and {lr!r}; for example 100 and 0.06")
    net = build(name, space).eval()
    fits(net, space, f"contrastive:{name}")
    facts = f"contrastive/{name}/{space}/{cycles}/{peak}/{VERSION}"
    fit = WithoutLabels(partial(build, name, space), cycles, peak)
    return Model(f"contrastive:{name}", net, space, hashlib.sha256(facts.encode()).hexdigest(), fit)
