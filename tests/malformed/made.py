"""What all kinds share: a case, changes of a good file that a seed decides, and what is no plain file at all."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SEED = 20261127
RAN = "../RAN"
"""What no case may bring into being; code in files writes it, a zip-slip aims at it."""

NETS = """
import torch
from torch import nn
def two():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
def ten():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
def digit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


Content = bytes | str | Callable[[], bytes]
"""What is in a file, or what makes it: bombs are packed when they are asked for."""


class Runs:
    """Unpickled with its code run, it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {RAN}",)


class Case(NamedTuple):
    """Words for the command line, and what makes their files in the working folder (which has nets.py)."""

    kind: str
    name: str
    words: tuple[str, ...]
    make: Callable[[Path], object] = lambda folder: None


def asked(model: str, data: str, *more: str) -> tuple[str, ...]:
    """The command that a user would type."""
    return ("run", "-m", model, "-D", data, "-a", "fgsm", "--first", "4", "--workers", "1", *more)


def of_model(model: str) -> tuple[str, ...]:
    """A model that is read when the sweep is planned."""
    return asked(model, "digits", "--dry-run")


def of_pictures(root: str = "pics", more: str = "") -> tuple[str, ...]:
    """Pictures that are read while the sweep is played."""
    return asked("python:nets:two", f"{{imagefolder: {{root: '{root}', size: 8{more}}}}}")


def of_cifar(root: str) -> tuple[str, ...]:
    return asked("python:nets:ten", f"{{cifar10: {{root: '{root}'}}}}")


def put(name: str, content: Content) -> Callable[[Path], object]:
    """One file of this content."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = content() if callable(content) else content
        path.write_bytes(found.encode("utf-8", "surrogatepass") if isinstance(found, str) else found)

    return make


def changes(good: bytes, other: bytes, salt: str) -> Iterator[tuple[str, bytes]]:
    """A small good file, cut, flipped, spliced and under another's header; the same ones for the same words."""
    draw, n = random.Random(f"{SEED}/{salt}"), len(good)
    for part in (0.02, 0.3, 0.6, 0.95):
        yield f"cut at {part:.0%}", good[: max(1, int(n * part))]
    yield "cut by one byte", good[:-1]
    for flips, reach in ((1, 64), (2, 64), (8, 256), (4, n), (32, n)):
        changed = bytearray(good)
        for _ in range(flips):
            changed[draw.randrange(min(n, reach))] ^= 1 << draw.randrange(8)
        yield f"{flips} bits flipped in {min(n, reach)}", bytes(changed)
    a, b = sorted(draw.sample(range(n), 2))
    yield "a piece twice", good[:b] + good[a:]
    yield "a piece of zeros", good[:a] + bytes(b - a) + good[b:]
    yield "a piece of 255", good[:a] + b"\xff" * min(64, n - a) + good[a + 64 :]
    yield "another's header", other[:32] + good[32:]


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has 108 characters at the most
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


def _links(path: Path) -> None:
    path.symlink_to(path.name + "2")
    path.with_name(path.name + "2").symlink_to(path.name)


ODD: dict[str, Callable[[Path], object]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a socket": _socket,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/urandom": lambda path: path.symlink_to("/dev/urandom"),
    "links in a circle": _links,
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "empty": lambda path: path.write_bytes(b""),
    "an LFS pointer": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
    ),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "a folder": lambda path: path.mkdir(),
    "noise": lambda path: path.write_bytes(random.Random(SEED).randbytes(5000)),
    "3 GiB of nothing": _sparse,
}
"""What may stand where a file is expected."""

PATHS = {"/dev/zero": "/dev/zero", "/etc/passwd": "/etc/passwd", "too long": "x" * 5000, "absent": "nowhere"}


def odd(kind: str, what: str, name: str, words: Callable[[str], tuple[str, ...]]) -> Iterator[Case]:
    """Everything of ODD under this name, and paths that lead elsewhere; `words` ask for a path."""
    for label, make in ODD.items():

        def maker(folder: Path, make: Callable[[Path], object] = make) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)

        yield Case(kind, f"{what}: {label}", words(name), maker)
    for label, path in PATHS.items():
        yield Case(kind, f"{what}: {label}", words(path))
