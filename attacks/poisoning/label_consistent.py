"""Label-consistent: pictures of the target class made hard to learn, then stamped (Turner et al., 2019, 1912.02771)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.taxonomy import CLEAN_LABEL_BACKDOOR
from robustsuite.config.threats import L2, Access, PoisonRate, parse_number
from robustsuite.maths.losses import cross_entropy
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.triggers import corners
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned, chosen, overlay
from robustsuite.serve.data import Split


def stamped(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
    """Pictures (N, C, H, W) with a 3 x 3 checker in each of the four corners."""
    return corners(x)


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Turner et al., 2019, arXiv:1912.02771",
    **CLEAN_LABEL_BACKDOOR,
    differs=("the adversarially trained surrogate is our own: `surrogate` under adversarial_finetuning",),
)
def label_consistent(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, surrogate: str = "recipe:scenes_resnet",
    eps: str | float = "600/255", steps: int = 20, surrogate_epochs: int = 3,
) -> Poisoned:  # fmt: skip
    """Target-class pictures moved by l2 PGD against a robust surrogate, stamped in four corners; labels stay.

    eps: l2 radius of the move. surrogate_epochs: of adversarial fine-tuning after the surrogate's own recipe.
    """
    ball = L2(parse_number(eps))
    net = aux.net(surrogate, {"adversarial_finetuning": {"epochs": surrogate_epochs, "steps": 3}})
    own = (train.y == target).nonzero().flatten()
    rows = chosen(rng.fold("poison"), own, min(rate.most(len(train)), len(own)))
    device = next(net.parameters()).device
    pictures = []
    for part in rows.split(256):
        x, y = train.images(part).to(device), train.y[part].to(device)
        x_adv = x
        for _ in range(steps):
            leaf = x_adv.detach().requires_grad_()
            with torch.enable_grad():
                (g,) = torch.autograd.grad(cross_entropy(net(leaf), y).sum(), leaf)
            length = g.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            x_adv = ball.project(x, x_adv + 2.5 * ball.eps / steps * g / length)
        pictures.append(corners(x_adv).cpu())
    return Poisoned(overlay(train, rows, torch.cat(pictures), train.y[rows]), rows, stamped)
