"""What membership inference reads from answers: signals of an example, views of a picture, shadows' answers by side.

Larger always says: rather a member. Everything is computed in float64, from logits shifted by their maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.errors import BadValue
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle

LEAST = 1e-45
"""Added inside a logarithm of a probability, as the authors of LiRA do: the smallest float32 above 0."""


@dataclass(frozen=True)
class Shadows:
    """Networks of the adversary's own, trained as the victim is on halves of the same pool.

    inside (M, N): which examples each was trained on, exactly half of the M for each example. answers: pictures
    (B, C, H, W) -> logits (M, B, K). population: pictures that neither they nor the victim were trained on.
    """

    inside: Tensor
    answers: Callable[[Tensor], Tensor] = field(repr=False)
    population: Split


def asked(model: Oracle, x: Tensor) -> Tensor:
    """Logits (N, K) float64 of pictures (N, C, H, W), an oracle's batch at a time; a rejection counts as no opinion."""
    rows = torch.arange(len(x), device=x.device)
    parts = [model[i](x[i]) for i in rows.split(model.width)]
    return torch.cat(parts).double().nan_to_num(nan=0.0)


def log_softmax(logits: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """log p of the label: logits (..., N, K), y (N,) -> (..., N)."""
    return _of_label((logits.double() / temperature).log_softmax(-1), y)


def scaled_logit(logits: Tensor, y: Tensor) -> Tensor:
    """log p_y - log of the wrong classes' probabilities in sum, never 1 - p_y (Carlini et al., 2022)."""
    p = logits.double().softmax(-1)
    right = _of_label(p, y)
    wrong = p.masked_fill(_one_hot(p, y), 0).sum(-1)
    return (right + LEAST).log() - (wrong + LEAST).log()


def _entropy(logits: Tensor, y: Tensor) -> Tensor:
    p = logits.double().softmax(-1)
    return (p * (p + LEAST).log()).sum(-1)


def _modified_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(1 - p_y) log p_y + sum over wrong j of p_j log(1 - p_j) (Song & Mittal, 2021), the negative of theirs."""
    p = logits.double().softmax(-1)
    rest = p.masked_fill(_one_hot(p, y), 0)
    missing = (p.sum(-1, keepdim=True) - p).clamp_min(0)
    own = _of_label(missing, y) * (_of_label(p, y) + LEAST).log()
    return own + (rest * (missing + LEAST).log()).sum(-1)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    p = logits.double().softmax(-1)
    return _of_label(p, y) - p.masked_fill(_one_hot(p, y), -1).amax(-1)


SIGNALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": log_softmax,
    "confidence": lambda logits, y: log_softmax(logits, y).exp(),
    "scaled_logit": scaled_logit,
    "margin": _margin,
    "entropy": _entropy,
    "modified_entropy": _modified_entropy,
    "correctness": lambda logits, y: (logits.argmax(-1) == y).double(),
}
"""(logits (N, K), y (N,)) -> (N,): the loss negated, the probability of the label, and so on."""


def _of_label(values: Tensor, y: Tensor) -> Tensor:
    index = y.expand(values.shape[:-1])[..., None]
    return values.gather(-1, index).squeeze(-1)


def _one_hot(values: Tensor, y: Tensor) -> Tensor:
    return functional.one_hot(y, values.shape[-1]).bool().expand(values.shape)


def views(x: Tensor, count: int) -> list[Tensor]:
    """The first `count` of 18 views of pictures (N, C, H, W): as it is and mirrored, then both moved by a pixel.

    What a shift lets in is reflected. Raises BadValue for another count.
    """
    if not 1 <= count <= 2 * len(MOVES):
        raise BadValue(f"expected 1 to {2 * len(MOVES)} views, got {count!r}; 2 are the picture and its mirror image")
    h, w = x.shape[2:]
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    moved = (padded[:, :, 1 + i : 1 + i + h, 1 + j : 1 + j + w] for i, j in MOVES)
    return [view for one in moved for view in (one, one.flip(3))][:count]


MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Rows and columns that a view is moved by."""


def sides(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Shadows' values (M, N) of each example, those of the shadows trained on it (M / 2, N) and the others'.

    Raises BadValue where an example is in more or fewer than half.
    """
    half = len(inside) // 2
    if not half or bool((inside.sum(0) != half).any()) or 2 * half != len(inside):
        raise BadValue(f"expected each example in half of an even number of shadows, got {len(inside)} shadows; draw "
                       f"them so")  # fmt: skip
    order = (~inside).to(torch.int8).argsort(dim=0, stable=True)
    sorted_ = values.gather(0, order)
    return sorted_[:half], sorted_[half:]


def by_side(
    model: Oracle, x: Tensor, y: Tensor, shadows: Shadows, count: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each of `count` views the scaled logits of the labels y (N,): the system's (N,), those of the shadows trained
    on an example (M / 2, N), and the others'. Raises BadValue as `views` and `sides` do.
    """
    for view in views(x, count):
        phi, theirs = scaled_logit(asked(model, view), y), scaled_logit(shadows.answers(view), y)
        yield phi, *sides(theirs, shadows.inside)


def middle(values: Tensor) -> Tensor:
    """The median over the first axis, of an even number the mean of the two in the middle."""
    ordered, n = values.sort(0).values, len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
