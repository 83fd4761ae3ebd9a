"""CIFAR-10's published files, read without running anything that is in them."""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustsuite.benchmarks.datasets.listing import BYTES
from robustsuite.errors import BadData

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
ROW = 3 * 32 * 32
PACKED = {b"\x1f\x8b": "r:gz", b"BZ": "r:bz2", b"\xfd7": "r:xz"}


class Pictures(NamedTuple):
    """uint8 (N, 32, 32, 3) and labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


class _PlainUnpickler(pickle._Unpickler):  # in C it keeps a table as long as a file's greatest number says
    """Arrays and built-in containers alone. `codecs.encode` is how protocol 2 writes bytes; it runs no code."""

    ALLOWED = frozenset(
        {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
        | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class("numpy._core.multiarray" if module == "numpy.core.multiarray" else module, name)


def unpickled(content: bytes, name: str) -> Pictures:
    """One batch of the python version. Raises BadData for anything but plain arrays; nothing in it is run."""
    try:
        batch = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise BadData(f"expected a CIFAR-10 batch in {name}, got {error}; nothing was run, fetch it again") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != ROW or labels.shape[:1] != data.shape[:1]:
        raise BadData(f"expected uint8 rows of {ROW} pixels in {name}, got {data.dtype} {data.shape}; fetch it again")
    return Pictures(_nhwc(data), whole(labels, name))


def whole(numbers: np.ndarray, name: str, what: str = "labels") -> np.ndarray:
    """int64 (N,) of a list of whole numbers; raises BadData for any other."""
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise BadData(f"expected {what} in {name} as a list of whole numbers, got {numbers.dtype} {numbers.shape}; "
                      f"pack it again")  # fmt: skip
    return numbers.astype(np.int64)


def binary(content: bytes, name: str) -> Pictures:
    """One batch of the binary version: a label byte and 3072 pixels a record. Raises BadData where it is cut."""
    rows = np.frombuffer(content, np.uint8)
    if not len(rows) or len(rows) % (ROW + 1):
        raise BadData(f"expected records of {ROW + 1} bytes in {name}, got {len(rows)} bytes; fetch it again")
    rows = rows.reshape(-1, ROW + 1)
    return Pictures(_nhwc(rows[:, 1:]), rows[:, 0].astype(np.int64))


def _nhwc(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def from_archive(path: Path) -> dict[str, Pictures]:
    """train and test of cifar-10-python.tar.gz or cifar-10-binary.tar.gz, read inside the archive."""
    found, unpacked = dict[str, bytes](), 0
    try:
        with path.open("rb") as packed:
            packing: Any = PACKED.get(packed.read(2), "r:")  # tarfile would try each on the whole file
        with tarfile.open(path, packing) as tar:
            for member in tar:
                unpacked += member.size  # a member that is left out is unpacked too
                if unpacked > BYTES:
                    raise tarfile.TarError(f"more than {BYTES:,} bytes in it")
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and Path(member.name).name.removesuffix(".bin") in (*TRAIN, *TEST):
                    found[Path(member.name).name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise BadData(f"expected CIFAR-10's archive at {str(path)!r}, got {error}; fetch it again") from error
    return _joined(found, path)


def from_folder(folder: Path) -> dict[str, Pictures]:
    """train and test of an extracted python or binary version."""
    names = [name + ending for name in (*TRAIN, *TEST) for ending in ("", ".bin")]
    there = [folder / name for name in names if (folder / name).is_file()]
    for path in there:
        if path.stat().st_size > BYTES:
            raise BadData(f"expected a CIFAR-10 batch at {str(path)!r}, got more than {BYTES:,} bytes; fetch it again")
    return _joined({path.name: path.read_bytes() for path in there}, folder)


def _joined(files: dict[str, bytes], where: Path) -> dict[str, Pictures]:
    read = {n.removesuffix(".bin"): (binary if n.endswith(".bin") else unpickled)(c, n) for n, c in files.items()}
    splits = {}
    for split, names in (("train", TRAIN), ("test", TEST)):
        parts = [read[name] for name in names if name in read]
        if parts and len(parts) < len(names):
            missing = next(name for name in names if name not in read)
            raise BadData(f"expected {missing} in {str(where)!r}, got {len(parts)} of {len(names)}; fetch it again")
        if parts:
            splits[split] = Pictures(
                np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
            )
    return splits
