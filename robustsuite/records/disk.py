"""How files get to where readers look: written aside, then renamed, so that one is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from robustsuite.errors import BadOutput, brief
from robustsuite.records.leases import left, mark

STALE = 24 * 3600.0
"""Seconds after which what another machine was writing is taken for left over."""


def aside(name: str) -> str:
    """A name that no other writer on this file system has, and that says whose it is."""
    return f".writing-{mark()}-{uuid4().hex}-{name}"


def stale(left_over: Path) -> bool:
    """Whether nobody can be writing this any more; what another process writes is left alone."""
    if left(left_over.name.split("-")[1]):
        return True
    try:
        return time.time() - left_over.stat().st_mtime > STALE
    except FileNotFoundError:
        return False


def place(written: Path, final: Path) -> None:
    """Rename a whole folder to its name, whatever stands there and whoever does the same: the last one stays."""
    while True:
        try:
            return os.replace(written, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        gone = written.with_name(aside("gone"))
        with suppress(FileNotFoundError):  # another writer was quicker
            os.rename(final, gone)
            remove(gone)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def dump(file: Path, value: dict[str, Any]) -> None:
    """Write JSON, down to the disk."""
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        synced(stream)


def synced(stream: Any) -> None:
    """Have an open file's content on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the file system says into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadOutput(
                f"expected room on the disk that holds {folder}, got none; free some and run the same command again: "
                f"finished cells are kept"
            ) from error
        raise BadOutput(
            f"expected a folder that can be written at {brief(str(folder))}, got {error.strerror or error}; "
            f"choose one with --out"
        ) from error
