"""The thief's side: a victim that answers and counts, and what a thief has besides the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard, carded
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Training, ready
from robustsuite.serve.oracle import Desk
from robustsuite.serve.task import TASK
from robustsuite.serve.training import Recipe, fitted, half_cosine, untrained

PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the queries after which the curve is read."""

EPOCHS, LR, BATCH, STEPS = 60, 0.05, 64, 300
"""How a clone is trained where nothing else is said, and a stranger: epochs, first rate, batch, steps at the least."""

ALL = 1e9
"""Forwards of a card's cost that stand for all the queries that a threat allows."""

WATCHED = 10_000
"""Queries that a detector is shown, from the first on."""


class Victim(NamedTuple):
    """What a thief can do to the system: ask.

    ask: pictures (M, C, H, W) in [0, 1] -> what is answered (M, K): probabilities, or of labels alone a 1 at the class;
    where there is no answer, 1/K for each. Raises QueriesSpent before a batch is asked that goes beyond the limit.
    left: queries left. hard: whether classes alone are answered.
    """

    ask: Callable[[Tensor], Tensor]
    left: Callable[[], int]
    hard: bool


@dataclass
class Watcher:
    """What was asked, in order, as far as a detector is shown it: pictures and the classes that were answered."""

    pictures: list[Tensor] = field(default_factory=list)
    classes: list[Tensor] = field(default_factory=list)
    seen: int = 0

    def __call__(self, x: Tensor, answers: Tensor) -> None:
        """Remember pictures (M, C, H, W) and what was answered to them (M, K)."""
        most = WATCHED - self.seen
        if most > 0:
            self.pictures.append(x[:most].detach().cpu().clone())
            self.classes.append(answers[:most].argmax(1).cpu())
            self.seen += len(self.pictures[-1])

    def stream(self) -> tuple[Tensor, Tensor]:
        """Pictures (N, C, H, W) and classes (N,)."""
        if not self.pictures:
            return torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.int64)
        return torch.cat(self.pictures), torch.cat(self.classes)


def victim(desk: Desk, watcher: Watcher, classes: int) -> Victim:
    """The victim behind a desk that limits and counts, with a stream for each query it allows."""
    oracle, hard, most = desk.oracle(), Access.SCORES not in desk.access, len(desk.rng)
    device = desk.rng.keys.device

    def answered(x: Tensor) -> Tensor:
        asked = desk.counts.totals()[0]
        rows = torch.arange(asked, asked + len(x), device=device)
        if hard:
            said = oracle[rows].labels(x)
            found, silent = torch.eye(classes, device=device)[said.clamp(min=0)], said < 0
        else:
            logits = oracle[rows](x)
            found, silent = TASK.probabilities(logits), TASK.undefined(logits)
        found = torch.where(silent[:, None], 1 / classes, found)
        watcher(x, found)
        return found

    def ask(x: Tensor) -> Tensor:
        desk.allows(len(x))  # all of what is sent is held to the limit before its first part is asked
        parts = [answered(part) for part in x.detach().to(device).split(desk.width) if len(part)]
        return torch.cat(parts) if parts else torch.zeros(0, classes, device=device)

    return Victim(ask, lambda: most - desk.counts.totals()[0], hard)


@dataclass(frozen=True)
class Thief:
    """What a thief has besides the answers.

    fresh: draw -> the clone's architecture with freshly drawn weights. pool: pictures of its own, None without
    aux_data. marks: rising numbers of queries after which the curve is read; the last is the limit.
    """

    fresh: Callable[[int], nn.Module] = field(repr=False)
    pool: Split | None
    space: InputSpace
    marks: tuple[int, ...]
    seed: int = 0
    device: str = "cpu"

    def order(self) -> Tensor:
        """The positions of the pool in a drawn order, the same at every budget: fewer queries are the first of more."""
        return torch.randperm(len(self.pool or ()), generator=torch.Generator().manual_seed(self.seed))

    def learnt(self, x: Tensor, answers: Tensor, epochs: int = EPOCHS, lr: float = LR) -> nn.Module:
        """A clone trained on pictures (M, C, H, W) and answers (M, K) by cross-entropy with the answers as they are.

        SGD in batches of BATCH, lr the first of a half cosine, for STEPS steps at the least: few queries are no reason
        to train less. The last epoch counts: nothing is chosen by anybody's labels. Of no queries it is the fresh net.
        """
        net = self.fresh(0)
        if not len(x):
            return ready(net, self.device)
        epochs = max(epochs, -(-STEPS // max(1, len(x) // BATCH)))
        recipe = Recipe(epochs, half_cosine(lr, epochs), batch=BATCH)
        split = Split.of(x.detach().cpu(), torch.zeros(len(x), dtype=torch.int64))
        soft = replace(split, y=answers.detach().cpu())
        return fitted(net, Training(soft, soft, self.seed, self.device), recipe)

    def curve(self, x: Tensor, answers: Tensor, epochs: int, lr: float) -> Stolen:
        """A clone from the first queries at each mark that was reached, and one from all that were asked."""
        at = sorted({min(mark, len(x)) for mark in self.marks})
        return Stolen(tuple((n, self.learnt(x[:n], answers[:n], epochs, lr)) for n in at))


class Stolen(NamedTuple):
    """Clones, each with the queries it took, rising; the last is what the thief ends with."""

    clones: tuple[tuple[int, nn.Module], ...]


class Attack(Protocol):
    """A victim to ask, and what the thief has besides -> clones."""

    def __call__(self, victim: Victim, own: Thief) -> Stolen: ...


A = TypeVar("A", bound=Callable[..., Stolen])


def attack(**facts: Any) -> Callable[[A], A]:
    """Register an extraction. needs: Access.LABELS, with AUX_DATA where it asks about pictures of its own."""
    return carded("attack", "extraction", **facts)


def fresh_from(net: nn.Module, seed: int) -> Callable[[int], nn.Module]:
    """draw -> a copy of the network with weights drawn anew."""
    return lambda draw: untrained(net, seed + draw)


def marks(asks: int) -> tuple[int, ...]:
    """After how many of so many queries the curve is read."""
    return tuple(sorted({max(1, int(part * asks)) for part in PARTS}))


def checked(stolen: object, asked: int, own: Thief, card: AttackCard) -> Stolen:
    """What the attack returned, ready to be judged; raises BadValue for what are no clones of rising cost."""
    clones = stolen.clones if isinstance(stolen, Stolen) else ()
    spent = [n for n, _ in clones]
    if not clones or spent != sorted(set(spent)) or spent[-1] > asked:
        raise BadValue(f"expected clones of rising queries, at most the {asked} asked, from {card.name}, got {spent}; "
                       f"return Stolen")  # fmt: skip
    blank = torch.full((2, *own.space.shape), 0.5, device=own.device)
    for _, net in clones:
        with torch.no_grad():
            TASK.checked(ready(net, own.device)(blank), own.space, f"the clone of {card.name}")
    return stolen  # type: ignore[return-value]
