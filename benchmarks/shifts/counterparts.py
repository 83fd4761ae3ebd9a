"""The natural shifts' counterparts on a data set that draws its own pictures: nothing to download, the same scoring.

They are fixtures: what they show is that a net and the scoring work, not what ImageNet's sets would show.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.benchmarks.datasets.scenes import CLASSES, RENDITIONS, Style
from robustsuite.benchmarks.shifts.layouts import matching
from robustsuite.errors import BadData
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, Reading, ShiftSet, Split, Variant

KINDS_R, KINDS_A = range(8), range(2, 10)
"""Two subsets of the ten kinds that differ, as those of ImageNet-R and -A do."""

POOL = 1_000_000
"""Ids from here on are pictures that no split holds."""

TRAINED, PATCHES, SIDE, RIDGE = 1000, 100, 6, 0.1
"""The reference: train pictures, random patches and their side, and the ridge's weight."""

EDITS = {
    "background_checks": Style(background="checks"), "background_random": Style(redraw="background"),
    "full": Style(size=0.98), "size_0.44": Style(size=0.44), "size_0.36": Style(size=0.36),
    "position_random": Style(redraw="position"), "direction_random": Style(redraw="direction"),
}  # fmt: skip
"""ImageNet-E's edits: background, size, position and direction of the same object, through its mask."""


def restyled(split: Split, style: Any) -> Split:
    """The same pictures in another style, as their data set understands it, drawn when first asked for."""

    @cache
    def whole() -> Tensor:
        return _redrawn(split, split.ids, style)

    told = sorted(style) if isinstance(style, frozenset) else style
    digest = hashlib.sha256(f"{split.sha256}/{told}".encode()).hexdigest()
    return Split(split.y, lambda positions: whole()[positions], split.ids, digest)


def renditions(clean: Split) -> ShiftSet:
    """ImageNet-R's: eight kinds in every manner but the photograph's."""
    few = _of_kinds(clean, KINDS_R)
    parts = {Variant(kind): restyled(few, Style(rendition=kind)) for kind in RENDITIONS if kind != "photo"}
    return ShiftSet("imagenet_r", parts, True, few, Reading(torch.tensor(KINDS_R), "as drawn", hard=True))


def sketches(clean: Split) -> ShiftSet:
    """ImageNet-Sketch's: all kinds as sketches."""
    parts = {Variant("sketch"): restyled(clean, Style(rendition="sketch"))}
    return ShiftSet("imagenet_sketch", parts, reading=Reading(transform="as drawn", hard=True))


def edits(clean: Split) -> ShiftSet:
    """ImageNet-E's."""
    parts = {Variant(name): restyled(clean, style) for name, style in EDITS.items()}
    return ShiftSet("imagenet_e", parts, reading=Reading(transform="as drawn", hard=True))


def conflicts(clean: Split) -> ShiftSet:
    """The cue conflicts': each picture with another kind's texture, all in turn; its outlines; its silhouette."""
    kinds = len(CLASSES)
    further = clean.ids // kinds % (kinds - 1) + 1

    @cache
    def whole() -> Tensor:
        x = torch.empty(0)
        for k in range(1, kinds):
            rows = (further == k).nonzero().flatten()
            drawn = _redrawn(clean, clean.ids[rows], Style(texture=k))
            x = drawn.new_zeros(len(clean), *drawn.shape[1:]) if not len(x) else x
            x[rows] = drawn
        return x

    digest = hashlib.sha256(f"{clean.sha256}/cue conflict".encode()).hexdigest()
    texture = (clean.y + further) % kinds
    conflict = Split(clean.y, lambda positions: whole()[positions], clean.ids, digest, texture=texture)
    parts = {Variant("cue_conflict"): conflict, Variant("edges"): restyled(clean, Style(rendition="sketch")),
             Variant("silhouettes"): restyled(clean, Style(rendition="silhouette"))}  # fmt: skip
    return ShiftSet("cue_conflict", parts, reading=Reading(transform="as drawn", hard=True))


def resampled(clean: Split) -> ShiftSet:
    """ImageNetV2's: as many pictures again, drawn by the same process."""
    ids = POOL + torch.arange(len(clean))
    y = ids % 10
    digest = hashlib.sha256(f"{clean.sha256}/resampled".encode()).hexdigest()
    fresh = Split(y, lambda positions: _redrawn(clean, ids[positions], Style()), ids, digest)
    return ShiftSet("imagenetv2", {Variant("resampled"): fresh}, False, reading=Reading(transform="as drawn"))


def natural_errors(clean: Split, data: Dataset) -> ShiftSet:
    """ImageNet-A's: what the reference gets wrong within the head, as many pictures as the clean ones of its kinds."""
    few, head = _of_kinds(clean, KINDS_A), torch.tensor(KINDS_A)
    fitted = reference(data.split("train"), data.space.classes)
    ids, wrong = POOL, torch.zeros(0, dtype=torch.int64)
    while len(wrong) < len(few):
        if ids > POOL + 100 * len(few) + 5000:
            raise BadData("expected a reference that errs, got one that does not; sweep fewer pictures")
        block = ids + torch.arange(500)
        block = block[torch.isin(block % data.space.classes, head)]
        said = head[answers(fitted, _redrawn(clean, block, Style()))[:, head].argmax(1)]
        wrong, ids = torch.cat([wrong, block[said != block % data.space.classes]]), ids + 500
    chosen = wrong[: len(few)]
    digest = hashlib.sha256(chosen.numpy().tobytes() + clean.sha256.encode()).hexdigest()
    y = chosen % data.space.classes
    pictures = Split(y, lambda positions: _redrawn(clean, chosen[positions], Style()), chosen, digest)
    reading = Reading(head, "as drawn", hard=True)
    return ShiftSet("imagenet_a", {Variant("natural errors"): pictures}, False, few, reading)


def reference(train: Split, classes: int) -> tuple[Tensor, Tensor]:
    """Patches (K, 3, s, s) and ridge weights (D + 1, classes) over their pooled answers on the first train pictures."""
    n = min(TRAINED, len(train))
    x, y = train.images(torch.arange(n)), train.y[:n]
    rng = Rng.of(0, "reference", torch.arange(PATCHES))
    row, column = (rng.fold(name).integers(x.shape[-1] - SIDE + 1) for name in ("row", "column"))
    corners = zip(range(PATCHES), row.tolist(), column.tolist(), strict=True)
    patches = torch.stack([x[i % n, :, r : r + SIDE, c : c + SIDE] for i, r, c in corners])
    patches = patches - patches.mean((1, 2, 3), keepdim=True)
    patches = patches / patches.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-6)
    A = _features(patches, x)
    target = functional.one_hot(y, classes).double() - 1 / classes
    W = torch.linalg.solve(A.T @ A + RIDGE * n / len(A.T) * torch.eye(len(A.T), dtype=A.dtype), A.T @ target)
    return patches, W


def answers(fitted: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """The reference's scores (N, classes)."""
    patches, W = fitted
    return _features(patches, x) @ W


def _features(patches: Tensor, x: Tensor) -> Tensor:
    """Rectified answers to the patches and their negatives, pooled over quadrants; a constant (N, D + 1) float64."""
    z = functional.conv2d(x, torch.cat([patches, -patches]))
    pooled = functional.adaptive_avg_pool2d((z - 0.1).relu(), 3).flatten(1).double()
    return torch.cat([pooled, torch.ones(len(x), 1, dtype=torch.float64)], 1)


def _of_kinds(clean: Split, kinds: range) -> Split:
    few = matching(clean, set(kinds))
    if few is None:
        raise BadData(
            f"expected pictures of the kinds {kinds.start} ... {kinds.stop - 1}, got none; sweep more of them"
        )
    return few


def _redrawn(split: Split, ids: Tensor, style: Any) -> Tensor:
    if split.redrawn is None:
        raise BadData("expected pictures that can be drawn again, got a split of files; use scenes")
    return split.redrawn(ids, style)
