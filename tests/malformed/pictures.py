"""Malformed pictures: cut, bent, lying, bursting, and other things under their names."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.malformed.made import RAN, SEED, Case, Content, of_pictures, put

FORMATS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM"}
DRAW = np.random.default_rng(SEED)
PIXELS = DRAW.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def picture(ending: str, values: Any = None, **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS[0] if values is None else values).save(out, FORMATS[ending], **how)
    return out.getvalue()


def folders(folder: Path, bad: dict[str, Content]) -> None:
    """Two classes of two pictures, and `bad` ones first in class a."""
    for i in range(4):
        put(f"pics/{'ab'[i // 2]}/p{i}.png", picture("png", PIXELS[i]))(folder)
    for name, content in bad.items():
        put(f"pics/a/{name}", content)(folder)


def of_bad(what: str, name: str, content: Content, copies: int = 1) -> Case:
    names = [name] if copies == 1 else [f"{i}{name}" for i in range(copies)]
    return Case("pictures", what, of_pictures(), lambda folder: folders(folder, dict.fromkeys(names, content)))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def png(width: int, height: int, bits: int = 8, colour: int = 2, extra: bytes = b"", rows: int | None = None) -> bytes:
    """A blank PNG of any size, packed a thousandfold."""
    line = bytes(1 + (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8)
    pack = zlib.compressobj(9)
    body = b"".join(pack.compress(line) for _ in range(height if rows is None else rows)) + pack.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def scans(content: bytes, times: int) -> bytes:
    """A progressive JPEG with its last scan many times."""
    at = content.rindex(b"\xff\xda")
    return content[:at] + content[at:-2] * times + content[-2:]


def tiff(*tags: tuple[int, int, int, int], following: int = 0, body: bytes = bytes(64)) -> bytes:
    """(tag, type, count, value) as they are, then anything."""
    at = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(
        struct.pack("<HHII", tag, kind, count, at if value == -1 else value) for tag, kind, count, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + rows + struct.pack("<I", following) + body


def layout(
    width: int, height: int, *more: tuple[int, int, int, int], packing: int = 1, size: int = 64, **how: Any
) -> bytes:
    return tiff(
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, packing),
        (262, 3, 1, 1),
        (273, 4, 1, -1),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, size),
        *more,
        **how,
    )


def deflated() -> bytes:
    body = zlib.compress(bytes(81_000_000), 9)
    return layout(9000, 9000, packing=8, body=body, size=len(body))


def shell(text: str) -> bytes:
    return text.replace("RUN", f"touch {RAN}").encode()


OTHERS = {
    "EPS": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(%pipe%RUN) (w) file\nshowpage\n%%EOF\n",
    "PS": "%!PS\n(%pipe%RUN) (w) file\n",
    "PDF": "%PDF-1.4\n1 0 obj << /Type /Catalog /OpenAction << /S /Launch /F (RUN) >> >> endobj\n%%EOF",
    "SVG": "<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/><script>RUN</script></svg>",
    "MVG": "push graphic-context\nimage over 0,0 0,0 'https://a\"|RUN\"'\npop graphic-context",
    "MSL": "<?xml version='1.0'?><image><read filename='msl:RUN'/></image>",
    "a web page": "<!DOCTYPE html><html>404</html>",
    "a shell script": "#!/bin/sh\nRUN\n",
    "an XPM": '/* XPM */ static char*x[]={"1 1 1 1"," c None"," "};',
    "an LFS pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "text": "hello",
    "nothing": "",
}


def crafted() -> Iterator[tuple[str, str, Content]]:
    """(what, name, content) of pictures that lie or burst."""
    for what, text in OTHERS.items():
        yield f"{what} named .jpg", "0.jpg", shell(text)
        if what == "EPS":
            yield f"{what} named .png", "0.png", shell(text)
            yield (
                "EPS in a DOS header",
                "0.tif",
                b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(text)) + bytes(18) + shell(text),
            )
    yield "png: 30,000 x 30,000", "0.png", lambda: png(30_000, 30_000, 1, 0)
    yield "png: 9,000 x 9,000", "0.png", lambda: png(9_000, 9_000)
    yield "png: 9,000 x 9,000 of 16 bits", "0.png", lambda: png(9_000, 9_000, 16)
    yield "png: 9,000 x 9,000 grey of 16 bits", "0.png", lambda: png(9_000, 9_000, 16, 0)
    yield "png: 9,000 x 9,000 of 1 bit", "0.png", lambda: png(9_000, 9_000, 1, 0)
    yield "png: 2^31 wide", "0.png", png((1 << 31) - 1, 1, 1, 0, rows=0)
    yield "png: 0 x 0", "0.png", png(0, 0, rows=0)
    yield "png: 80,000,000 x 1", "0.png", lambda: png(80_000_000, 1, 1, 0)
    yield (
        "png: text of 300 MB",
        "0.png",
        lambda: png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 << 20), 9))),
    )
    yield (
        "png: profile of 300 MB",
        "0.png",
        lambda: png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300 << 20), 9))),
    )
    yield "png: chunk of 2^31", "0.png", png(8, 8)[:33] + struct.pack(">I", (1 << 31) - 1) + b"IDAT" + bytes(9)
    yield "png: palette of one colour", "0.png", png(8, 8, 8, 3)
    yield "png: 100,000 chunks", "0.png", png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 100_000)
    yield "png: damaged EXIF", "0.png", png(8, 8, extra=chunk(b"eXIf", b"MM\0*" + b"\xff" * 64))
    yield (
        "png: EXIF in a circle",
        "0.png",
        png(
            8, 8, extra=chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHII", 0x8769, 4, 1, 8) + b"\0\0\0\x08")
        ),
    )
    small = picture("jpg")
    at = small.index(b"\xff\xc0")
    yield "jpeg: says 65,535 x 65,535", "0.jpg", small[: at + 5] + b"\xff" * 4 + small[at + 9 :]
    yield "jpeg: says 9,000 x 9,000", "0.jpg", small[: at + 5] + struct.pack(">HH", 9000, 9000) + small[at + 9 :]
    yield (
        "jpeg: 20,000 scans",
        "0.jpg",
        lambda: scans(picture("jpg", np.zeros((4000, 4000, 3), np.uint8), progressive=True), 20_000),
    )
    yield "jpeg: 0 wide", "0.jpg", small[: at + 7] + b"\0\0" + small[at + 9 :]
    yield "jpeg: 100,000 markers", "0.jpg", small[:2] + b"\xff\xfe\0\x04ab" * 100_000 + small[2:]
    yield "jpeg: no picture", "0.jpg", b"\xff\xd8\xff\xd9"
    yield "tiff: pages in a circle", "0.tif", layout(8, 8, following=8)
    yield "tiff: 9,000 x 9,000 of a line", "0.tif", layout(9000, 9000)
    yield "tiff: 2^32 x 2^32", "0.tif", layout((1 << 32) - 1, (1 << 32) - 1)
    yield (
        "tiff: 2^31 strips",
        "0.tif",
        tiff(
            (256, 4, 1, 8),
            (257, 4, 1, 8),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1 << 31, 8),
            (279, 4, 1 << 31, 8),
        ),
    )
    for number, name in (
        (5, "lzw"),
        (7, "jpeg"),
        (8, "deflate"),
        (32773, "packbits"),
        (34925, "lzma"),
        (50000, "zstd"),
        (4, "fax"),
        (99, "nobody's"),
    ):
        yield f"tiff: {name} of noise", "0.tif", layout(64, 64, packing=number, body=random.Random(SEED).randbytes(64))
    yield "tiff: deflated bomb", "0.tif", deflated
    yield "tiff: 100,000 tags", "0.tif", layout(8, 8, *[(40_000, 4, 1, 0)] * 60_000)
    yield "tiff: a tag of 4 GB", "0.tif", layout(8, 8, (33432, 2, (1 << 32) - 1, 8))
    yield "tiff: 0 bits", "0.tif", layout(8, 8, (258, 3, 1, 0))
    gif = picture("gif")
    yield "gif: screen of 65,535", "0.gif", gif[:6] + b"\xff" * 4 + gif[10:]
    yield "gif: frame outside", "0.gif", gif.replace(b",\0\0\0\0", b",\xff\0\xff\0")
    yield "gif: no frame", "0.gif", gif[:13] + b";"
    yield (
        "gif: 200,000 extensions",
        "0.gif",
        gif[: gif.index(b"!") if b"!" in gif else gif.index(b",")] + b"!\xfe\x01a\0" * 200_000 + gif[gif.index(b",") :],
    )
    bmp = picture("bmp")
    for what, width, height in (
        ("2^31 wide", (1 << 31) - 1, 8),
        ("-2^31 high", 8, -(1 << 31)),
        ("0 high", 8, 0),
        ("9,000 x 9,000", 9000, 9000),
    ):
        yield f"bmp: {what}", "0.bmp", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    yield "bmp: run lengths", "0.bmp", bmp[:18] + struct.pack("<iiHHI", 9000, 9000, 1, 8, 1) + bmp[34:]
    yield (
        "bmp: 10^9 colours",
        "0.bmp",
        bmp[:28] + struct.pack("<H", 8) + bmp[30:46] + struct.pack("<I", 10**9) + bmp[50:],
    )
    yield "webp: says 2^32 bytes", "0.webp", (webp := picture("webp"))[:4] + b"\xff" * 4 + webp[8:]
    yield "webp: 16,383 x 5,400", "0.webp", lambda: picture("webp", np.zeros((5400, 16_383, 3), np.uint8), method=0)
    for what, text in (
        ("10^10 wide", "P6 9999999999 1 255\n"),
        ("9,000 x 9,000 of nothing", "P6 9000 9000 255\n"),
        ("-1 wide", "P6 -1 1 255\n"),
        ("greatest of 0", "P5 1 1 0\n0"),
        ("words", "P3 1 1 255 x y z"),
        ("a number of 1 MB", "P2 1 1 255 " + "9" * 10**6),
        ("comments", "P6 " + "#\n" * 10**6 + "1 1 255\nabc"),
        ("text of 9,000 x 9,000", "P1 9000 9000\n1"),
        ("floats of NaN", "Pf 1 1 -1.0\n\0\0\xc0\x7f"),
        ("scale of 0", "Pf 1 1 0\n0000"),
        ("greatest of 70,000", "P5 1 1 70000\n00"),
    ):
        yield f"ppm: {what}", "0.ppm", text.encode("latin-1")
