"""Cue conflicts: the shape of one class with the texture of another, edges and silhouettes (Geirhos et al., 2019).

"ImageNet-trained CNNs are biased towards texture" (https://arxiv.org/abs/1811.12231). A network answers with the one of
sixteen categories whose ImageNet classes are the most probable on average, as the authors' code and model-vs-human
decide; pictures whose two cues agree are left out. Shape bias: answers by shape among those by shape or by texture.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePath

import torch
from torch import Tensor

from robustsuite.benchmarks.datasets.folders import lazy
from robustsuite.benchmarks.datasets.listing import File, listed
from robustsuite.benchmarks.shifts import counterparts
from robustsuite.benchmarks.shifts.layouts import counted, named, preparation, wnids, words
from robustsuite.errors import BadData
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift

CATEGORIES = {
    "airplane": "404", "bear": "294-297", "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145", "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907", "car": "436 511 817", "cat": "281-286", "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268", "elephant": "385-386",
    "keyboard": "508 878", "knife": "499", "oven": "766", "truck": "555 569 656 675 717 734 864 867",
}  # fmt: skip
"""The sixteen categories and their ImageNet classes by index, as published with 16-class-ImageNet."""

FOLDERS = {
    "cue_conflict": ("cue-conflict", "style-transfer-preprocessed-512"), "edges": ("edges",),
    "silhouettes": ("filled-silhouettes",),
}  # fmt: skip
"""Each variant's folder, under either of its names."""


@shift(
    paper="Geirhos et al., 2019, arXiv:1811.12231",
    differs=("over scenes: their own ten kinds, each object with the surface texture of another kind",),
)
def cue_conflict(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """Cue conflicts as <root>/cue-conflict/SHAPE/SHAPEn-TEXTUREm.*, and edges/ and filled-silhouettes/ where they are.

    partial: judge on what is there of the 1,280 pictures. Raises BadData for what is missing or named otherwise.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.conflicts(clean)
    path = Path(named(root, "cue_conflict")).expanduser()
    if len(wnids(data)) != 1000:
        raise BadData(f"expected ImageNet's 1000 classes for cue_conflict, got {data.space.classes} of {data.name}")
    found, prepare = _found(path), preparation(data, resize, interpolation)
    if not found["cue_conflict"]:
        raise BadData(f"expected pictures in {path.name}/cue-conflict/<category>, got none; check root")
    pictures = found["cue_conflict"]
    note = counted(path, "cue_conflict", len(pictures), len({y for _, y in pictures}), [], partial=partial)
    cues = [(file, y, _texture(file)) for file, y in pictures]
    apart = [(file, y, texture) for file, y, texture in cues if texture != y]
    conflict = lazy([(file, y) for file, y, _ in apart], prepare)
    parts = {Variant("cue_conflict"): replace(conflict, texture=torch.tensor([texture for *_, texture in apart]))}
    parts |= {Variant(name): lazy(files, prepare) for name, files in found.items() if name != "cue_conflict" and files}
    return ShiftSet("cue_conflict", parts, False, reading=Reading(members(), words(prepare), note=note, hard=True))


def members() -> Tensor:
    """Which ImageNet classes each category has, (16, 1000) bool."""
    table = torch.zeros(len(CATEGORIES), 1000, dtype=torch.bool)
    for row, runs in enumerate(CATEGORIES.values()):
        for run in runs.split():
            first, _, last = run.partition("-")
            table[row, int(first) : int(last or first) + 1] = True
    return table


def _found(path: Path) -> dict[str, list[tuple[File, int]]]:
    """Pictures and their shape's category, by variant."""
    names, folders = list(CATEGORIES), listed(path)
    return {variant: [(file, names.index(PurePath(folder).name)) for folder, files in sorted(folders.items())
                      if PurePath(folder).parent.name in parents and PurePath(folder).name in names for file in files]
            for variant, parents in FOLDERS.items()}  # fmt: skip


def _texture(file: File) -> int:
    """The category of the texture, as the name says. Raises BadData for a name that does not."""
    stem, names = PurePath(file.name).stem, list(CATEGORIES)
    match = re.fullmatch(r"[a-z]+\d+-([a-z]+)\d+", stem)
    if match is None or match[1] not in names:
        raise BadData(f"expected a name such as cat7-elephant1 in cue-conflict, got {stem!r}; mend it")
    return names.index(match[1])
