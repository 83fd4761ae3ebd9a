"""What the published natural shift sets hold, and how a folder of theirs is read, counted and mapped to classes.

Folders are named by wnid (ImageNet-R, -A, -Sketch) or by class number (ImageNetV2). The 1000 classes are counted in
ascending order of their wnids: a class list in any other order is a permutation, and is refused. What is missing is
named, and judged on only where `partial` asks for it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from robustsuite.benchmarks.datasets.decode import Preparation
from robustsuite.benchmarks.datasets.listing import File, listed
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, Split

Labelled = list[tuple[File, int]]


class Published(NamedTuple):
    """What a set holds as published; indices: the sum of its class indices, where it has a part of the classes."""

    pictures: int
    classes: int
    indices: int | None = None


PUBLISHED = {
    "imagenet_r": Published(30_000, 200, 86_135),
    "imagenet_a": Published(7_500, 200, 102_178),
    "imagenet_sketch": Published(50_889, 1000),
    "imagenetv2": Published(10_000, 1000),
    "imagenet_e": Published(4_352, 373),
    "imagenet_c": Published(50_000, 1000),
    "cue_conflict": Published(1_280, 16),
    "cifar10_c": Published(10_000, 10),
}
"""Pictures of one variant: a corruption at a severity, an edit, one of ImageNetV2's three; of R all renditions."""


def wnids(data: Dataset) -> dict[str, int]:
    """wnid -> class index. Raises BadData where the classes have no wnids, or stand in another order."""
    names = [name.split(" ")[0] for name in data.classes]
    if not all(name[:1] == "n" and name[1:].isdigit() for name in names):
        raise BadData(f"expected classes named by wnid in {data.name}, got {names[0]!r}; sweep the set over imagenet")
    for before, after in pairwise(names):
        if after <= before:
            raise BadData(
                f"expected {data.name}'s wnids in ascending order, got {after} behind {before}: the class list is "
                f"permuted; mend classes_file"
            )
    return {name: i for i, name in enumerate(names)}


def class_folders(root: str, name: str, data: Dataset, *, partial: bool) -> tuple[Labelled, str]:
    """Pictures and class indices of <root>/[folder/]<wnid>/, and 'n of N' where a part was asked for.

    Raises BadData for folders that are no class, for another subset of classes, and for what is missing.
    """
    index = wnids(data)
    found = {Path(folder).name: files for folder, files in listed(Path(root).expanduser()).items()
             if Path(folder).name[:1] == "n" and Path(folder).name[1:].isdigit()}  # fmt: skip
    if not found:
        raise BadData(f"expected <wnid> folders of {name} under {root!r}, got none; check root")
    if unknown := sorted(set(found) - set(index)):
        raise BadData(
            f"expected folders of {data.name}'s classes under {root!r}, got {unknown[0]!r}; check classes_file"
        )
    published = PUBLISHED[name]
    total = sum(index[wnid] for wnid in found)
    if len(found) == published.classes and published.indices not in (None, total):
        raise BadData(
            f"expected {name}'s classes with indices that sum to {published.indices}, got {total} under {root!r}: "
            f"another set's folders, or a permuted class list; check both"
        )
    files = [(file, index[wnid]) for wnid in sorted(found) for file in found[wnid]]
    empty = [f"no picture in {wnid}" for wnid in sorted(found) if not found[wnid]]
    return files, counted(root, name, len(files), len(found), empty, partial=partial)


def numbered_folders(place: Path, data: Dataset, *, partial: bool) -> tuple[Labelled, str]:
    """Pictures and class indices of one ImageNetV2 folder, '0' ... '999' read as numbers, not sorted as words."""
    wnids(data)
    found = {Path(folder).name: files for folder, files in listed(place).items() if Path(folder).name.isdigit()}
    beyond = sorted((name for name in found if int(name) >= data.space.classes), key=int)
    if beyond:
        raise BadData(
            f"expected folders '0' ... '{data.space.classes - 1}' in {place.name}, got {beyond[0]!r}; mend it"
        )
    files = [(file, int(name)) for name in sorted(found, key=int) for file in found[name]]
    full = PUBLISHED["imagenetv2"].classes
    missing = [f"no folder {i}" for i in range(full) if not {str(i), f"{i:04d}"} & set(found)]
    return files, counted(place, "imagenetv2", len(files), len(found), missing, partial=partial)


def counted(where: str | Path, name: str, pictures: int, classes: int, missing: list[str], *, partial: bool) -> str:
    """'' for a whole set, 'n of N pictures' for a part that was asked for; raises BadData for one that was not."""
    published = PUBLISHED[name]
    if not pictures:
        raise BadData(f"expected pictures of {name} in {str(where)!r}, got none; unpack it again")
    if (pictures, classes) == published[:2] and not missing:
        return ""
    if partial:
        return f"{pictures} of {published.pictures} pictures, {classes} of {published.classes} classes"
    more = f" ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})" if missing else ""
    raise BadData(
        f"expected {published.pictures} pictures in {published.classes} classes of {name} under {str(where)!r}, got "
        f"{pictures} in {classes}{more}; write partial: true to judge on what is there"
    )


def preparation(data: Dataset, resize: int | None, interpolation: str) -> Preparation:
    """The usual one: shorter side to `resize` (size / 0.875), centre crop of the data set's size."""
    size = data.space.height
    return Preparation(size, resize or round(size / 0.875), interpolation)


def words(prepare: Preparation) -> str:
    """The preparation as a row says it."""
    if prepare.size is None:
        return "as stored, not resized"
    return f"shorter side to {prepare.resize}, centre crop of {prepare.size}, {prepare.interpolation}"


def named(root: str | None, name: str) -> str:
    """The root; raises BadValue where there is none."""
    if root is None:
        raise BadValue(
            f"expected the folder of {name}, got none; write {{{name}: {{root: FOLDER}}}} (over scenes, and there "
            f"alone, it does without one)"
        )
    return root


def matching(clean: Split, classes: set[int]) -> Split | None:
    """The clean pictures of these classes; None where there are none."""
    rows = torch.isin(clean.y, torch.tensor(sorted(classes))).nonzero().flatten()
    return clean.at(rows) if len(rows) else None
