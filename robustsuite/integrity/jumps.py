"""Whether the class changes where the scores say: between two pictures, the lead shrinks to nothing before it does.

A label under scores that were made for it, a vote under a margin of its own, answers from a table: their gradients may
be true and still lead nowhere, since what they lead down is not what decides. No attack on scores says anything of
such a system (Tramer et al., 2020, arXiv:2002.08347: what is attacked must be what decides).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.integrity.checks import Flag
from robustsuite.maths.losses import margin
from robustsuite.maths.projections import levels
from robustsuite.serve.task import TASK, finite

LINES, HALVINGS = 16, 14
"""Lines between pictures of two classes that are followed, and how often each is halved."""

STEP = 0.1
"""A jump of the lead above this share of the usual one is no rounding, and no pixel's next level."""

EARLY, CLIFF = 8, 0.5
"""The halving whose ends are a 256th of a line apart, about a level; the fall of the lead between them, in usual leads,
that is a cliff: honest networks fall by 0.1 at the most.
"""

BEFORE = 31 / 32
"""Of the way to where the class changes: a lead there above half of what it was at the start has not heard of it."""

FEWEST = 4
"""Lines that a judgement takes."""


def jumps(net: nn.Module, x: Tensor, logits: Tensor) -> Flag | None:
    """The flag of scores that jump where the class changes; x (N, C, H, W) answered by these logits (N, K).

    One forward a halving and line, and five at the ends.
    """
    said, other = logits.argmax(1), logits.argmax(1).roll(1)
    lines = (said != other).nonzero().flatten()[:LINES]
    start, near, far, of = x[lines], x[lines], x.roll(1, 0)[lines], said[lines]
    early = near, far
    for halving in range(HALVINGS if len(lines) else 0):
        if halving == EARLY:
            early = near, far
        middle = (near + far) / 2
        if halving < EARLY:
            middle = levels(middle)  # what keeps the answers of clean-looking pictures keeps these
        still = (TASK.predicted(net(middle)) == of).view(-1, 1, 1, 1)
        near, far = torch.where(still, middle, near), torch.where(still, far, middle)
    if len(lines) < FEWEST:
        return None
    before, after = net(near), net(far)
    answered = before.isfinite().all(1) & after.isfinite().all(1)
    to = finite(after).argmax(1)
    jump = _lead(finite(before), of, to) + _lead(finite(after), to, of)
    cliff = _lead(finite(net(early[0])), of, to) + _lead(finite(net(early[1])), to, of)
    first, second = logits.topk(2, 1).values.unbind(1)
    usual = (first - second).median()
    far_off = ((jump > STEP * usual) | (cliff > CLIFF * usual)) & answered & (to != of)
    plateau = -margin(finite(net(start + BEFORE * (near - start))), of)
    began = (first - second)[lines]
    plateau = (plateau > CLIFF * began.clamp_min(usual / 4)) & answered
    n, jumped, flat = int(answered.sum()), int(far_off.sum()), int(plateau.sum())
    if n < FEWEST or not (2 * jumped > n or 3 * flat > n):
        return None
    words = f"the class changes in a jump on {jumped} of {n} lines between pictures, and on {flat} {1 - BEFORE:.0%} of"
    return Flag("scores_jump", f"{words} the way earlier it leads as ever: the scores are not what decides")


def _lead(logits: Tensor, of: Tensor, over: Tensor) -> Tensor:
    """By how much (N,) the logits of one class exceed another's."""
    return (logits.gather(1, of[:, None]) - logits.gather(1, over[:, None])).squeeze(1)
