"""The judge: the served model's answer in float32, and where the margin is within rounding in further readings.

It knows nothing of the attack, and asks as an attack does: in float32 first, in full batches of different pictures.
An answer is *wrong* where the goal is reached and *held* where it surely is not. Between the two are ties (on an
ensemble that aggregates by rank, three quarters of an attack's successes were exact float ties), readings that
disagree, and rejections: none of them is a break, and none is a right answer. Logits of NaN or infinity are a wrong
answer, whatever the goal. Only where something may reject is a row of NaN a rejection, and only while the network below
it has an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.maths.numerics import float32
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import answer
from robustsuite.serve.task import TASK, finite

NEAR = 1e-5
"""A margin below this, relative to the largest logit where that exceeds 1, is read again."""

AGAIN = 2
"""How often in float32, the batch in another order each time: other neighbours and places, the same size."""

REPEATS = 10
"""How often a random system is asked again; the verdict is the majority, the share is kept beside it."""

AVERAGED = ("wrong", "held", "rejected", "confidence", "watched", "undefined")
"""What of a random system's answers is averaged over the repeats."""


class Answers(NamedTuple):
    """wrong, held, rejected (N,) bool; share (N,) of repeats answered wrong; rechecked (N,) bool: read again.

    held: surely short of the goal, so neither wrong nor rejected nor unsettled. unsettled (N,) bool: a tie, or readings
    that disagree. undefined (N,) bool: NaN or infinite logits that are no rejection, at least once; these are wrong.
    prediction (N,) int64, -1 where there is no answer, and its softmax confidence (N,); of a random system the first
    draw's that says what the verdict says. watched (N,): the softmax of the judge's `watch` class, or 0.
    """

    wrong: Tensor
    held: Tensor
    rejected: Tensor
    share: Tensor
    rechecked: Tensor
    prediction: Tensor
    confidence: Tensor
    watched: Tensor
    undefined: Tensor
    unsettled: Tensor


class Judge:
    """Reads a served network; build one a cell, it keeps the float64 copy once that is needed.

    under: the network below what may reject, as `System.under`; None where nothing may.
    """

    def __init__(
        self, net: nn.Module, *, stochastic: bool, width: int = 256, repeats: int = REPEATS,
        margin: Callable[[Tensor, Tensor], Tensor] = TASK.margin, watch: int | None = None,
        under: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.net, self.stochastic, self.width, self.repeats, self.margin = net, stochastic, width, repeats, margin
        self.watch, self.under = watch, under

    def precisely(self, x: Tensor) -> Tensor | None:
        """Logits (N, K) in float64, of a copy; None where the network cannot be asked so."""
        try:
            return answer(self._double, x.double())
        except (RuntimeError, TypeError, ValueError):
            return None

    @cached_property
    def _double(self) -> nn.Module:
        return copy.deepcopy(self.net).double()

    @float32()
    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        """Answers on x (N, C, H, W) float32; y: labels (N,), or what `margin` compares with, a row a picture.

        Wrong is where margin(logits, y) > 0; `rng` feeds systems that draw noise.
        """
        parts = [self._batch(x[i], y[i], rng[i]) for i in torch.arange(len(x), device=x.device).split(self.width)]
        if not parts:
            none = torch.zeros(0, dtype=torch.bool, device=x.device)
            return Answers(none, none, none, none.float(), none, none.long(), none.float(), none.float(), none, none)
        return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _batch(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        if not self.stochastic:
            return self._once(x, y, rng)
        asked = [self._once(x, y, rng.fold(repeat)) for repeat in range(self.repeats)]
        mean = {name: torch.stack([getattr(a, name) for a in asked]).float().mean(0) for name in AVERAGED}
        never, wrong, held = torch.zeros_like(asked[0].wrong), mean["wrong"] >= 0.5, mean["held"] > 0.5
        agrees = torch.stack([(a.wrong == wrong) & (a.held == held) for a in asked]).float().argmax(0, keepdim=True)
        return asked[0]._replace(
            prediction=torch.stack([a.prediction for a in asked]).gather(0, agrees)[0],
            wrong=wrong, held=held, rejected=mean["rejected"] > 0.5, share=mean["wrong"],
            rechecked=never, confidence=mean["confidence"], watched=mean["watched"], undefined=mean["undefined"] > 0,
            unsettled=never,
        )  # fmt: skip

    def _once(self, x: Tensor, y: Tensor, rng: Rng) -> Answers:
        logits = answer(self.net, x, rng)
        found = self._backed(self.read(logits, y), x, rng)
        again = found.rechecked.nonzero().flatten()
        if self.stochastic or not len(again):
            return found
        margins = [self.margin(finite(logits), y)]
        for reading in range(AGAIN):
            order = rng.fold("order").fold(reading).uniform().argsort()
            margins.append(self.margin(finite(answer(self.net, x[order], rng[order])), y[order])[order.argsort()])
        low, high = torch.stack(margins)[:, again].aminmax(dim=0)
        past, short, prediction = self._witnessed(x[again], y[again]) or (low > 0, high < 0, found.prediction[again])
        found = found._replace(prediction=found.prediction.index_put((again,), prediction))
        wrong = found.wrong.index_put((again,), past & (high >= 0))
        held = found.held.index_put((again,), short & (low <= 0))
        return found._replace(wrong=wrong, held=held, share=wrong.float(), unsettled=found.rechecked & ~wrong & ~held)

    def _backed(self, found: Answers, x: Tensor, rng: Rng) -> Answers:
        """A rejection counts only where the network below answers: a detector in front does not excuse its NaN."""
        if self.under is None or not bool(found.rejected.any()):
            return found
        rows = found.rejected.nonzero().flatten()
        none = TASK.undefined(answer(self.under, x[rows], rng[rows]))
        undefined = found.undefined.index_put((rows,), none)
        wrong, rejected = found.wrong | undefined, found.rejected & ~undefined
        return found._replace(wrong=wrong, rejected=rejected, share=wrong.float(), undefined=undefined)

    def undefined(self, logits: Tensor) -> Tensor:
        """Where (N,) these logits are no answer and no rejection either."""
        none = TASK.undefined(logits)
        return none if self.under is None else none & ~TASK.rejected(logits)

    def read(self, logits: Tensor, y: Tensor) -> Answers:
        """Answers that were given (N, K), read as they are; `rechecked` says which are too near to be read once."""
        undefined = self.undefined(logits)
        rejected = TASK.undefined(logits) & ~undefined
        logits = finite(logits)
        margin = self.margin(logits, y)
        scale = logits.abs().amax(1).clamp_min(1)
        near = (margin.abs() <= NEAR * scale) & ~rejected & ~undefined
        wrong, held = (margin > 0) & ~rejected | undefined, (margin < 0) & ~rejected & ~undefined
        tied = ~wrong & ~held & ~rejected
        p = TASK.probabilities(logits)
        confidence, prediction = p.max(1)
        prediction = torch.where(undefined | rejected, -1, prediction)
        watched = torch.zeros_like(confidence) if self.watch is None else p[:, self.watch]
        return Answers(wrong, held, rejected, wrong.float(), near, prediction, confidence, watched, undefined, tied)

    def _witnessed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Whether float64 sees the goal passed, and whether it falls short of it, each (N,) bool; neither is a tie.

        And the class (N,) that it answers.
        """
        logits = self.precisely(x)
        if logits is None:
            return None
        margin, hair = self.margin(logits, y), 1e-12 * logits.abs().amax(1).clamp_min(1)
        # neither where there is a NaN
        return (margin > hair) | self.undefined(logits), margin < -hair, TASK.predicted(logits)
