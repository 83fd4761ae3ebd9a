"""Adversarial training's inner maximisation: PGD on each batch (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import parse_ball
from robustsuite.errors import UnknownName
from robustsuite.maths.projections import unit
from robustsuite.maths.randomness import Rng
from robustsuite.serve.training import Perturb


def pgd_examples(norm: str, eps: float, steps: int, rel_step: float, ramp: float) -> Perturb:
    """The inner maximisation: random start, `steps` ascents of the cross-entropy. ramp: epochs until full eps.

    norm: linf or l2; another raises UnknownName. Crafted in eval mode, so that running statistics stay as they are.
    """
    if norm not in ("linf", "l2"):
        raise UnknownName("norm", norm, ("linf", "l2"))

    def perturb(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        now = eps * min(1.0, epoch / ramp) if ramp else eps
        ball = parse_ball(norm, now)
        keys = torch.randint(1 << 62, (len(x),), generator=generator, device=x.device)
        x_adv = ball.sample(x, Rng(keys))
        net.eval()
        for _ in range(steps):
            leaf = x_adv.detach().requires_grad_()
            (g,) = torch.autograd.grad(functional.cross_entropy(net(leaf).float(), y, reduction="sum"), leaf)
            ascent = g.sign() if norm == "linf" else unit(g, "l2")
            x_adv = ball.project(x, x_adv + rel_step * now * ascent)
        net.train()
        return x_adv

    return perturb
