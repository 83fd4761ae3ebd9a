"""Natural shifts in their authors' layouts: ImageNet-R, ImageNet-A, ImageNet-Sketch and the three ImageNetV2.

Without a `root` and over `scenes`, each has an offline counterpart that is scored by the same code.
"""

from __future__ import annotations

from pathlib import Path

import torch

from robustsuite.benchmarks.datasets.folders import lazy
from robustsuite.benchmarks.shifts import counterparts
from robustsuite.benchmarks.shifts.layouts import (
    Labelled,
    class_folders,
    matching,
    named,
    numbered_folders,
    preparation,
    words,
)
from robustsuite.errors import BadData
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant, shift

VERSIONS = ("matched-frequency", "threshold0.7", "top-images")


@shift(
    paper="Hendrycks et al., 2021, The many faces of robustness, arXiv:2006.16241",
    differs=("over scenes: the test pictures of eight kinds drawn as cartoon, sketch, painting, mosaic, silhouette",),
)
def imagenet_r(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """ImageNet-R as <root>/<wnid>/<rendition>_*.jpg, one variant a rendition, the head cut to its 200 classes.

    partial: judge on what is there of the 30,000 pictures. Raises BadData for what is missing or mapped wrongly.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.renditions(clean)
    files, note = class_folders(named(root, "imagenet_r"), "imagenet_r", data, partial=partial)
    prepare = preparation(data, resize, interpolation)
    kinds = [Path(file.name).name.split("_")[0] for file, _ in files]
    whole = lazy(files, prepare)
    parts = {
        Variant(kind): whole.at(torch.tensor([i for i, k in enumerate(kinds) if k == kind]))
        for kind in sorted(set(kinds))
    }
    return _headed("imagenet_r", parts, files, clean, Reading(transform=words(prepare), note=note))


@shift(
    paper="Hendrycks et al., 2021, Natural adversarial examples, arXiv:1907.07174",
    differs=(
        "over scenes: pictures of eight kinds that no split holds and that a fixed reference, ridge regression on "
        "random patches (Coates et al., 2011) of 1000 train pictures, gets wrong; the first of them by their ids",
    ),
)
def imagenet_a(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """ImageNet-A as <root>/<wnid>/*.jpg: pictures a ResNet-50 got wrong, the head cut to its 200 classes.

    partial: judge on what is there of the 7,500 pictures. Raises BadData for what is missing or mapped wrongly.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.natural_errors(clean, data)
    files, note = class_folders(named(root, "imagenet_a"), "imagenet_a", data, partial=partial)
    prepare = preparation(data, resize, interpolation)
    reading = Reading(transform=words(prepare), note=note, hard=True)
    return _headed("imagenet_a", {Variant("natural errors"): lazy(files, prepare)}, files, clean, reading)


@shift(
    paper="Wang et al., 2019, Learning robust global representations by penalizing local predictive power, "
    "arXiv:1905.13549",
    differs=("over scenes: the test pictures drawn as sketches",),
)
def imagenet_sketch(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """ImageNet-Sketch as <root>/<wnid>/sketch_*.JPEG: 50,889 black and white sketches of all classes.

    partial: judge on what is there. Raises BadData for what is missing or mapped wrongly.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.sketches(clean)
    files, note = class_folders(named(root, "imagenet_sketch"), "imagenet_sketch", data, partial=partial)
    prepare = preparation(data, resize, interpolation)
    reading = Reading(transform=words(prepare), note=note)
    return ShiftSet(
        "imagenet_sketch", {Variant("sketch"): lazy(files, prepare)}, False,
        matching(clean, {label for _, label in files}) if note else None, reading,
    )  # fmt: skip


@shift(
    paper="Recht et al., 2019, Do ImageNet classifiers generalize to ImageNet?, arXiv:1902.10811",
    differs=("over scenes: pictures drawn by the same process that no split holds",),
)
def imagenetv2(
    clean: Split, data: Dataset, *, seed: int, root: str | None = None, partial: bool = False,
    resize: int | None = None, interpolation: str = "bilinear",
) -> ShiftSet:  # fmt: skip
    """ImageNetV2 as <root>/imagenetv2-<version>[-format-val]/<class number>/*.jpeg, one variant a version.

    root: a folder that holds matched-frequency, threshold0.7 and top-images, or one of them. partial: judge on what is
    there. Raises BadData for what is missing.
    """
    if root is None and clean.redrawn is not None:
        return counterparts.resampled(clean)
    path = Path(named(root, "imagenetv2")).expanduser()
    below = {v: place for v in VERSIONS for place in sorted(path.glob(f"*{v}*")) if place.is_dir()}
    places = {v: path for v in VERSIONS if v in path.name} or below
    missing = [version for version in VERSIONS if version not in places]
    if not places or (places is below and missing and not partial):
        raise BadData(f"expected ImageNetV2's folders under {root!r}, got no {', '.join(missing)}; name one as root")
    prepare = preparation(data, resize, interpolation)
    parts, notes, labels = {}, [], set()
    for version, place in places.items():
        files, note = numbered_folders(place, data, partial=partial)
        parts[Variant(version)] = lazy(files, prepare)
        labels |= {label for _, label in files}
        notes += [f"{version}: {note}"] if note else []
    reading = Reading(transform=words(prepare), note="; ".join(notes))
    return ShiftSet("imagenetv2", parts, False, matching(clean, labels) if notes else None, reading)


def _headed(name: str, parts: dict[Variant, Split], files: Labelled, clean: Split, reading: Reading) -> ShiftSet:
    """The set with its head cut to the classes of its folders, and the clean pictures of those classes beside it."""
    classes = {label for _, label in files}
    reading = Reading(torch.tensor(sorted(classes)), reading.transform, None, reading.note, reading.hard)
    subset = matching(clean, classes)
    if subset is None:
        raise BadData(f"expected clean pictures of {name}'s classes to compare with, got none; sweep more of them")
    return ShiftSet(name, parts, False, subset, reading)
