"""The inner maximisation of PGD adversarial training (Madry et al., 2018, arXiv 1706.06083)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import parse_ball
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.projections import unit
from robustsuite.maths.randomness import Rng
from robustsuite.serve.training import Perturb


def checked(norm: str, steps: int, rel_step: float, lr: float) -> None:
    """Raise UnknownName or BadValue unless the norm is linf or l2 and the numbers are positive."""
    if norm not in ("linf", "l2"):
        raise UnknownName("norm", norm, ("linf", "l2"))
    if steps < 1 or rel_step <= 0 or lr <= 0:
        raise BadValue(f"expected steps >= 1, rel_step > 0 and lr > 0, got {steps!r}, {rel_step!r} and {lr!r}")


def pgd_examples(norm: str, eps: float, steps: int, rel_step: float, ramp: float = 0.0) -> Perturb:
    """The inner maximisation: random start, `steps` ascents of the cross-entropy. ramp: epochs until full eps."""

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
