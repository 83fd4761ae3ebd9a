"""Data sets with train, val and test kept apart, and the same pictures under a shift."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustsuite.config.registry import F, card_of, carded, checked_parameters
from robustsuite.errors import BadData, BadValue, brief, loading, quoted
from robustsuite.records.schema import Stream


@dataclass(frozen=True)
class InputSpace:
    """What a classifier takes and how many classes it tells apart; pictures are in [0, 1]."""

    channels: int
    height: int
    width: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width


Read = Callable[[Tensor], Tensor]
Finish = Callable[[Tensor, Tensor], Tensor]

AHEAD = 2
"""Batches read while the one before them is being judged."""


def in_unit(pictures: Tensor) -> Tensor:
    """Pictures held as uint8 (0 ... 255) or float in [0, 1], as float32 in [0, 1]."""
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()


@dataclass(frozen=True)
class Split:
    """Labelled pictures. `images(positions)` -> (B, C, H, W) float32 in [0, 1]; `ids` name the examples for good.

    stages: the same in two steps, read(positions) and finish(x, positions), where the second may be done on another
    device. redrawn: (ids, style) -> those pictures in another manner, where the data set draws its own. augment: (x,
    generator) -> x, what a training does to every batch anew, after its own flips and crops. files: names, if any.
    masks: (ids) -> (B, H, W) in [0, 1], what of a pixel is object. texture: whose texture (N,) contradicts y's shape.
    """

    y: Tensor
    images: Callable[[Tensor], Tensor] = field(repr=False)
    ids: Tensor
    sha256: str
    stages: tuple[Read, Finish] | None = field(default=None, repr=False)
    redrawn: Callable[[Tensor, Any], Tensor] | None = field(default=None, repr=False)
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = field(default=None, repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    masks: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    texture: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, pictures: Tensor, y: Tensor, ids: Tensor | None = None) -> Split:
        """A split held in memory: pictures (N, C, H, W), uint8 (0 ... 255) or float in [0, 1]; y (N,)."""
        if len(pictures) != len(y):
            raise BadData(f"expected as many labels as pictures, got {len(y)} labels and {len(pictures)} pictures")
        y, ids = y.to(torch.int64), torch.arange(len(y)) if ids is None else ids
        digest = hashlib.sha256(pictures.contiguous().numpy().tobytes() + y.numpy().tobytes())
        return cls(y, lambda positions: in_unit(pictures[positions]), ids, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a picture, as the first one has it."""
        return tuple(self.images(torch.arange(1)).shape[1:])

    def at(self, positions: Tensor) -> Split:
        """The examples at these positions (M,), in this order; each keeps its id."""
        images, picked = self.images, positions.to(torch.int64)
        tag = hashlib.sha256(self.sha256.encode() + picked.numpy().tobytes()).hexdigest()
        stages: tuple[Read, Finish] | None = None
        if self.stages is not None:
            read, finish = self.stages
            stages = lambda p: read(picked[p]), lambda x, p: finish(x, picked[p])
        y, ids, texture = self.y[picked], self.ids[picked], None if self.texture is None else self.texture[picked]
        files = tuple(self.files[i] for i in picked.tolist()) if self.files else ()
        return replace(self, y=y, images=lambda p: images(picked[p]), ids=ids, sha256=tag, stages=stages, files=files,
                       texture=texture)  # fmt: skip

    def mapped(self, change: Callable[[Tensor, Tensor], Tensor], what: str) -> Split:
        """The same examples, their pictures changed as they are read: change(x, positions). `what` enters the hash."""
        images, tag = self.images, hashlib.sha256(f"{self.sha256}/{what}".encode()).hexdigest()
        return replace(self, images=lambda p: change(images(p), p), sha256=tag, stages=None, redrawn=None, masks=None)

    def first(self, n: int | None) -> Split:
        """The first n examples; all of them for None. Raises BadValue if there are fewer."""
        if n is None or n == len(self):
            return self
        if not 0 < n <= len(self):
            raise BadValue(f"expected 1 ... {len(self)} examples, got first={n}; the split holds {len(self)}")
        return self.at(torch.arange(n))

    def batches(self, size: int, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(positions, x, y) in order, `size` at a time, x and y on `device`; the next batch is read meanwhile."""
        read, finish = self.stages or (self.images, None)
        parts = torch.arange(len(self)).split(size)
        # a new thread would share its sums with every core, whatever the thread that asks for it was told
        with ThreadPoolExecutor(1, "read", torch.set_num_threads, (torch.get_num_threads(),)) as ahead:
            coming = deque(ahead.submit(read, part) for part in parts[:AHEAD])
            for i, positions in enumerate(parts):
                x = coming.popleft().result().to(device)
                if i + AHEAD < len(parts):
                    coming.append(ahead.submit(read, parts[i + AHEAD]))
                yield positions, x if finish is None else finish(x, positions), self.y[positions].to(device)


@dataclass(frozen=True)
class Dataset:
    """Named splits of one data set. Selection code is handed `val` alone; `test` is only ever judged on.

    spoken: what people call the classes, where `classes` are codes.
    """

    name: str
    space: InputSpace
    classes: tuple[str, ...]
    splits: dict[str, Split] = field(repr=False)
    note: str = ""
    spoken: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """The split of this name; raises BadData where the data set has none."""
        if name not in self.splits:
            raise BadData(f"expected a split that {self.name} has ({', '.join(self.splits)}), got {name!r}; write for "
                          f"example split: {next(iter(self.splits))}")  # fmt: skip
        return self.splits[name]

    def joined(self, *names: str, first: int | None = None) -> Subjects:
        """The first examples of several splits as one, those of the first named under the ids that they have there.

        Raises BadData for a split that is not there, BadValue for more examples than a split has.
        """
        parts = [self.split(name).first(first) for name in names]
        member = torch.cat([torch.full((len(part),), k) for k, part in enumerate(parts)])
        within = torch.cat([torch.arange(len(part)) for part in parts])
        ids = torch.cat([part.ids + k * OTHER_SPLIT for k, part in enumerate(parts)])

        def images(positions: Tensor) -> Tensor:
            x = torch.empty(len(positions), *self.space.shape)
            for k, part in enumerate(parts):
                mine = (member[positions] == k).nonzero().flatten()
                if len(mine):
                    x[mine] = part.images(within[positions[mine]])
            return x

        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
        files = sum((part.files for part in parts), ()) if all(part.files for part in parts) else ()
        return Subjects(Split(torch.cat([part.y for part in parts]), images, ids, digest, files=files), names, member)


OTHER_SPLIT = 1 << 40
"""Ids of the k-th other split of a data set start here, k times: unique over all of it."""


@dataclass(frozen=True)
class Subjects:
    """The examples a cell is about, their ids unique over the data set; stream: where their order is part of a system.

    splits: where they come from; member (N,) int64: which of these each example is of.
    """

    examples: Split
    splits: tuple[str, ...] = ("test",)
    member: Tensor | None = field(default=None, repr=False, compare=False)
    stream: Stream | None = None

    @classmethod
    def none(cls, space: InputSpace) -> Subjects:
        """A cell about no picture at all: a network, a file."""
        return cls(Split.of(torch.zeros(0, *space.shape), torch.zeros(0, dtype=torch.int64)), ())

    def among(self, split: str) -> Tensor:
        """Which examples (N,) bool are of this split."""
        if self.member is None:
            return torch.full((len(self.examples),), self.splits == (split,))
        return self.member == self.splits.index(split)

    def part(self, rows: range) -> Subjects:
        """Those at the positions `rows`; the whole where that is all of them."""
        if len(rows) == len(self.examples):
            return self
        picked = torch.arange(rows.start, rows.stop)
        member = None if self.member is None else self.member[picked]
        return replace(self, examples=self.examples.at(picked), member=member)

    def on(self, examples: Split) -> Subjects:
        """The same about other examples of the same splits, in any number."""
        return replace(self, examples=examples, member=None)


class Variant(NamedTuple):
    """One member of a shift set: a corruption at a severity, or a named edit without one."""

    corruption: str
    severity: int | None = None


CONTROL = "unshifted"
"""The corruption's name in the cell of a shift set's own clean pictures."""


@dataclass(frozen=True)
class Reading:
    """How a shift set's pictures are put to a model; every row says it.

    head: the classes (K,) the logits are cut to before the argmax, None for all; or categories (G, classes) bool, each
    as probable as its classes are on average. transform: from file to pixels.
    watch: a class whose probability is kept for every picture. note: what a reader must know, as n of N.
    hard: made or chosen so that models may fail: answers at chance are then no sign of a wrong class order.
    """

    head: Tensor | None = field(default=None, compare=False)
    transform: str = ""
    watch: int | None = None
    note: str = ""
    hard: bool = False

    def named(self, classes: Tensor) -> Tensor:
        """Answers (N,) behind the head as classes of the data set, or as categories; -1, no answer, stays."""
        head = None if self.head is None or self.head.ndim == 2 else self.head
        return classes if head is None else torch.where(classes < 0, -1, head[classes])

    def head_words(self, classes: int) -> str:
        """'all 1000 classes', or '200 of 1000 classes' with the sum of their indices."""
        if self.head is None:
            return f"all {classes} classes"
        if self.head.ndim == 2:
            return f"{len(self.head)} categories of {int(self.head.sum())} classes, by their mean probability"
        return f"{len(self.head)} of {classes} classes, indices sum to {int(self.head.sum())}"


@dataclass(frozen=True)
class ShiftSet:
    """Shifted test sets, one a variant. `paired`: same ids as the clean pictures, so that tests can pair them.

    clean: what the shifted pictures are compared with, where that is not simply the clean split: it gets a cell of its
    own under the same reading.
    """

    name: str
    variants: dict[Variant, Split] = field(repr=False)
    paired: bool = True
    clean: Split | None = field(default=None, repr=False)
    reading: Reading = field(default_factory=Reading)


def source(**facts: Any) -> Callable[[F], F]:
    """Register a data set: a function (**parameters) -> Dataset."""
    return carded("data", **facts)


def shift(**facts: Any) -> Callable[[F], F]:
    """Register a shift set: a function (clean: Split, data: Dataset, *, seed, **parameters) -> ShiftSet."""
    return carded("shift", **facts)


def parse_spec(spec: object, kind: str) -> tuple[str, dict[str, Any]]:
    """A yaml entry 'name' or {name: {parameter: value}} as (name, parameters)."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, dict) and len(spec) == 1:
        ((name, given),) = spec.items()
        if given is None or isinstance(given, dict):
            return str(name), dict(given or {})
    raise BadValue(f"expected a name for the {kind}, got {quoted(spec)}; write NAME or {{NAME: {{parameter: value}}}}")


def parse_data(spec: object) -> tuple[str, dict[str, Any]]:
    """A data set's entry as (name, parameters): as `parse_spec` reads it, or 'NAME:ROOT' where it has a root."""
    if isinstance(spec, str) and ":" in spec:
        name, _, root = spec.partition(":")
        if "root" not in card_of("data", name).parameters:
            raise BadValue(f"expected a data set that is read from a folder, got {spec!r}; {name} has no folder")
        return name, {"root": root}
    if isinstance(spec, str) and ("/" in spec or "." in spec):
        where = brief(spec)
        raise BadValue(f"expected a data set, got the path {where!r}; write imagefolder:{where} or cifar10:{where}")
    return parse_spec(spec, "data set")


def load_data(spec: object) -> tuple[Dataset, Split]:
    """A data set and the split to judge on: 'scenes', 'imagefolder:ROOT' or {cifar10: {root: ..., first: 512}}.

    A `Dataset` is itself, judged on its test split. Raises UnknownName, BadValue for parameters the source does not
    have, BadData for what it cannot read.
    """
    if isinstance(spec, Dataset):
        return spec, spec.split("test")
    name, given = parse_data(spec)
    split, first = given.pop("split", "test"), given.pop("first", None)
    if first is not None and (not isinstance(first, int) or isinstance(first, bool)):
        raise BadValue(f"expected first of {name} as a number of examples, got {first!r}; write first: 100")
    if not isinstance(split, str):
        raise BadValue(f"expected split of {name} as a word, got {split!r}; write split: test")
    card = card_of("data", name)
    given = checked_parameters(card, given)
    with loading(f"the data set {name}", BadData):
        loaded: Dataset = card.function(**given)
    judged = loaded.split(split).first(first)
    if first is None and split == "test":
        return loaded, judged
    return replace(loaded, splits={**loaded.splits, split: judged}), judged
