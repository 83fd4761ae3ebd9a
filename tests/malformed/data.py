"""Malformed data, all of it: pictures, folders of them, archives, CIFAR-10's files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.malformed.archives import cifar, packs, zips
from tests.malformed.made import Case, asked, changes, odd, of_cifar, of_pictures, put
from tests.malformed.pictures import FORMATS, crafted, folders, of_bad, picture, png


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
