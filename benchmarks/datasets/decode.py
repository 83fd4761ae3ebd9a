"""Picture files to tensors, on demand, on several threads: JPEG, PNG, WebP, BMP, GIF, TIFF and PPM, whatever the name.

What is in the file decides, not its ending; no other format is tried and no other program is run. The rules:
- The first frame of an animation, the first page of a TIFF.
- EXIF's rotation is applied. (torchvision's ImageFolder does not.)
- Alpha and transparent palette entries are dropped, the colour that is stored counts, as by PIL's convert("RGB").
- CMYK and YCCK become RGB by the plain formula, (255 - c)(255 - k) / 255; embedded colour profiles are not applied.
- 16 bits are scaled: v / 65535, rounded to 8 bits; so are 12 bits, v / 4095. Of floats, [0, 1] is taken and nothing
  else; whole numbers of 32 bits or with a sign say no range and are refused.
- More than PIXELS pixels, a quarter of that where they have more than 8 bits, half in WebP, are refused before they are
  unpacked, and so are JPEGs of more than SCANS passes; a truncated file is refused, never filled up.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from threading import RLock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose
from torch import Tensor

from robustsuite.benchmarks.datasets.listing import File, content, length, said
from robustsuite.errors import BadData, UnknownName

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXELS = 89_478_485
"""PIL's own limit, where it warns."""
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest-exact")
THREADS = max(8, os.cpu_count() or 1)

DEEP = PIXELS // 4
"""Pixels of other than 8 bits at the most, which take four times the memory."""
SCANS = 500
"""Passes that a progressive JPEG makes over its picture at the most; each takes time, and hardly a byte."""

ALONE, LARGE, HEAVY = RLock(), 1 << 22, 1 << 24
"""Held for pictures of more pixels, and files of more bytes, than this: one at a time, they fit into memory."""

ROTATED = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""What undoes each EXIF orientation."""


class Preparation(NamedTuple):
    """Shorter side to `resize`, then a centre crop of `size`; None leaves a picture as it is."""

    size: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"


def read_pictures(files: Sequence[File], preparation: Preparation | None = None, *, channels: int = 3) -> Tensor:
    """(N, C, H, W) float32 in [0, 1], in order. Raises BadData naming the file that does not decode.

    Of no files (0, C, size, size), or 0 x 0 pixels where `size` is not said.
    """
    prepare = preparation or Preparation()
    if prepare.interpolation not in INTERPOLATIONS:
        raise UnknownName("interpolation", prepare.interpolation, INTERPOLATIONS)
    if not files:
        return torch.zeros(0, channels, prepare.size or 0, prepare.size or 0)
    with ThreadPoolExecutor(min(THREADS, len(files))) as pool:
        arrays = list(pool.map(partial(_decoded, prepare=prepare, channels=channels), files))
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise BadData(f"expected pictures of one size, got {sorted(shapes)[:2]}; give size=... to crop them alike")
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


def _decoded(file: File, prepare: Preparation, channels: int) -> np.ndarray:
    """uint8 (H, W, C)."""
    try:
        return _read(file, prepare, channels)
    except BadData as error:
        told: BaseException | None = error
        while told is not None:  # where it was raised, the file's bytes are still held
            traceback.clear_frames(told.__traceback__)
            told = told.__context__
        raise


def _read(file: File, prepare: Preparation, channels: int) -> np.ndarray:
    """What is large is read by one thread at a time."""
    with _alone(length(file) > HEAVY):
        data = content(file)
        with _alone(_pixels(data) > LARGE):
            return _prepared(decode(data, said(file), "RGB" if channels == 3 else "L"), prepare, said(file), channels)


@contextmanager
def _alone(needed: bool) -> Iterator[None]:
    """While no other thread reads what is large; what was freed then goes back, which each thread would keep."""
    with ALONE if needed else nullcontext():
        yield
        if needed:
            with suppress(AttributeError, OSError):  # glibc's own
                ctypes.CDLL(None).malloc_trim(0)


def _prepared(picture: Image.Image, prepare: Preparation, name: str, channels: int) -> np.ndarray:
    from torchvision.transforms import InterpolationMode  # takes over a second to load
    from torchvision.transforms import functional as pil

    if prepare.resize is not None:
        short, long = sorted(picture.size)
        if prepare.resize**2 * long > PIXELS * short:
            raise BadData(f"expected a picture of at most {PIXELS:,} pixels once its shorter side is {prepare.resize} "
                          f"in {name}, got {picture.width} x {picture.height}; leave it out")  # fmt: skip
        picture = pil.resize(picture, prepare.resize, InterpolationMode(prepare.interpolation))
    if prepare.size is not None:
        picture = pil.center_crop(picture, [prepare.size, prepare.size])
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def decode(data: bytes, name: str, mode: str = "RGB") -> Image.Image:
    """One 8-bit picture from its file's bytes, by the rules above. Raises BadData naming it where they are damaged."""
    try:
        if data[:2] == b"\xff\xd8" and (passes := data.count(b"\xff\xda")) > SCANS:
            raise ValueError(f"{passes} scans, more than {SCANS}")
        picture = _opened(data)
        most = PIXELS // 2 if picture.format == "WEBP" else PIXELS  # its decoder keeps three copies
        if picture.width * picture.height > most:
            raise ValueError(f"{picture.width} x {picture.height} pixels, more than {most:,}")
        eight = _of_8_bits(picture, data)
        orientation = 1
        with suppress(Exception):  # EXIF that cannot be read turns nothing
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in ROTATED:
            eight = eight.transpose(ROTATED[orientation])
        eight.info.pop("transparency", None)
        return eight if eight.mode == mode else eight.convert(mode)
    except UnidentifiedImageError as error:
        raise BadData(
            f"expected a picture in {name}, got none of {', '.join(FORMATS)}; the file is damaged or of another kind, "
            f"leave it out"
        ) from error
    except Exception as error:  # a damaged file may raise nearly anything
        raise BadData(f"expected a picture in {name}, got {_words(error)}; mend the file or leave it out") from error


def _pixels(data: bytes) -> int:
    """As the file's head says; 0 where it says nothing."""
    with suppress(Exception):
        picture = _opened(data)
        return picture.width * picture.height
    return 0


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if text.isprintable() else ascii(text)


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _of_8_bits(picture: Image.Image, data: bytes) -> Image.Image:
    """The picture itself where it has 8 bits a value, else one scaled to them."""
    raw = _raw_mode(picture)
    tags = getattr(picture, "tag_v2", {})
    if tags.get(284) == 2 and tags.get(258) not in (None, 8, (8,) * len(picture.getbands())):
        raise ValueError("other than 8 bits in a plane for each colour, which cannot be read in full")
    deep = ";16" in raw or picture.mode.startswith(("I", "F"))
    if (deep or _scaled(picture)) and picture.width * picture.height > DEEP:
        raise ValueError(f"{picture.width} x {picture.height} pixels of other than 8 bits, more than {DEEP:,}")
    if re.search(";16[BLN]", raw) and not picture.mode.startswith("I"):
        return Image.fromarray(_rounded(_sixteen(picture, raw, data), 65535))
    if _scaled(picture):
        return Image.fromarray(_netpbm(picture, data))
    picture.load()
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        top = 4095 if tags.get(258) in (12, (12,)) else 65535
        values = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(_rounded(top - values if tags.get(262) == 0 else values, top))
    if picture.mode == "I":
        raise ValueError("whole numbers of 32 bits or with a sign, which say no range")
    if picture.mode == "F":
        return Image.fromarray(np.rint(_unit(np.asarray(picture)) * 255).astype(np.uint8))
    return picture


def _scaled(picture: Image.Image) -> bool:
    """Whether it is a PGM or PPM whose greatest value is another than 255."""
    tiles = getattr(picture, "tile", [])
    return bool(tiles) and tiles[0].codec_name == "ppm"


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"floats from {low:g} to {high:g}, not in [0, 1]")
    return values


def _rounded(values: NDArray[np.uint32], top: int) -> NDArray[np.uint8]:
    """255 v / top to the nearest whole number."""
    return ((values.astype(np.uint32) * 510 + top) // (2 * top)).clip(0, 255).astype(np.uint8)


def _netpbm(picture: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """The pixels of a PGM or PPM whose greatest value is any; PIL takes a second for a million."""
    tile = picture.tile[0]  # type: ignore[attr-defined]
    top, shape = int(tile.args[-1]), (picture.height, picture.width, 3)[: 3 if picture.mode == "RGB" else 2]
    kind, n = np.dtype(">u2" if top > 255 else "u1"), int(np.prod(shape))
    if len(data) < tile.offset + n * kind.itemsize:
        raise ValueError(f"{len(data)} bytes where {tile.offset + n * kind.itemsize} are declared")
    values = np.frombuffer(data, kind, n, tile.offset).reshape(shape)
    return _rounded(np.minimum(values.astype(np.uint32), top), top)


def _raw_mode(picture: Image.Image) -> str:
    """How PIL's decoder is told to unpack the pixels: 'RGB;16B' are big-endian 16 bits of which it keeps the high 8."""
    tiles = getattr(picture, "tile", [])
    args = tiles[0].args if tiles else ""
    return str(args[0]) if isinstance(args, tuple) and args else str(args)


def _sixteen(picture: Image.Image, raw: str, data: bytes) -> NDArray[np.uint32]:
    """Colours (H, W, C) in 16 bits. Read in the other byte order, the high 8 bits that PIL keeps are the low ones."""
    if raw == "LA;16B":  # four bytes a pixel
        grey = _unpacked(picture, "RGBA").astype(np.uint32)
        return grey[..., 0] * 256 + grey[..., 1]
    kind, _, order = raw.partition(";16")
    if kind not in ("RGB", "RGBA", "RGBX") or order not in ("B", "L", "N"):
        raise ValueError(f"16 bits of the kind {raw}, which cannot be read in full")
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    high = _unpacked(picture, raw).astype(np.uint32)
    low = _unpacked(_opened(data), f"{kind};16{'L' if big else 'B'}")
    return (high * 256 + low)[..., :3]


def _unpacked(picture: Image.Image, raw: str) -> NDArray[np.uint8]:
    """The pixels, unpacked in this way."""
    tiles = picture.tile  # type: ignore[attr-defined]
    picture.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in tiles
    ]
    picture.load()
    return np.asarray(picture)
