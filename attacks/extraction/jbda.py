"""Jacobian-based augmentation (Papernot et al., 2017): few pictures, doubled by steps on the clone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import EXTRACTION
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.scenarios import extraction
from robustsuite.scenarios.extraction import ALL, EPOCHS, LR, Stolen, Thief, Victim


@extraction.attack(
    needs=Access.LABELS | Access.AUX_DATA,
    paper="Papernot et al., 2017, arXiv:1602.02697",
    cost=lambda classes, seeds, step, epochs, lr: Cost(ALL, 3 * epochs),
    differs=(
        "rounds go on until the queries are spent, the last one cut to what is left; no reservoir is drawn from",
        "scores are learnt from where they are granted; the paper's oracle gives classes",
    ),
    **EXTRACTION,
)
def jbda(
    victim: Victim, own: Thief, *, seeds: int = 100, step: float = 0.1, epochs: int = EPOCHS, lr: float = LR
) -> Stolen:  # fmt: skip
    """x + step * sign of the slope of the clone's logit at the answered class, for all that was asked, round by round.

    seeds: pictures of the pool to begin with. step: in [0, 1] pixels. lr: the first of a half cosine. Raises BadValue
    without a pool.
    """
    if own.pool is None or seeds < 1:
        raise BadValue(f"expected pictures of one's own and seeds >= 1 for jbda, got {seeds=}; grant aux_data")
    x = own.pool.images(own.order()[: min(seeds, victim.left())])
    answers = victim.ask(x)
    while left := victim.left():
        clone = own.learnt(x, answers, epochs, lr)
        more = moved(clone, x[:left], answers[:left], step)
        x, answers = torch.cat([x, more]), torch.cat([answers, victim.ask(more)])
    return own.curve(x, answers, epochs, lr)


def moved(clone: nn.Module, x: Tensor, answers: Tensor, step: float) -> Tensor:
    """Each picture (M, C, H, W) a step up the clone's logit at the class answered (M, K), in [0, 1], on the CPU."""
    device = next(clone.parameters()).device
    parts = []
    for part, said in zip(x.split(256), answers.argmax(1).split(256), strict=True):
        leaf = part.to(device).requires_grad_()
        logit = clone(leaf).gather(1, said.to(device)[:, None]).sum()
        (slope,) = torch.autograd.grad(logit, leaf)
        parts.append((part + step * slope.sign().cpu()).clamp(0, 1))
    return torch.cat(parts)
