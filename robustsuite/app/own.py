"""A user's own pictures as a data set: arrays, tensors, a torch Dataset or DataLoader, a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from robustsuite.app.given import class_numbers, numbers, pixels
from robustsuite.errors import BadData, BadValue
from robustsuite.records.labels import LONGEST, sayable
from robustsuite.serve.data import Dataset, InputSpace, Split

HELD = 4 << 30
"""Bytes of pictures that are gathered into memory."""

PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""PIL's modes of 8 bits a value."""

PICTURES = ("image", "img", "picture")
"""Columns of pictures where nothing says so."""


class Gathered(NamedTuple):
    """Pictures and labels as they came, and the names of the classes where they are known."""

    pictures: Any
    labels: Any
    names: Sequence[str] | None = None


class Data:
    """Own pictures as a data set."""

    @staticmethod
    def of(
        pictures: Any, labels: Any = None, *, classes: int | Sequence[str] | None = None, name: str = "data"
    ) -> Dataset:
        """A data set with a test split, for `rs.run`, as an entry of `data`, and for a pytest check.

        pictures: tensors or arrays (N, C, H, W), (N, H, W, C) or (N, H, W), uint8 or floats in [0, 1], with labels
        (N,); or, with labels inside, a torch Dataset of (picture, label), a DataLoader that does not shuffle, a Hugging
        Face dataset with a column of pictures and one of labels. classes: names, or how many; what the data says, or
        the greatest label and one, if None. Raises BadData with the range or shape that does not fit.
        """
        if not (isinstance(name, str) and sayable(name)):
            raise BadValue(f"expected a name of 1 to {LONGEST} plain characters for the data, got {name!r}; change it")
        found = _gathered(pictures, labels)
        x = pixels(found.pictures).clone()  # what is written to the user's own later is no part of it
        names = _names(found.names if classes is None else classes)
        y = class_numbers(found.labels, len(x), len(names) or None)
        names = names or _names(int(y.max()) + 1)
        channels, height, width = x.shape[1:]
        return Dataset(name, InputSpace(channels, height, width, len(names)), names, {"test": Split.of(x, y)})


def _names(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """The classes by name, () where they are not known; raises BadValue for fewer than two."""
    if classes is None:
        return ()
    if isinstance(classes, str | bool) or not isinstance(classes, int | Sequence):
        raise BadValue(f"expected names of classes or how many, got {classes!r}; write classes=['cat', 'dog']")
    names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    if len(names) < 2:
        raise BadValue(f"expected two classes or more, got {len(names)}; write classes=10, or their names")
    return names


def _gathered(pictures: Any, labels: Any) -> Gathered:
    """Pictures and labels, whatever holds them."""
    if isinstance(pictures, dict):
        raise BadData(f"expected one split, got {', '.join(map(str, pictures))}; hand one of them")
    arrays = isinstance(pictures, Tensor | np.ndarray)
    if labels is not None:
        if not arrays and not isinstance(pictures, list | tuple):
            raise BadData(f"expected arrays beside labels, got {type(pictures).__name__}; hand it alone, or arrays")
        return Gathered(pictures if arrays else _stacked(pictures), labels)
    if arrays:
        raise BadData("expected labels beside the pictures, got an array alone; write Data.of(pictures, labels)")
    sized = hasattr(pictures, "__len__") and (hasattr(pictures, "__getitem__") or isinstance(pictures, DataLoader))
    if not sized or isinstance(getattr(pictures, "dataset", pictures), IterableDataset):
        raise BadData(f"expected data of a known length, got {type(pictures).__name__}; take a part of it as arrays")
    if hasattr(pictures, "column_names"):
        return _columns(pictures)
    if isinstance(pictures, DataLoader):
        return _loaded(pictures)
    names = getattr(pictures, "classes", None)
    pairs = (_pair(pictures[i], i) for i in range(len(pictures)))
    return _split(pairs, names if isinstance(names, list | tuple) else None)


def _columns(data: Any) -> Gathered:
    """A Hugging Face dataset: its column of pictures and its column of labels."""
    features = dict(getattr(data, "features", None) or {})
    kinds = {column: type(features.get(column)).__name__ for column in data.column_names}
    images = [c for c, kind in kinds.items() if kind == "Image"] or [
        c for c in kinds if c in ("image", "img", "picture")
    ]
    labels = [c for c in kinds if c == "label"] or [c for c, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [c for c in kinds if c == "labels"]
    if len(images) != 1 or len(labels) != 1:
        raise BadData(
            f"expected a column of pictures and one of labels, got {', '.join(kinds)}; rename them image and label"
        )
    names = getattr(features.get(labels[0]), "names", None)
    return _split(((row[images[0]], row[labels[0]]) for row in data), names)


def _loaded(loader: DataLoader[Any]) -> Gathered:
    """What a loader gives, batch by batch; in another order it would be another data set."""
    if isinstance(loader.sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        raise BadData("expected a DataLoader in a fixed order, got one that shuffles; write shuffle=False")
    batches = (_pair(batch, i) for i, batch in enumerate(loader))
    return _split((one for x, y in batches for one in zip(x, y, strict=True)), None)


def _pair(item: Any, i: int) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise BadData(f"expected pairs (picture, label), got {type(item).__name__} at {i}; give the Dataset that form")
    return item[0], item[1]


def _split(pairs: Iterable[tuple[Any, Any]], names: Sequence[str] | None) -> Gathered:
    labels: list[Any] = []

    def pictures() -> Iterator[Any]:
        for picture, label in pairs:
            labels.append(label)
            yield picture

    stacked = _stacked(pictures())
    found = [numbers(label, "labels")[0].numpy() for label in labels]
    if len({label.shape for label in found}) > 1:
        raise BadData("expected one class number a picture, got labels of several shapes; choose one of each")
    return Gathered(stacked, np.stack(found), names)


def _stacked(pictures: Iterable[Any]) -> Tensor:
    """One tensor of pictures of one size and kind; raises BadData for others, and for more than is held in memory."""
    found, size = list[Tensor](), 0
    for i, picture in enumerate(pictures):
        one = _array(picture)
        if found and (one.shape, one.dtype) != (found[0].shape, found[0].dtype):
            raise BadData(
                f"expected pictures of one size and kind, got {tuple(found[0].shape)} {found[0].dtype} and, in number "
                f"{i}, {tuple(one.shape)} {one.dtype}; resize or convert them alike"
            )
        size += one.numel() * one.element_size()
        if size > HELD:
            raise BadData(
                f"expected pictures that fit {HELD >> 30} GiB of memory, got more from number {i} on; take fewer, or "
                f"write them to a folder for imagefolder"
            )
        found.append(one)
    if not found:
        raise BadData("expected one picture or more, got none; is the data set empty?")
    return torch.stack(found)


def _array(picture: Any) -> Tensor:
    if hasattr(picture, "mode") and hasattr(picture, "convert"):
        if picture.mode not in PLAIN:
            raise BadData(f"expected pictures of 8 bits a value, got PIL's mode {picture.mode}; hand floats in [0, 1]")
        picture = picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")
    return numbers(picture, "pictures")[0]
