"""The published corrupted sets as their authors distribute them: ImageNet-C folders and CIFAR-10-C arrays.

ImageNet-C: <root>/<corruption>/<1 ... 5>/<wnid>/*.JPEG, 224 x 224, to be read without any further resizing.
CIFAR-10-C: <root>/<corruption>.npy, uint8 (50000, 32, 32, 3), 10,000 a severity in order, and <root>/labels.npy.
(Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261; zenodo.org/records/2235448 and 2535967.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustsuite.benchmarks.shifts.severities import CORRUPTIONS, EXTRA
from robustsuite.errors import BadData, BadValue, UnknownName

_SEVERITIES = range(1, 6)


def imagenet_c(root: str | Path, corruption: str, severity: int) -> tuple[list[Path], list[str]]:
    """Image files and their wnids, in order of wnid and file name.

    Raises BadData where the folder or its images are missing, BadValue for a severity outside 1 ... 5.
    """
    _check(corruption, severity)
    folder = Path(root) / corruption / str(severity)
    if not folder.is_dir():
        raise BadData(
            f"expected ImageNet-C's folder {folder}, which is missing; unpack the tar with {corruption} into {root}"
        )
    paths = sorted(p for p in folder.glob("n*/*") if p.suffix.lower() in {".jpeg", ".jpg"})
    if not paths:
        raise BadData(f"expected {folder}/<wnid>/*.JPEG, got no such file; unpack {corruption}'s tar again")
    return paths, [path.parent.name for path in paths]


def cifar10_c(root: str | Path, corruption: str, severity: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (10000, 32, 32, 3) uint8, memory-mapped, and labels (10000,) of one severity.

    Raises BadData where a file is missing or its shape does not fit, BadValue for a severity outside 1 ... 5.
    """
    _check(corruption, severity)
    images, labels = (_load(Path(root) / f"{name}.npy") for name in (corruption, "labels"))
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) % 5 or labels.shape != (len(images),):
        raise BadData(
            f"expected {corruption}.npy as uint8 (5 n, 32, 32, 3) with as many labels, "
            f"got {images.shape} {images.dtype} and {labels.shape}; download the archive again"
        )
    n = len(images) // 5
    rows = slice((severity - 1) * n, severity * n)
    return np.asarray(images[rows], dtype=np.uint8), np.asarray(labels[rows], dtype=np.int64)


def _load(path: Path) -> NDArray[np.generic]:
    if not path.is_file():
        raise BadData(f"expected CIFAR-10-C's file {path}, which is missing; unpack CIFAR-10-C.tar into {path.parent}")
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _check(corruption: str, severity: int) -> None:
    if corruption not in CORRUPTIONS + EXTRA:
        raise UnknownName("corruption", corruption, CORRUPTIONS + EXTRA)
    if severity not in _SEVERITIES:
        raise BadValue(f"expected a severity from 1 to 5, got {severity!r}")
