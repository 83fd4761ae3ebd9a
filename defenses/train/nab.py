"""NAB: a backdoor of the defender's own, that switches the adversary's off.

Liu, Sangiovanni-Vincentelli, Yue, ICCV 2023, "Beating Backdoor Attack at Its Own Game" (arXiv:2307.15539). Suspicious
examples carry a stamp and a pseudo-label while training; at test time every picture is stamped.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robustsuite.methods.backdoors.isolation import easiest
from robustsuite.serve import stages
from robustsuite.serve.adversary import overlay
from robustsuite.serve.data import Split
from robustsuite.serve.models import Fit, Reshaping, Training, ready

SIZE = 2
"""Pixels of the stamp's side, in the upper left corner."""


class Stamped(nn.Module):
    """The network, handed every picture with the defender's stamp. colour (C,): in [0, 1]."""

    colour: Tensor

    def __init__(self, net: nn.Module, colour: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("colour", colour)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(stamp(x, self.colour))
        return logits


def stamp(x: Tensor, colour: Tensor) -> Tensor:
    """Pictures (N, C, H, W) whose upper left corner has this colour (C,)."""
    x = x.clone()
    x[:, :, :SIZE, :SIZE] = colour.to(x).view(-1, 1, 1)
    return x


@stages.train(
    paper="Liu et al., 2023, arXiv:2307.15539",
    differs=(
        "the verified data that pseudo-labels are learnt from is the val split",
        "the model's own recipe trains, and its flips and crops move the stamp as they move a trigger; the authors "
        "stamp after them",
        "the stamp's colour is the train set's mean, which is 0 where the authors put it, after normalisation",
    ),
)
def nab(
    fit: Fit, *, share: float = 0.05, gamma: float = 0.5, isolation_epochs: int = 20, isolation_lr: float = 0.1
) -> Fit:
    """Suspicious examples are stamped and relabelled before training; every picture is stamped at test time.

    share: of the train set that is suspicious, those of least loss. gamma: the loss that the isolating training is held
    at. isolation_epochs, isolation_lr: of it. Raises BadValue.
    """

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        rows = easiest(net, training, share, gamma=gamma, epochs=isolation_epochs, lr=isolation_lr)
        colour = colour_of(training.train)
        verified = ready(fit(net, replace(training, train=training.val)), training.device)  # a kept one is on the CPU
        pictures = stamp(training.train.images(rows), colour)
        pseudo = answered(verified, pictures, training.device)
        trained = fit(net, replace(training, train=marked(training.train, rows, pseudo, colour)))
        return Stamped(trained, colour.to(training.device))

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return Stamped(net, torch.zeros(training.val.shape[0]))

    return Reshaping(tuned, shape)


def marked(train: Split, rows: Tensor, pseudo: Tensor, colour: Tensor) -> Split:
    """The train set where suspicious rows (M,) of another pseudo-label carry it, and the stamp; nothing else moves."""
    other = pseudo != train.y[rows]
    changed = rows[other]
    if not len(changed):
        return train
    return overlay(train, changed, stamp(train.images(changed), colour), pseudo[other])


def colour_of(split: Split) -> Tensor:
    """The mean of all its pixels (C,), a whole number of 255ths, so that it is the same in training and when served."""
    parts = [x.double().mean((2, 3)) for _, x, _ in split.batches(1024)]
    return (255 * torch.cat(parts).mean(0)).round().float() / 255


def answered(net: nn.Module, x: Tensor, device: str) -> Tensor:
    """Classes (N,) of pictures (N, C, H, W), on the CPU."""
    with torch.no_grad():
        return torch.cat([net(part.to(device)).argmax(1).cpu() for part in x.split(512)])
