"""Malformed archives: zips of pictures, npz packs and CIFAR-10's own files."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from tests.malformed.made import RAN, Content, Runs, changes
from tests.malformed.pictures import OTHERS, PIXELS, picture, shell


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
    yield "one name twice", twice(png1)
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


def twice(content: bytes) -> bytes:
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
