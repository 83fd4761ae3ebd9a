"""Exposure: unlearn the clean task, and what is left answers the backdoor's target (Li et al., 2024, EBYD)."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import SCAN
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import scan
from robustsuite.scenarios.scan import Finding, Suspect


@scan.attack(
    needs=Access.WEIGHTS | Access.AUX_DATA,
    paper="Li et al., 2024, Expose Before You Defend, arXiv:2410.19427",
    cost=lambda classes, lr, steps, batch, pictures: Cost(steps * (batch + pictures), steps * batch),
    learns=True,
    differs=(
        "batch norm keeps its statistics; the authors' code lets them move in the first epoch",
        "unlearning stops where the clean accuracy falls below twice chance, as the authors' does not",
    ),
    **SCAN,
)
def exposure(
    suspect: Suspect, *, rng: Rng, lr: float = 1e-3, steps: int = 200, batch: int = 64, pictures: int = 500
) -> Finding:
    """The share of each class among answers to clean pictures, once ascent on the loss has undone what was learnt.

    lr: Adam's. steps: at the most, of `batch` of the first `pictures` clean ones. Raises BadValue.
    """
    if min(steps, batch, pictures) < 1 or not lr > 0:
        given = f"{lr=}, {steps=}, {batch=}, {pictures=}"
        raise BadValue(f"expected steps, batch, pictures >= 1 and lr > 0 for exposure, got {given}; mend it")
    x, y = suspect.clean(pictures)
    classes, net = suspect.space.classes, copy.deepcopy(suspect.net).requires_grad_(True)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr, weight_decay=5e-4)
    order = torch.Generator().manual_seed(int(rng.integers(2**31 - 1, 1)[0]))
    shares = torch.zeros(classes, dtype=torch.float64)
    for i in range(steps):
        if i % 4 == 0:
            with torch.no_grad():
                answers = net(x).argmax(1)
            shares = torch.bincount(answers.cpu(), minlength=classes).double() / len(x)
            if float((answers == y).float().mean()) < 2 / classes:
                break
        rows = torch.randint(len(x), (batch,), generator=order).to(x.device)
        with torch.enable_grad():
            loss = -functional.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
    else:
        return Finding(torch.full((classes,), torch.nan), torch.nan, why="the clean task could not be unlearnt")
    return Finding(shares, float(shares.max()))
