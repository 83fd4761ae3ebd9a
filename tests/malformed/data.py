"""Malformed data: pictures, folders of them, zips, npz packs and CIFAR-10's files."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.malformed.made import RAN, SEED, Case, Content, asked, changes, odd, of_cifar, of_pictures, put
from tests.malformed.models import Runs

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


def zipped(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@cache
def good_zip(packing: int = zipfile.ZIP_STORED) -> bytes:
    return zipped({f"{'ab'[i // 2]}/p{i}.png": picture("png", PIXELS[i]) for i in range(4)}, packing)


def fields(content: bytes, offset: int, value: bytes, local: int | None = None) -> bytes:
    """Bytes at an offset in every entry of the directory, and in every file's own header where `local` is given."""
    changed, at = bytearray(content), -1
    for magic, where in ((b"PK\1\2", offset), (b"PK\3\4", local)):
        at = -1
        while where is not None and (at := content.find(magic, at + 1)) >= 0:
            changed[at + where : at + where + len(value)] = value
    return bytes(changed)


def zips() -> Iterator[tuple[str, Content]]:
    good, png1 = good_zip(), picture("png")
    yield from changes(good, png1, "zip")
    yield from ((f"deflated, {k}", v) for k, v in list(changes(good_zip(8), png1, "zip8"))[4:])
    yield "wrong checksum", fields(good, 16, b"abcd", 14)
    yield "encrypted", fields(good, 8, b"\1", 6)
    yield "packed by 99", fields(good, 10, b"\x63\0", 8)
    yield "bzip2", good_zip(zipfile.ZIP_BZIP2)
    yield "declares 10 bytes", fields(good_zip(8), 24, struct.pack("<I", 10), 22)
    yield "declares 2 GiB", fields(good, 24, struct.pack("<I", (1 << 31) - 1), 22)
    yield "declares 500 MiB each", fields(good_zip(8), 24, struct.pack("<I", 500 << 20), 22)
    yield "headers elsewhere", fields(good, 42, struct.pack("<I", 1 << 30))
    yield "all overlap", fields(good, 42, bytes(4))
    yield "packed beyond its end", fields(good, 20, struct.pack("<I", 1 << 30), 18)
    for name in (
        RAN,
        "/../RAN",
        "a/../../RAN.png",
        "..\\..\\RAN.png",
        "C:\\RAN.png",
        "/etc/x.png",
        "a/\0b.png",
        "a/" + "b" * 5000 + ".png",
        "a//p.png",
        "./a/p.png",
        "a/\x1b[31m.png",
        "/",
    ):
        yield f"named {name[:20]!r}", zipped({"a/p.png": png1, name: png1})
    yield "one name twice", good[:-22] and _twice(png1)
    yield "a zip in it", zipped({"a/p.png": good, "b/p.png": png1})
    yield (
        "eight files of 500 MiB",
        lambda: zipped({"a/0.png": b""} | dict.fromkeys((f"b/{i}.png" for i in range(8)), bytes(500 << 20))),
    )
    yield "60,000 empty files", lambda: zipped({f"a/{i}.png": b"" for i in range(60_000)}, 0)
    yield "a link", _link()
    yield "no member", zipped({})
    yield "no picture", zipped({"a/x.txt": b"x"})
    yield "directory of 2^32 files", good[:-14] + b"\xff" * 4 + good[-10:]
    yield "text before and after", b"x" * 1000 + good + b"y" * 1000


def _twice(content: bytes) -> bytes:
    import warnings

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("a/p.png", "a/p.png", "b/p.png"):
            archive.writestr(name, content)
    return out.getvalue()


def _link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("a/p.png")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("b/p.png", picture("png"))
    return out.getvalue()


def pack(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def lying_npy(shape: str, dtype: str = "|u1") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
    head += " " * (63 - (len(head) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode() + bytes(64)


def packs() -> Iterator[tuple[str, Content]]:
    labels = np.arange(10)
    good = pack(images=PIXELS, labels=labels)
    yield from changes(good, good_zip(), "npz")
    blob = [picture("jpg", one) for one in PIXELS]
    joined, cuts = np.frombuffer(b"".join(blob), np.uint8), np.cumsum([0, *map(len, blob)])
    odd_labels: dict[str, Any] = {
        "words": np.array(["a"] * 10),
        "NaN": np.full(10, np.nan),
        "halves": labels + 0.5,
        "ten": labels + 1,
        "negative": labels - 1,
        "2^63": np.full(10, 1 << 63, np.uint64),
        "nine": labels[:9],
        "(10, 1)": labels[:, None],
        "one number": np.array(3),
        "none": labels[:0],
        "complex": labels.astype(complex),
        "dates": np.array(["2020-01-01"] * 10, "datetime64[D]"),
        "fields": np.zeros(10, [("a", "i4")]),
        "booleans": labels > 4,
        "objects": np.array([Runs()] * 10, object),
    }
    yield from ((f"labels: {k}", pack(images=PIXELS, labels=v)) for k, v in odd_labels.items())
    images: dict[str, Any] = {
        "floats": PIXELS / 255,
        "NaN": np.full(PIXELS.shape, np.nan),
        "NCHW": PIXELS.transpose(0, 3, 1, 2),
        "grey": PIXELS[..., 0],
        "signed": PIXELS.astype(np.int8),
        "objects": np.array([PIXELS[0], PIXELS[0][:5]], object),
        "objects that run": np.array([Runs()], object),
        "none": PIXELS[:0],
        "a number": np.array(3),
        "words": np.array(["x"] * 10),
    }
    yield from ((f"images: {k}", pack(images=v, labels=labels)) for k, v in images.items())
    offsets: dict[str, Any] = {
        "negative": -cuts,
        "back": cuts[::-1],
        "beyond": cuts * 1000,
        "halves": cuts + 0.5,
        "short": cuts[:3],
        "words": cuts.astype(str),
        "2^63": cuts.astype(np.uint64) + (1 << 63),
        "one": np.array(3),
        "NaN": np.full(11, np.nan),
        "rows": cuts[:, None],
    }
    yield from ((f"offsets: {k}", pack(jpeg=joined, offsets=v, labels=labels)) for k, v in offsets.items())
    ragged = [picture("jpg", PIXELS[0][:5]), *blob[1:]]
    yield (
        "jpeg: ragged",
        pack(jpeg=np.frombuffer(b"".join(ragged), np.uint8), offsets=np.cumsum([0, *map(len, ragged)]), labels=labels),
    )
    yield (
        "jpeg: EPS",
        pack(
            jpeg=np.frombuffer(shell(OTHERS["EPS"]), np.uint8),
            offsets=np.array([0, len(shell(OTHERS["EPS"]))]),
            labels=labels[:1],
        ),
    )
    yield "jpeg alone", pack(jpeg=joined)
    yield "no array", zipped({"a.txt": b"x"})
    yield "a pickle that runs", zipped({"images.npy": pickle.dumps(Runs()), "labels.npy": b""})
    for shape in (
        "(1000000000000, 32, 32, 3)",
        "(10000000, 32, 32, 3)",
        "(-1, 32)",
        "(1, 2",
        "'x'",
        "(1.5,)",
        "9**9**9",
        "__import__('os').system('touch ../RAN')",
    ):
        yield f"shape {shape[:24]}", zipped({"images.npy": lying_npy(shape), "labels.npy": lying_npy("(1,)", "<i8")})
    yield (
        "an array of 2 GiB",
        lambda: zipped(
            {
                "images.npy": lying_npy("(700000, 32, 32, 3)")[:-64] + bytes(700_000 * 3072),
                "labels.npy": lying_npy("(700000,)", "<i8")[:-64] + bytes(700_000 * 8),
            }
        ),
    )
    yield "a header of 60 KB", zipped({"images.npy": lying_npy("(" * 30_000), "labels.npy": b""})


def batch(data: Any = None, labels: Any = None, **more: Any) -> bytes:
    rows = PIXELS.reshape(10, -1)
    return pickle.dumps(
        {b"data": rows if data is None else data, b"labels": list(range(10)) if labels is None else labels, **more}, 2
    )


def tarred(members: dict[str, bytes], **how: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in how.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar() -> Iterator[tuple[str, str, Content]]:
    """(what, path, content) of CIFAR-10's own files; the root is the path's folder, or an archive itself."""
    place, good = "c/test_batch", batch()
    yield from ((f"python: {k}", place, v) for k, v in changes(good, picture("png"), "cifar"))
    raw = b"".join(bytes([i]) + PIXELS[i].tobytes() for i in range(10))
    yield from ((f"binary: {k}", "c/test_batch.bin", v) for k, v in list(changes(raw, good, "bin"))[:8])
    archive = tarred({"cifar-10-batches-py/test_batch": good})
    yield from ((f"tar: {k}", "c.tar.gz", v) for k, v in changes(archive, good, "tar"))
    rows = PIXELS.reshape(10, -1)
    for what, content in {
        "runs": pickle.dumps(Runs()),
        "runs inside": batch(more=Runs()),
        "words": batch(labels=["a"] * 10),
        "NaN": batch(labels=[float("nan")] * 10),
        "halves": batch(labels=[0.5] * 10),
        "2^70": batch(labels=[1 << 70] * 10),
        "ten": batch(labels=[10] * 10),
        "ragged": batch(labels=[[1], [1, 2]]),
        "rows of another length": batch(rows[:, :9]),
        "floats": batch(rows / 255),
        "a list": pickle.dumps([1], 2),
        "no rows": batch(rows[:0], []),
        "rows of lists": batch(rows[:, :3].tolist()),
        "objects": batch(np.array([object] * 0 + [None] * 10, object)),
        "one label": batch(labels=3),
        "labels in columns": batch(labels=np.arange(10)[:, None]),
        "a memo of billions": b"\x80\x02}r\xff\xff\xff\x0f.",
        "a word of gigabytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        "100,000 tuples": b"(" * 100_000 + b"t" * 100_000 + b".",
        "a frame of gigabytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        "an array of 10^13": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L10000000000000L\ntS'b'\ntR.",
        "encode by a codec": b"c_codecs\nencode\n(V" + b"a" * 99 + b"\nVzlib\ntR.",
        "a dtype of nonsense": b"cnumpy\ndtype\n(S'V99999999999'\ntR.",
        "a state of nonsense": b"cnumpy\ndtype\n(S'f8'\ntR(I3\nS'<'\nNNNI-1\nI-1\nI9999\ntb.",
    }.items():
        yield f"python: {what}", place, content
    yield "python: 3 GiB of noughts", place, b""
    yield "binary: labels of 255", "c/test_batch.bin", (b"\xff" + bytes(3072)) * 10
    yield "tar: a member of 2 GiB", "c.tar.gz", _huge_tar
    yield "tar: a FIFO", "c.tar.gz", tarred({"cifar-10-batches-py/test_batch": b""}, type=tarfile.FIFOTYPE)
    yield (
        "tar: a link",
        "c.tar.gz",
        tarred({"cifar-10-batches-py/test_batch": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    )
    yield (
        "tar: links to itself",
        "c.tar.gz",
        tarred(
            {"cifar-10-batches-py/test_batch": b""}, type=tarfile.LNKTYPE, linkname="cifar-10-batches-py/test_batch"
        ),
    )
    yield "tar: above", "c.tar.gz", tarred({RAN: good})
    yield "tar: 50,000 members", "c.tar.gz", lambda: tarred({f"x{i}": b"" for i in range(50_000)})
    yield "tar: no batch", "c.tar.gz", tarred({"x": b""})


@cache
def _huge_tar() -> bytes:
    return tarred({"cifar-10-batches-py/test_batch": bytes(2 << 30)})


def _sparse(path: str, size: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        put(path, b"")(folder)
        os.truncate(folder / path, size)

    return make


CLASSES = {
    "words": "a\tb\tc",
    "one index twice": "0\ta\n0\tb",
    "a gap": "0\ta\n2\tb",
    "no tabs": "0 a",
    "bytes": b"\xff\xfe",
    "nothing": "",
    "unknown": "0\tx",
    "a digit of another kind": "²\ta",
    "10^5000": "1" + "0" * 5000 + "\ta",
}
TREES: dict[str, Callable[[Path], object]] = {
    "a folder inside itself": lambda f: (f / "pics/a/up").symlink_to(".."),
    "a class linked to /": lambda f: (f / "pics/root").symlink_to("/"),
    "links in a circle": lambda f: (f / "pics/c").symlink_to("c"),
    "a class of a FIFO": lambda f: os.mkfifo(f / "pics/c"),
    "names of bytes": lambda f: os.mkdir(os.fsencode(f / "pics") + b"/\xff\xfe"),
    "a name of escapes": lambda f: (f / "pics/\x1b[31m\n").mkdir(),
    "300 levels": lambda f: os.makedirs(f / "pics/a" / "/".join("d" * 300)),
    "20,000 classes": lambda f: [(f / f"pics/{i}").mkdir() for i in range(20_000)],
    "two vals": lambda f: [(f / f"pics/{n}/a").mkdir(parents=True) for n in ("val", "valid")],
    "test without pictures": lambda f: (f / "pics/test/a").mkdir(parents=True),
    "unreadable name": lambda f: (f / "pics/a/\udcff.png").write_bytes(b"x"),
    "eight of 500 MiB": lambda f: [_sparse(f"pics/a/{i}.png", 500 << 20)(f) for i in range(8)],
    "one of 3 GiB": _sparse("pics/a/0.png", 3 << 30),
    "a picture for a class": lambda f: (f / "pics/c").write_bytes(picture("png")),
}
NUMBERS = ("0", "-1", "1000000", "1.5", "x", "null", "[8]", "10000000000000000000000", ".nan")


def cases() -> Iterator[Case]:
    """All of them, in their order."""
    for ending in FORMATS:
        good = picture(ending)
        for what, content in changes(good, picture("png" if ending != "png" else "bmp"), ending):
            yield of_bad(f"{ending}: {what}", f"0.{ending}", content)
    for what, name, content in crafted():
        yield of_bad(what, name, content)
    yield of_bad("two bombs at once", ".png", lambda: png(9_000, 9_000), 2)
    for what, make in TREES.items():
        yield Case(
            "picture folders", what, of_pictures(), lambda folder, make=make: (folders(folder, {}), make(folder))
        )
    for number in NUMBERS:
        for key in ("size", "resize"):
            words = asked("python:nets:two", f"{{imagefolder: {{root: pics, {key}: {number}}}}}")
            yield Case("picture folders", f"{key}: {number}", words, lambda folder: folders(folder, {}))
    for what, text in CLASSES.items():
        yield Case(
            "picture folders",
            f"classes: {what}",
            of_pictures(more=", classes_file: c"),
            lambda folder, text=text: (folders(folder, {}), put("c", text)(folder)),
        )
    for what, content in zips():
        yield Case("zips", what, of_pictures("z.zip"), put("z.zip", content))
    for what, content in packs():
        yield Case("npz, CIFAR-10", f"npz: {what}", of_cifar("p_test.npz"), put("p_test.npz", content))
    for what, path, content in cifar():
        make = _sparse(path, 3 << 30) if "3 GiB" in what else put(path, content)
        yield Case("npz, CIFAR-10", what, of_cifar(path.partition("/")[0]), make)
    kind = "no plain file, as data"
    yield from odd(
        kind, "picture", "pics/a/0.png", lambda path: of_pictures() if path[:4] == "pics" else of_pictures(path)
    )
    yield from odd(kind, "zip", "z.zip", of_pictures)
    yield from odd(kind, "npz", "p_test.npz", of_cifar)
    yield from odd(kind, "batch", "c/test_batch", lambda path: of_cifar(path.partition("/")[0] or path))
    yield from odd(kind, "tar", "c.tar.gz", of_cifar)
    yield from odd(kind, "classes", "c", lambda path: of_pictures(more=f", classes_file: '{path}'"))
