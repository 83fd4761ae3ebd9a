"""CIFAR-10 from disk, in whichever published or packed layout lies there."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from robustsuite.benchmarks.datasets.cifar_files import Pictures, from_archive, from_folder, whole
from robustsuite.benchmarks.datasets.decode import decode, read_pictures
from robustsuite.benchmarks.datasets.listing import BYTES, listed
from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Dataset, InputSpace, Split, source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VAL = 5000
LAYOUTS = "cifar-10-python.tar.gz, cifar-10-batches-py, cifar-10-batches-bin, *_train*.npz and *_test*.npz, or a zip"


@source(paper="Krizhevsky, 2009, Learning multiple layers of features from tiny images")
def cifar10(*, root: str = "", pack: str = "", seed: int = 0, train: int = 0) -> Dataset:
    """CIFAR-10 from `root`: the published python or binary files, .npz packs, or a zip of class folders.

    root: a folder or one file. pack: part of a .npz name, where several would do ('lossless'). val: 5000 pictures of
    the train split by a seeded order, kept from training; a root with test alone has test alone. train: keep this many
    training pictures, 0 for all. Raises BadData.
    """
    if not root:
        raise BadValue("expected the folder of CIFAR-10, got none; write {cifar10: {root: FOLDER}}")
    path = Path(root).expanduser()
    found, note = _found(path, pack)
    if not found:
        raise BadData(f"expected CIFAR-10 in {str(path)!r} ({LAYOUTS}), got none of them; check root")
    splits = {}
    for name, (images, labels) in found.items():
        _check(images, labels, f"{path.name}, {name}")
        pictures, y = (
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(labels.astype(np.int64)),
        )
        if name == "test":
            splits["test"] = Split.of(pictures, y)
            continue
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        held = min(VAL, len(y) // 10)
        for part, rows in (("train", order[:-held][: train or None].sort().values), ("val", order[-held:])):
            splits[part] = Split.of(pictures[rows], y[rows], rows)
    return Dataset("cifar10", InputSpace(3, 32, 32, 10), CLASSES, splits, note=note)


def _found(path: Path, pack: str) -> tuple[dict[str, Pictures], str]:
    """The splits that lie there, and which of several test packs was read, '' where there was no choice."""
    if path.is_file():
        if path.suffix == ".npz":
            return {"train" if "train" in path.stem else "test": from_npz(path)}, ""
        return from_zip(path) if path.suffix == ".zip" else from_archive(path), ""
    if not path.is_dir():
        raise BadData(f"expected a folder or file of CIFAR-10, got {str(path)!r}, which is not there; check root")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        if splits := from_folder(folder):
            return splits, ""
    for archive in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"):
        if (path / archive).is_file():
            return from_archive(path / archive), ""
    packed = _packs(path, pack)
    return packed if packed[0] else _packs(path / "cifar10", pack)


def _packs(folder: Path, pack: str) -> tuple[dict[str, Pictures], str]:
    splits, note = {}, ""
    for split in ("train", "test"):
        files = sorted(f for f in folder.glob("*.npz") if f"_{split}" in f.stem)
        chosen = [f for f in files if pack in f.stem]
        if chosen:
            splits[split] = from_npz(chosen[0])
            if split == "test" and len(files) > 1:
                others = ", ".join(f.name for f in files if f != chosen[0])
                note = f"test pictures of {chosen[0].name}, not of {others}"
        elif files and split == "test":
            names = ", ".join(f.name for f in files)
            raise BadData(f"expected a test pack with {pack!r} in its name, got {names}; choose one of them")
    return splits, note


def from_npz(path: Path) -> Pictures:
    """`images` (N, 32, 32, 3) uint8 and `labels`, or JPEG files end to end in `jpeg`, cut at `offsets`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > BYTES:
                raise ValueError(f"arrays of {size:,} bytes, more than {BYTES:,}")
        with np.load(path, allow_pickle=False) as pack:
            labels = whole(pack["labels"], path.name)
            if "images" in pack:
                return Pictures(pack["images"], labels)
            blob, offsets = pack["jpeg"].tobytes(), whole(pack["offsets"], path.name, "offsets")
    except BadData:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadData(f"expected images and labels in {path.name}, got {error}; pack it again") from error
    except Exception as error:  # zipfile.BadZipFile, zlib.error
        raise BadData(f"expected an .npz pack in {path.name}, got {error}; fetch it again") from error

    if len(offsets) != len(labels) + 1 or offsets[0] < 0 or offsets[-1] > len(blob) or (np.diff(offsets) < 0).any():
        raise BadData(f"expected {len(labels) + 1} offsets that rise from 0 to {len(blob)} in {path.name}, got others; "
                      f"pack it again")  # fmt: skip
    if not len(labels):
        return Pictures(np.zeros((0, 32, 32, 3), np.uint8), labels)

    def one(i: int) -> np.ndarray:
        name = f"{path.name}, picture {i}"
        pixels = np.asarray(decode(blob[offsets[i] : offsets[i + 1]], name))
        if pixels.shape != (32, 32, 3):
            raise BadData(f"expected 32 x 32 pixels in {name}, got {pixels.shape[:2]}; pack it again")
        return pixels

    with ThreadPoolExecutor(8) as pool:
        return Pictures(np.stack(list(pool.map(one, range(len(labels))))), labels)


def from_zip(path: Path) -> dict[str, Pictures]:
    """[train/ or test/]class/picture.png inside a zip; without such folders all of it is test."""
    gathered: dict[str, list[Pictures]] = {}
    for folder, files in listed(path).items():
        parts = folder.split("/")
        if not files:
            continue
        if parts[-1] not in CLASSES:
            raise BadData(
                f"expected folders named by class ({', '.join(CLASSES)}) in {path.name}, got {folder!r}; rename it"
            )
        images = (read_pictures(files) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        labels = np.full(len(files), CLASSES.index(parts[-1]), np.int64)
        gathered.setdefault("train" if "train" in parts else "test", []).append(Pictures(images, labels))
    return {
        split: Pictures(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
        for split, parts in gathered.items()
    }


def _check(images: np.ndarray, labels: np.ndarray, what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
        raise BadData(
            f"expected uint8 pictures (N, 32, 32, 3) with as many labels in {what}, got {images.dtype} {images.shape} "
            f"and {len(labels)} labels; pack it again"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise BadData(f"expected labels 0 ... 9 in {what}, got {labels.min()} ... {labels.max()}; is this CIFAR-10?")
