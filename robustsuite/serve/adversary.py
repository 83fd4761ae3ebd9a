"""What an adversary brings along: pictures and networks of its own, and what it makes of a training set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard, identity
from robustsuite.config.threats import Access, Threat
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import dumped
from robustsuite.serve.data import OTHER_SPLIT, Dataset, Split, Subjects


@dataclass(frozen=True)
class Aux:
    """What an adversary granted AUX_DATA owns: labelled pictures the system was not judged on, and a way to nets.

    net: (a model spec, defenses as in a sweep ..., draw=0) -> a network of the same input space, trained by the
    adversary; each draw is another training.
    """

    pictures: Split
    net: Callable[..., nn.Module] = field(repr=False)


Trigger = Callable[[Tensor, Tensor, Rng], Tensor]
"""(pictures (N, C, H, W) in [0, 1], their ids (N,), one stream a picture) -> triggered pictures in [0, 1]."""


class Poisoned(NamedTuple):
    """A training set the adversary has touched.

    train: what the victim trains on; indices (M,): the positions poisoned; trigger: what makes the victim answer the
    target at test time, None where there is none; source: the only class it is meant for, if so; covers: positions
    changed too whose labels stay, so that the trigger alone is not enough.
    """

    train: Split
    indices: Tensor
    trigger: Trigger | None = None
    source: int | None = None
    covers: Tensor = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Poisoner:
    """A poisoning attack with its parameters, as the lifecycle applies it before anything is trained."""

    card: AttackCard
    given: tuple[tuple[str, Any], ...]
    threat: Threat

    def identity(self) -> str:
        """What tells this poison from any other."""
        asked = self.threat.facts()
        return json.dumps([identity(self.card, dict(self.given)), dumped(asked.budget), dumped(asked.goal)])

    @property
    def watched(self) -> bool:
        """Whether every epoch of the victim's training is looked at: what spoils training itself has no target."""
        return self.threat.target is None

    def __call__(self, train: Split, seed: int, aux: Callable[[], Aux]) -> Poisoned:
        """The poisoned set. Raises BadValue where another set of examples is changed than it says or the rate allows.

        Covers come on top of the rate, as in the papers; their labels may not change.
        """
        rate = self.threat.poison
        if rate is None:
            raise ValueError(f"expected a poison rate in the threat {self.threat.name!r}, got none")
        handed: dict[str, Any] = {"aux": aux()} if Access.AUX_DATA in self.card.needs else {}
        if self.threat.target is not None:
            handed["target"] = self.threat.target
        rng = Rng.of(seed, f"poison/{self.card.name}", train.ids)
        own = replace(train, y=train.y.clone(), ids=train.ids.clone())  # what is compared with is nobody's to write to
        found: Poisoned = self.card.function(own, rate, rng=rng, **handed, **dict(self.given))
        most, got = rate.most(len(train)), len(found.indices.unique())
        if got > most:
            name = self.card.name
            raise BadValue(f"expected at most {most} poisoned examples from {name}, got {got}; lower its rate")
        named = torch.isin(torch.arange(len(train)), torch.cat([found.indices, found.covers]))
        if secret := int((changed(train, found.train) & ~named).sum()):
            raise BadValue(f"expected {self.card.name} to name every example it changes, got {secret} more; mend it")
        if not torch.equal(found.train.y[found.covers], train.y[found.covers]):
            raise BadValue(f"expected covers of {self.card.name} with their own labels, got others; mend it")
        return found


@dataclass(frozen=True)
class Membership:
    """Which examples of a pool a network is trained on, as the lifecycle cuts its train split before anything else.

    pool: so many of the train split, drawn once for every seed; None for all. The victim has each by a fair coin of its
    own, which an audit of one training rests on. models, model: of the adversary's own networks number `model` of
    `models`, where each example is in exactly half; these coins are others than the victim's, so that no count tells.
    """

    pool: int | None
    seed: int
    models: int = 0
    model: int = 0

    def identity(self) -> str:
        """What tells this half from any other, besides the train split."""
        return f"membership/{self}"

    def drawn(self, train: Split, n: int | None) -> Tensor:
        """The positions (n,) of the first n of the pool, in order. Raises BadValue where the split has fewer."""
        n = len(train) if n is None else n
        if n > len(train):
            raise BadValue(f"expected a pool of at most {len(train)} training examples, got {n}; lower it")
        order = Rng.of(0, "membership/pool", train.ids).uniform(1).flatten().argsort(stable=True)
        return order[:n].sort().values

    def subjects(self, data: Dataset, n: int | None) -> Subjects:
        """n of the pool to ask about, all of it for None, under ids that are unique over the data set."""
        train = data.split("train")
        split = train.at(self.drawn(train, self.pool if n is None else n))
        return Subjects(replace(split, ids=split.ids + OTHER_SPLIT), ("train",))

    def inside(self, ids: Tensor) -> Tensor:
        """Which examples (N,) of these ids it is trained on; of several networks `each` knows."""
        if self.models:
            return self.each(ids)[self.model]
        return Rng.of(self.seed, "membership/victim", ids % OTHER_SPLIT).uniform(1).flatten() < 0.5

    def each(self, ids: Tensor) -> Tensor:
        """Which examples each of the adversary's networks is trained on: (models, N) bool."""
        coins = Rng.of(self.seed, "membership/shadows", ids % OTHER_SPLIT).uniform(self.models)
        return (coins.argsort(dim=1, stable=True).argsort(dim=1) < self.models // 2).T

    def __call__(self, train: Split) -> Split:
        """What it is trained on."""
        pool = train.at(self.drawn(train, self.pool))
        return pool.at(self.inside(pool.ids).nonzero().flatten())


def overlay(split: Split, positions: Tensor, pictures: Tensor, y: Tensor) -> Split:
    """`split` with the examples at `positions` (M,) replaced by pictures (M, C, H, W), kept in 8 bits, and labels (M,).

    Ids stay; the hash is of what went in.
    """
    place = torch.full((len(split),), -1)
    place[positions] = torch.arange(len(positions))
    stored = (pictures.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    labels = split.y.clone()
    labels[positions] = y.to(labels)
    base = split.images

    def images(asked: Tensor) -> Tensor:
        x, own = base(asked), place[asked]
        hit = (own >= 0).nonzero().flatten()
        if len(hit):
            x = x.clone()
            x[hit] = stored[own[hit]].to(x) / 255
        return x

    facts = split.sha256.encode() + positions.numpy().tobytes() + stored.numpy().tobytes() + labels.numpy().tobytes()
    return Split(labels, images, split.ids, hashlib.sha256(facts).hexdigest(), files=split.files)


def changed(before: Split, after: Split, size: int = 2048) -> Tensor:
    """Which examples (N,) differ in label or, by more than half a grey level, in any pixel."""
    if len(before) != len(after):
        raise BadValue(f"expected {len(before)} training examples after poisoning, got {len(after)}; keep their number")
    parts = [
        ((after.images(i) - before.images(i)).abs() > 0.5 / 255).flatten(1).any(1) | (before.y[i] != after.y[i])
        for i in torch.arange(len(before)).split(size)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def chosen(rng: Rng, candidates: Tensor, count: int) -> Tensor:
    """`count` of the positions `candidates` (M,), drawn without replacement from their own streams, sorted.

    Raises BadValue where there are fewer.
    """
    if count > len(candidates):
        raise BadValue(f"expected {count} examples that may be poisoned, got {len(candidates)}; lower the rate")
    order = rng[candidates].fold("chosen").uniform(1).flatten().argsort(stable=True)
    return candidates[order[:count]].sort().values
