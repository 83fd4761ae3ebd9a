"""The corruption shift sets as plugins: made on the fly over any data set, or read in their published layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.decode import Preparation
from robustsuite.benchmarks.datasets.folders import lazy
from robustsuite.benchmarks.shifts import on_disk
from robustsuite.benchmarks.shifts.engine import corrupt
from robustsuite.benchmarks.shifts.layouts import counted, wnids, words
from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA
from robustsuite.errors import BadData, BadValue, UnknownName
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift

AS_STORED = Preparation()
PAPER = "Hendrycks & Dietterich, 2019, arXiv:1903.12261"


@shift(
    paper=PAPER,
    differs=(
        "frost's photographs may not be shipped: its textures are procedural unless `frost_folder` names pictures",
        "made on the fly it draws its own noise: its numbers are close to those of the published files, not equal",
    ),
)
def imagenet_c(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, corruptions: list[str] | str = "benchmark",
    severities: Sequence[int] | int = (1, 2, 3, 4, 5), parameters: str = "auto", jpeg_roundtrip: int | None = None,
    frost_folder: str | None = None, partial: bool = False,
) -> ShiftSet:  # fmt: skip
    """ImageNet-C: fifteen corruptions at five severities, over these pictures, or the published files under `root`.

    corruptions: names, 'benchmark' (the fifteen), 'extra' (the four) or 'all'. parameters: imagenet, tiny_imagenet,
    cifar, or auto by the pictures' height. jpeg_roundtrip: 85 repeats the published files' JPEG saving. partial: judge
    on what is there of the published 50,000 pictures a severity. Raises UnknownName, BadValue; BadData where the
    published layout is not complete.
    """
    names, levels = chosen(corruptions, severities)
    if root is not None:
        found = {v: _published(root, v, data, partial=partial) for v in variants(names, levels)}
        notes = "; ".join(dict.fromkeys(note for _, note in found.values() if note))
        reading = Reading(transform=words(AS_STORED), note=notes, hard=True)
        return ShiftSet("imagenet_c", {v: split for v, (split, _) in found.items()}, False, None, reading)
    size = data.space.height
    fitting = "cifar" if size < 48 else "tiny_imagenet" if size < 96 else "imagenet"
    table = fitting if parameters == "auto" else parameters

    def made(variant: Variant) -> Split:
        facts = f"{clean.sha256}/{variant}/{table}/{seed}/{jpeg_roundtrip}/{frost_folder}"

        def finish(x: Tensor, positions: Tensor) -> Tensor:
            streams = Rng.of(seed, "imagenet_c", clean.ids[positions])
            return corrupt(
                variant.corruption, x, variant.severity or 1, rng=streams, parameters=table,
                jpeg_roundtrip=jpeg_roundtrip, frost_folder=frost_folder,
            )  # fmt: skip

        def images(positions: Tensor) -> Tensor:
            return finish(clean.images(positions), positions)

        digest = hashlib.sha256(facts.encode()).hexdigest()
        return Split(clean.y, images, clean.ids, digest, stages=(clean.images, finish), files=clean.files)

    saved = f"saved as JPEG {jpeg_roundtrip}" if jpeg_roundtrip else "not saved as JPEG"
    reading = Reading(transform=f"made on the fly with the {table} constants, {saved}", hard=True)
    return ShiftSet("imagenet_c", {v: made(v) for v in variants(names, levels)}, reading=reading)


@shift(paper=PAPER)
def cifar10_c(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, corruptions: list[str] | str = "benchmark",
    severities: Sequence[int] | int = (1, 2, 3, 4, 5), partial: bool = False,
) -> ShiftSet:  # fmt: skip
    """CIFAR-10-C as distributed: <root>/<corruption>.npy and labels.npy, 10,000 pictures a severity.

    Row i is CIFAR-10's test picture i, so the set is paired with a clean split read from the original archive.
    partial: judge on arrays of fewer pictures. Raises BadData where a file is missing.
    """
    if root is None:
        raise BadValue("expected the folder of CIFAR-10-C, got none; write {cifar10_c: {root: FOLDER}}")
    names, levels = chosen(corruptions, severities)

    notes: set[str] = set()

    def read(variant: Variant) -> Split:
        pictures, labels = on_disk.cifar10_c(root, variant.corruption, variant.severity or 1)
        notes.add(counted(root, "cifar10_c", len(labels), len(np.unique(labels)), [], partial=partial))
        y = torch.from_numpy(labels.copy())
        facts = hashlib.sha256(f"{Path(root).name}/{variant}".encode() + labels.tobytes()).hexdigest()

        def images(positions: Tensor) -> Tensor:
            rows = torch.from_numpy(pictures[positions.numpy()])
            return rows.permute(0, 3, 1, 2).contiguous().float() / 255

        return Split(y, images, torch.arange(len(y)), facts)

    parts = {v: read(v) for v in variants(names, levels)}
    return ShiftSet("cifar10_c", parts, reading=Reading(transform="as stored", note="; ".join(notes - {""}), hard=True))


def chosen(corruptions: list[str] | str, severities: Sequence[int] | int) -> tuple[list[str], list[int]]:
    """The corruptions and severities a user named, checked."""
    groups = {"benchmark": list(CORRUPTIONS), "extra": list(EXTRA), "all": [*CORRUPTIONS, *EXTRA]}
    listed = [corruptions] if isinstance(corruptions, str) else list(corruptions)
    names = [name for entry in listed for name in groups.get(entry, [entry])]
    for name in names:
        if name not in groups["all"]:
            raise UnknownName("corruption", name, [*groups["all"], *groups])
    levels = [severities] if isinstance(severities, int) else list(severities)
    for level in levels:
        if level not in (1, 2, 3, 4, 5):
            raise BadValue(f"expected severities from 1 to 5, got {level!r}")
    return names, levels


def variants(names: list[str], levels: list[int]) -> list[Variant]:
    """Every corruption at every severity, in order."""
    return [Variant(name, level) for name in names for level in levels]


def _published(root: str, variant: Variant, data: Dataset, *, partial: bool) -> tuple[Split, str]:
    """One folder of the published set and its note; already 224 x 224, so it is read without resizing."""
    files, folders = on_disk.imagenet_c(root, variant.corruption, variant.severity or 1)
    index = wnids(data)
    if unknown := sorted(set(folders) - set(index)):
        raise BadData(
            f"expected folders named by {data.name}'s classes under {root}, got {unknown[0]!r}; sweep it over imagenet"
        )
    where = f"{root}/{variant.corruption}/{variant.severity}"
    note = counted(where, "imagenet_c", len(files), len(set(folders)), [], partial=partial)
    labelled = [(file, index[wnid]) for file, wnid in zip(files, folders, strict=True)]
    return lazy(labelled, AS_STORED), note
