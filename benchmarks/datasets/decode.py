"""Picture files to tensors, on demand and on several threads, from folders and from inside zip archives."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustsuite.errors import BadData, UnknownName

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest-exact")
THREADS = max(8, os.cpu_count() or 1)


class Member(NamedTuple):
    """A file inside a zip archive."""

    archive: Path
    name: str
    size: int

    def read_bytes(self) -> bytes:
        return opened(self.archive).read(self.name)


class Preparation(NamedTuple):
    """Shorter side to `resize`, then a centre crop of `size`; None leaves a picture as it is."""

    size: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"


File = Path | Member


@cache
def opened(archive: Path) -> zipfile.ZipFile:
    """An archive, opened once. Raises BadData where it is none."""
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadData(f"expected a zip archive at {str(archive)!r}, got {error}; fetch it again") from error


def read_pictures(files: Sequence[File], preparation: Preparation | None = None, *, channels: int = 3) -> Tensor:
    """(N, C, H, W) float32 in [0, 1], in order. Raises BadData naming the file that does not decode."""
    prepare = preparation or Preparation()
    if prepare.interpolation not in INTERPOLATIONS:
        raise UnknownName("interpolation", prepare.interpolation, INTERPOLATIONS)
    with ThreadPoolExecutor(min(THREADS, max(1, len(files)))) as pool:
        arrays = list(pool.map(partial(_decoded, prepare=prepare, channels=channels), files))
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise BadData(f"expected pictures of one size, got {sorted(shapes)[:2]}; give size=... to crop them alike")
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


def _decoded(file: File, prepare: Preparation, channels: int) -> np.ndarray:
    """uint8 (H, W, C)."""
    from torchvision.transforms import InterpolationMode  # takes over a second to load
    from torchvision.transforms import functional as pil

    picture = decode(file.read_bytes(), str(file.name), "RGB" if channels == 3 else "L")
    if prepare.resize is not None:
        picture = pil.resize(picture, prepare.resize, InterpolationMode(prepare.interpolation))
    if prepare.size is not None:
        picture = pil.center_crop(picture, [prepare.size, prepare.size])
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def decode(content: bytes, name: str, mode: str = "RGB") -> Image.Image:
    """One picture from its file's bytes. Raises BadData naming it where they are damaged."""
    try:
        return Image.open(io.BytesIO(content)).convert(mode)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BadData(f"expected a picture in {name}, got {error}; the file is damaged, fetch it again") from error


def listed(root: Path) -> dict[str, list[File]]:
    """Files by the folder they lie in, 'a/b' relative to root (a folder or a zip); empty folders too, all sorted."""
    found: dict[str, list[File]] = {}
    if root.is_file():
        for info in sorted(opened(root).infolist(), key=lambda i: i.filename):
            folder, _, file = info.filename.rpartition("/")
            files = found.setdefault(folder, [])
            if file.lower().endswith(ENDINGS):
                files.append(Member(root, info.filename, info.file_size))
    elif root.is_dir():
        for place in sorted(p for p in root.rglob("*") if p.is_dir()):
            inside = sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS)
            found[place.relative_to(root).as_posix()] = list(inside)
    else:
        raise BadData(f"expected a folder or a zip of pictures, got {str(root)!r}, which is not there; check root")
    return found


def size_of(file: File) -> int:
    """Bytes."""
    return file.size if isinstance(file, Member) else file.stat().st_size
