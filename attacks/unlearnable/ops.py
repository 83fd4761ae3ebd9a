"""OPS: one pixel a class, the same in all its pictures (Wu et al., 2023, "One-pixel shortcut", arXiv:2205.12141)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import UNLEARNABLE
from robustsuite.config.threats import Access, PoisonRate
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import unlearnable
from robustsuite.serve.adversary import Poisoned, chosen, overlay
from robustsuite.serve.data import Split


def shortcut(x: Tensor) -> tuple[int, int, Tensor]:
    """Row, column and colour (C,) in {0, 1} that change a class's pictures (N, C, H, W) most, and most alike.

    Score: mean over variance of the distance from each picture's pixel to the colour (Algorithm 1).
    """
    c = x.shape[1]
    colours = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * c).view(-1, c)
    best, found = -1.0, (0, 0, colours[0])
    for colour in colours:
        moved = (x - colour.view(1, c, 1, 1)).abs().sum(1)
        score = moved.mean(0) / (moved.var(0, correction=0) + 1e-8)
        top = float(score.max())
        if top > best:
            at = int(score.argmax())
            best, found = top, (at // x.shape[3], at % x.shape[3], colour)
    return found


@unlearnable.attack(needs=Access.TRAIN_SET, paper="Wu et al., 2023, arXiv:2205.12141, algorithm 1", **UNLEARNABLE)
def ops(train: Split, rate: PoisonRate, *, rng: Rng) -> Poisoned:
    """One pixel set to one extreme colour in every picture of a class, where that changes them most alike."""
    rows = chosen(rng, torch.arange(len(train)), rate.most(len(train)))
    pictures = torch.cat([train.images(part) for part in rows.split(2048)])
    for label in train.y[rows].unique().tolist():
        own = train.y[rows] == label
        i, j, colour = shortcut(pictures[own])
        pictures[own, :, i, j] = colour
    return Poisoned(overlay(train, rows, pictures, train.y[rows]), rows)
