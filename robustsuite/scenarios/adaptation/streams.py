"""Streams: which pictures stand in one, and the batches in which they come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import card_of
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng, digest
from robustsuite.records.schema import Stream
from robustsuite.scenarios.adaptation.asked import AdaptationThreat
from robustsuite.serve.data import Dataset, ShiftSet, Split, Subjects, Variant

CLEAN = Variant("clean")
"""The last stage: the test pictures as they are."""

STAGE = 1 << 32
"""Ids of the k-th stage start here, k times; within it they are the pictures' own."""

NOISE = 0
"""The seed of the corruptions' own draws: like published files, they are one set of pictures for all seeds."""


@dataclass(frozen=True)
class Stages(Subjects):
    """The pictures of a stream, stage by stage, the clean ones last; `splits` names each stage by its corruption."""

    variants: tuple[Variant, ...] = field(default=(), repr=False)


def stages(judged: Split, data: Dataset, threat: AdaptationThreat) -> Stages:
    """All pictures of a stream. Raises BadValue for a set without variants at this severity, or of other pictures."""
    name, given = threat.shift
    found: ShiftSet = card_of("shift", name).function(judged, data, seed=NOISE, **dict(given))
    variants = tuple(_visited(list(found.variants), threat))
    parts = [_of_judged(found.variants[v], judged) for v in variants]
    if not found.paired or any(not len(part) for part in parts):
        raise BadValue(f"expected a shift set made from the judged pictures, got {name}, which has pictures of its "
                       f"own; the clean ones after it would be others")  # fmt: skip
    if found.reading.head is not None:
        raise BadValue(f"expected a shift set about all classes, got {name}, which is about some; a head cannot be cut")
    return Stages(
        _chained([*parts, judged]), tuple(v.corruption for v in (*variants, CLEAN)),
        torch.arange(len(parts) + 1).repeat_interleave(len(judged)),
        Stream(order="threat", batch=threat.batch), (*variants, CLEAN),
    )  # fmt: skip


def _of_judged(part: Split, judged: Split) -> Split:
    """Of a variant the judged pictures, in their order; an empty one where it lacks some."""
    place = {example: i for i, example in enumerate(part.ids.tolist())}
    rows = [place.get(example, -1) for example in judged.ids.tolist()]
    return part.at(torch.tensor([] if -1 in rows else rows))


def _visited(variants: list[Variant], threat: AdaptationThreat) -> list[Variant]:
    """The variants in the order of the stages: one severity, or up to it and down again."""
    at = [v for v in variants if v.severity in (None, threat.severity)]
    if threat.order == "gradual":
        rising = [*range(1, threat.severity + 1)]
        at = [Variant(name, level) for name, _ in groupby(variants, lambda v: v.corruption)
              for level in (*rising, *rising[-2::-1])]  # fmt: skip
    if not at or not set(at) <= set(variants):
        there = ", ".join(sorted({str(v.severity) for v in variants}))
        raise BadValue(f"expected variants of {threat.shift[0]} at the severities of {threat.name!r} (up to "
                       f"{threat.severity}, {threat.order}), got {there}; write another severity")  # fmt: skip
    return at


def _chained(parts: list[Split]) -> Split:
    """Splits of as many pictures each, one after the other."""
    n = len(parts[0])

    def images(positions: Tensor) -> Tensor:
        found = [parts[int(k)].images(positions[positions // n == k] % n) for k in (positions // n).unique()]
        out = torch.empty(len(positions), *found[0].shape[1:])
        for k, pictures in zip((positions // n).unique(), found, strict=True):
            out[positions // n == k] = pictures
        return out

    sha256 = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    ids = torch.cat([part.ids + k * STAGE for k, part in enumerate(parts)])
    return Split(torch.cat([part.y for part in parts]), images, ids, sha256)


class Batch(NamedTuple):
    """Which pictures are asked at once: positions (B,); anew: of a session that has seen nothing; clean: afterwards."""

    positions: Tensor
    anew: bool
    clean: bool = False


def draws(subjects: Stages, seed: int) -> Rng:
    """A stream a picture, of its corruption, severity and id alone: the same in whatever stream it stands."""
    assert subjects.member is not None
    told = torch.tensor([digest(f"{v.corruption}/{v.severity}") for v in subjects.variants])
    return Rng.of(seed, "adaptation", subjects.examples.ids % STAGE).fold(told[subjects.member])


def batches(subjects: Stages, threat: AdaptationThreat, seed: int) -> tuple[list[Batch], list[Batch]]:
    """The stream's batches in order, and those of the clean pictures, which come last and go on with what stands."""
    assert subjects.member is not None
    keys = draws(subjects, seed).fold("order").uniform(1).flatten()
    shuffled = keys.argsort(stable=True)
    clean = len(subjects.variants) - 1
    *streamed, last = (shuffled[subjects.member[shuffled] == k] for k in range(clean + 1))
    if threat.order == "mixed":
        streamed = [shuffled[subjects.member[shuffled] < clean]]
    if threat.order == "correlated":
        streamed = [
            _correlated(part, subjects.examples.y, threat.dirichlet, seed, k) for k, part in enumerate(streamed)
        ]
    found = list[Batch]()
    for part in streamed:
        first = not found or threat.order == "episodic"
        found += [Batch(rows, first and not i) for i, rows in enumerate(part.split(threat.batch))]
    return found, [Batch(rows, False, True) for rows in last.split(threat.batch)]


def _correlated(positions: Tensor, y: Tensor, dirichlet: float, seed: int, stage: int) -> Tensor:
    """These positions sorted by label; or each class cut into as many slots as there are classes, by drawn shares.

    Gong et al., 2022, arXiv:2208.05117: one slot follows another, classes within it in a drawn order.
    """
    if not dirichlet:
        return positions[y[positions].argsort(stable=True)]
    classes = int(y.max()) + 1
    generator = torch.Generator().manual_seed(int(Rng.of(seed, "dirichlet", torch.tensor([stage])).keys[0]) % STAGE)
    gamma = torch._standard_gamma(torch.full((classes, classes), float(dirichlet)), generator=generator)
    shares = (gamma / gamma.sum(1, keepdim=True).clamp_min(1e-30)).cumsum(1)
    slots = list[list[Tensor]]([] for _ in range(classes))
    for k in range(classes):
        own = positions[y[positions] == k]
        ends = [0, *(shares[k, :-1] * len(own)).long().tolist(), len(own)]
        for slot, start, end in zip(slots, ends, ends[1:], strict=False):
            slot.append(own[start:end])
    return torch.cat([slot[k] for slot in slots for k in torch.randperm(classes, generator=generator).tolist()])
