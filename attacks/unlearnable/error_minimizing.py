"""Error-minimising noise: noise that leaves nothing to learn (Huang et al., 2021, arXiv:2101.04898).

min over theta of min over |delta| <= eps of the loss: a network and the noise are trained in turn, both downwards,
until the network is right on the noisy pictures for the noise's sake.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.taxonomy import UNLEARNABLE
from robustsuite.config.threats import Access, Linf, PoisonRate, parse_number
from robustsuite.maths.losses import cross_entropy
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.scenarios import unlearnable
from robustsuite.serve.adversary import Aux, Poisoned, chosen, overlay
from robustsuite.serve.data import Split


@unlearnable.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA, paper="Huang et al., 2021, arXiv:2101.04898, eq. 3", **UNLEARNABLE
)
def error_minimizing(
    train: Split, rate: PoisonRate, *, rng: Rng, aux: Aux, surrogate: str = "recipe:scenes_resnet?epochs=1",
    eps: str | float = "8/255", rounds: int = 10, updates: int = 10, steps: int = 20, stop: float = 0.01,
) -> Poisoned:  # fmt: skip
    """Sample-wise linf noise that minimises the training loss of a network trained along with it; labels stay.

    rounds, at most: `updates` batches of training on the noisy pictures, then `steps` descents of the noise by eps / 10
    each; ends once the error on the noisy pictures is below `stop`.
    """
    ball, net = Linf(parse_number(eps)), aux.net(surrogate).train()
    device = next(net.parameters()).device
    rows = chosen(rng, torch.arange(len(train)), rate.most(len(train)))
    x = torch.cat([train.images(part) for part in rows.split(2048)]).to(device)
    y, noisy = train.y[rows].to(device), x.clone()
    optimiser = torch.optim.SGD(net.requires_grad_(True).parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    order = torch.Generator().manual_seed(seed_of(rng))
    for _ in range(rounds):
        net.train().requires_grad_(True)
        for _ in range(updates):
            batch = torch.randperm(len(y), generator=order)[:128].to(device)
            optimiser.zero_grad()
            cross_entropy(net(noisy[batch]), y[batch]).mean().backward()
            optimiser.step()
        net.eval().requires_grad_(False)
        parts = [_descended(net, ball, x[i], noisy[i], y[i], steps) for i in torch.arange(len(y)).split(256)]
        noisy = torch.cat([part for part, _ in parts])
        if sum(wrong for _, wrong in parts) < stop * len(y):
            break
    return Poisoned(overlay(train, rows, noisy, train.y[rows]), rows)


def _descended(net: nn.Module, ball: Linf, x: Tensor, at: Tensor, y: Tensor, steps: int) -> tuple[Tensor, int]:
    """Pictures after `steps` sign descents of the loss from `at`, and how many are still answered wrong."""
    for _ in range(steps):
        leaf = at.detach().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(net(leaf), y).sum(), leaf)
        at = ball.project(x, at - ball.eps / 10 * g.sign())
    with torch.no_grad():
        return at, int((net(at).argmax(1) != y).sum())
