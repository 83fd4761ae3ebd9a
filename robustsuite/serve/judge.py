"""The judge: the served model's answer in float32, and again in float64 where the margin is within rounding.

It knows nothing of the attack. A tie is no break (on an ensemble that aggregates by rank, three quarters of an
attack's successes were exact float ties). Logits of NaN or infinity are a wrong
answer, whatever the goal: an undefined answer is no robustness. Only where something may reject is a row of NaN a
rejection, and only while the network below it has an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.maths.numerics import float32
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import answer
from robustsuite.serve.task import TASK, finite

NEAR = 1e-5
"""A margin below this, relative to the largest logit where that exceeds 1, is decided in float64."""

REPEATS = 10
"""How often a random system is asked again; the verdict is the majority, the share is kept beside it."""


class Answers(NamedTuple):
    """wrong, rejected (N,) bool; share (N,) of repeats answered wrong; rechecked (N,) bool: decided in float64.

    undefined (N,) bool: NaN or infinite logits that are no rejection, at least once; these are wrong.
    prediction (N,) int64 and its softmax confidence (N,); watched (N,): the softmax of the judge's `watch` class, or 0.
    """

    wrong: Tensor
    rejected: Tensor
    share: Tensor
    rechecked: Tensor
    prediction: Tensor
    confidence: Tensor
    watched: Tensor
    undefined: Tensor


class Judge:
    """Reads a served network; build one a cell, it keeps the float64 copy once that is needed.

    ties: whether a tie for the first place is a wrong answer, as where nobody attacks; a constant net is never right.
    under: the network below what may reject, as `System.under`; None where nothing may.
    """

    def __init__(
        self, net: nn.Module, *, stochastic: bool, width: int = 256, repeats: int = REPEATS,
        margin: Callable[[Tensor, Tensor], Tensor] = TASK.margin, ties: bool = False, watch: int | None = None,
        under: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.net, self.stochastic, self.width, self.repeats, self.margin = net, stochastic, width, repeats, margin
        self.ties, self.watch, self.under = ties, watch, under
        self._double: nn.Module | None = None

    @float32()
    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        """Answers on x (N, C, H, W) float32; y: labels (N,), or what `margin` compares with, a row a picture.

        Wrong is where margin(logits, y) > 0; `rng` feeds systems that draw noise.
        """
        parts = [self._batch(x[i], y[i], rng[i]) for i in torch.arange(len(x), device=x.device).split(self.width)]
        if not parts:
            none = torch.zeros(0, dtype=torch.bool, device=x.device)
            return Answers(none, none, none.float(), none, none.long(), none.float(), none.float(), none)
        return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _batch(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        if not self.stochastic:
            return self._once(x, y, rng)
        asked = [self._once(x, y, rng.fold(repeat)) for repeat in range(self.repeats)]
        share = torch.stack([a.wrong for a in asked]).float().mean(0)
        rejected = torch.stack([a.rejected for a in asked]).float().mean(0)
        confidence, watched = (torch.stack([getattr(a, k) for a in asked]).mean(0) for k in ("confidence", "watched"))
        first, undefined = asked[0], torch.stack([a.undefined for a in asked]).any(0)
        undecided = torch.zeros_like(first.wrong)
        return Answers(share >= 0.5, rejected > 0.5, share, undecided, first.prediction, confidence, watched, undefined)

    def _once(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        found = self._backed(self.read(answer(self.net, x, rng), y), x, rng)
        if self.stochastic:
            return found
        again = found.rechecked.nonzero().flatten()
        if not len(again):
            return found
        wrong = found.wrong.index_put((again,), self._twice(x[again], y[again]))
        return found._replace(wrong=wrong, share=wrong.float())

    def _backed(self, found: Answers, x: Tensor, rng: Rng) -> Answers:
        """A rejection counts only where the network below answers: a detector in front does not excuse its NaN."""
        if self.under is None or not bool(found.rejected.any()):
            return found
        rows = found.rejected.nonzero().flatten()
        none = TASK.undefined(answer(self.under, x[rows], rng[rows]))
        undefined = found.undefined.index_put((rows,), none)
        wrong = found.wrong | undefined
        return found._replace(
            wrong=wrong, rejected=found.rejected & ~undefined, share=wrong.float(), undefined=undefined
        )

    def undefined(self, logits: Tensor) -> Tensor:
        """Where (N,) these logits are no answer and no rejection either."""
        none = TASK.undefined(logits)
        return none if self.under is None else none & ~TASK.rejected(logits)

    def read(self, logits: Tensor, y: Tensor) -> Answers:
        """Answers that were given (N, K), read as they are; `rechecked` says where float64 would have to decide."""
        undefined = self.undefined(logits)
        rejected = TASK.undefined(logits) & ~undefined
        logits = finite(logits)
        margin = self.margin(logits, y)
        scale = logits.abs().amax(1).clamp_min(1)
        near = (margin.abs() <= NEAR * scale) & ~rejected & ~undefined
        wrong = ((margin >= 0) if self.ties else (margin > 0)) & ~rejected | undefined
        p = TASK.probabilities(logits)
        confidence, prediction = p.max(1)
        watched = torch.zeros_like(confidence) if self.watch is None else p[:, self.watch]
        return Answers(wrong, rejected, wrong.float(), near, prediction, confidence, watched, undefined)

    def _twice(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the margin is strict in float64 (where ties count, whether there is one), (N,) bool."""
        if self._double is None:
            self._double = copy.deepcopy(self.net).double()
        logits = answer(self._double, x.double())
        hair = 1e-12 * logits.abs().amax(1).clamp_min(1)
        past = self.margin(logits, y) > (-hair if self.ties else hair)  # never where there is a NaN
        return past | self.undefined(logits)
