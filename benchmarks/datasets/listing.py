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
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from robustsuite.errors import BadData

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".pnm", ".webp", ".tif", ".tiff", ".gif")
LEFT_BEHIND = ("__macosx", "thumbs.db", "desktop.ini")
BYTES = 1 << 29
"""A picture's file is no longer than this, 512 MiB, packed or unpacked."""

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
    found = Listing({}, Counter())
    for info in sorted(opened(archive).infolist(), key=lambda i: i.filename):
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


def content(file: File) -> bytes:
    """A picture file's bytes; raises BadData where it is too long or cannot be read."""
    try:
        if isinstance(file, Member):
            return _unpacked(file)
        size = file.stat().st_size
        if size > BYTES:
            raise _too_long(file, size)
        return file.read_bytes()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise BadData(f"expected a picture in {said(file)}, got {got}; fetch it again") from error


def _unpacked(file: Member) -> bytes:
    archive = opened(file.archive)
    info = archive.getinfo(file.name)
    if info.flag_bits & 1:
        raise BadData(f"expected pictures without a password, got {said(file)} encrypted; unpack and pack it again")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadData(f"expected a member stored or deflated, got {said(file)} packed otherwise; pack it again")
    if info.file_size > BYTES:
        raise _too_long(file, info.file_size)
    with archive.open(info) as stream:  # asked for as much as is declared and a byte, a lie unpacks to no more
        return stream.read(info.file_size + 1)


def _too_long(file: File, size: int) -> BadData:
    return BadData(
        f"expected a picture of at most {BYTES >> 20} MiB in {said(file)}, got {size >> 20} MiB; leave it out"
    )
