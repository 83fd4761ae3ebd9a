"""Which picture files lie in a folder or in a zip archive, and their bytes; nothing is extracted to disk.

Pictures are told by their ending alone. Names that begin with a dot, __MACOSX, Thumbs.db and desktop.ini are what
systems leave behind: they are no classes, no pictures and are not counted. All else that is no picture is counted.
Links to files are followed, and links to folders where splits and classes stand; a folder inside itself is not.
Sockets, FIFOs and devices are never opened.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from robustsuite.errors import BadData

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".pnm", ".webp", ".tif", ".tiff", ".gif")
LEFT_BEHIND = ("__macosx", "thumbs.db", "desktop.ini")
BYTES = 1 << 29
"""A picture's file is no longer than this, 512 MiB, packed or unpacked."""

UNDOUBTED, HUNDREDFOLD = 1 << 26, 100
"""A member above 64 MiB unpacks to a hundred times its size at the most: no picture packs better, but for bombs."""

LINKED = 2
"""Links to folders are followed so deep, for splits and classes; with no limit, folders that link to one another would
be read along every path through them."""

Inode = tuple[int, int]


class Member(NamedTuple):
    """A file inside a zip archive."""

    archive: Path
    name: str
    size: int


File = Path | Member


class Listing(NamedTuple):
    """Pictures by the folder they lie in, 'a/b' relative to the root, empty folders too; other files by ending."""

    folders: dict[str, list[File]]
    aside: Counter[str]


def opened(archive: Path) -> zipfile.ZipFile:
    """An archive, opened once for as long as it stays the same. Raises BadData where it is none."""
    try:
        told = archive.stat()
        return _opened(archive, told.st_ino, told.st_size, told.st_mtime_ns)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadData(f"expected a zip archive at {str(archive)!r}, got {error}; fetch it again") from error


@lru_cache(16)
def _opened(archive: Path, *stamp: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def listed(root: Path) -> dict[str, list[File]]:
    """Files by the folder they lie in, 'a/b' relative to root (a folder or a zip); empty folders too, all sorted."""
    return listing(root).folders


def listing(root: Path) -> Listing:
    """The pictures under root, a folder or a zip, and how many files of which other kinds lie there; raises BadData."""
    if root.is_file():
        return _zipped(root)
    if not root.is_dir():
        raise BadData(f"expected a folder or a zip of pictures, got {str(root)!r}, which is not there; check root")
    found = Listing({}, Counter())
    ahead: list[tuple[str, tuple[Inode, ...]]] = [("", ())]
    while ahead:
        folder, above = ahead.pop()
        here, below, names, others = _inside(root / folder, links=len(above) < LINKED)
        if here in above:  # a link to a folder that it lies in
            continue
        found.aside.update(others)
        found.folders[folder] = [root / folder / name for name in names]
        ahead += [(f"{folder}/{name}" if folder else name, (*above, here)) for name in below]
    return Listing(dict(sorted(found.folders.items())), found.aside)


def _inside(place: Path, *, links: bool) -> tuple[Inode, list[str], list[str], list[str]]:
    """Which folder it is, the names of the folders in it, of its pictures, and its other files' endings."""
    try:
        told = place.stat()
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda e: e.name)
    except OSError as error:
        raise BadData(f"expected a folder that can be read at {str(place)!r}, got {error.strerror}; mend it") from error
    below, names, others = list[str](), list[str](), list[str]()
    for entry in entries:
        if _left_behind(entry.name):
            continue
        kind = _kind(entry, links=links)
        if kind == "folder":
            below.append(entry.name)
        elif kind == "file" and _is_picture(entry.name):
            names.append(entry.name)
        else:
            others.append(_ending(entry.name) if kind == "file" else kind)
    return (told.st_dev, told.st_ino), below, names, others


def _zipped(archive: Path) -> Listing:
    found, members = Listing({}, Counter()), opened(archive).infolist()
    if sum(info.compress_size for info in members) > archive.stat().st_size:
        raise BadData(f"expected members side by side in {str(archive)!r}, got some that overlap; pack it again")
    if twice := [name for name, n in Counter(info.filename for info in members).items() if n > 1]:
        raise BadData(f"expected each name once in {str(archive)!r}, got {twice[0][:100]!r} twice; pack it again")
    for info in sorted(members, key=lambda i: i.filename):
        parts = PurePosixPath(info.filename).parts
        if info.filename.startswith(("/", "\\")) or ".." in parts or ":" in info.filename[:2]:
            raise BadData(
                f"expected names below the root of {str(archive)!r}, got {info.filename!r}; pack it again, nothing "
                f"was extracted"
            )
        if any(map(_left_behind, parts)):
            continue
        folder, _, name = info.filename.rpartition("/")
        files = found.folders.setdefault(folder, [])
        if _is_picture(name):
            files.append(Member(archive, info.filename, info.file_size))
        elif name:
            found.aside[_ending(name)] += 1
    return found


def _kind(entry: os.DirEntry[str], *, links: bool) -> str:
    """What a name is, or what its link leads to; links: those to folders are followed."""
    with suppress(OSError):  # a link to itself
        if entry.is_dir(follow_symlinks=links):
            return "folder"
        if entry.is_file():
            return "file"
    return "links not followed, FIFOs and devices"


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "none"


def said(file: File) -> str:
    """A file as a sentence names it, in quotes, whatever characters are in its name."""
    return f"{file.name!r} of {str(file.archive)!r}" if isinstance(file, Member) else repr(str(file))


def length(file: File) -> int:
    """Bytes that the file has, or that its archive declares; 0 where that cannot be told."""
    with suppress(OSError):
        return file.size if isinstance(file, Member) else file.stat().st_size
    return 0


def content(file: File) -> bytes:
    """A picture file's bytes; raises BadData where it is too long or cannot be read."""
    with stream(file) as found:
        return found.read()


@contextmanager
def stream(file: File) -> Iterator[IO[bytes]]:
    """A picture file, open; raises BadData where it is too long or cannot be read, also while that is done."""
    try:
        if not isinstance(file, Member) and length(file) > BYTES:
            raise _too_long(file, length(file))
        with _member(file) if isinstance(file, Member) else file.open("rb") as found:
            yield found
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise BadData(f"expected a picture in {said(file)}, got {got}; fetch it again") from error


def _member(file: Member) -> IO[bytes]:
    """A member, which unpacks to no more than it declares, whatever is in it."""
    archive = opened(file.archive)
    info = archive.getinfo(file.name)
    if info.flag_bits & 1:
        raise BadData(f"expected pictures without a password, got {said(file)} encrypted; unpack and pack it again")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadData(f"expected a member stored or deflated, got {said(file)} packed otherwise; pack it again")
    if info.file_size > BYTES:
        raise _too_long(file, info.file_size)
    if info.file_size > max(UNDOUBTED, HUNDREDFOLD * info.compress_size):
        raise BadData(f"expected a picture in {said(file)}, got {info.compress_size:,} bytes that unpack to "
                      f"{info.file_size:,}; leave it out")  # fmt: skip
    return archive.open(info)


def _too_long(file: File, size: int) -> BadData:
    return BadData(
        f"expected a picture of at most {BYTES >> 20} MiB in {said(file)}, got {size >> 20} MiB; leave it out"
    )
