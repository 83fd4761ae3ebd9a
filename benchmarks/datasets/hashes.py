"""sha256 of picture files' bytes, each file read once: what was read is kept by path, size and times of change."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from robustsuite.benchmarks.datasets.listing import File, Member, stream
from robustsuite.serve.kept import cache_folder

Known = dict[str, tuple[int, int, int, str]]
"""Path -> size, time of change of content and of the file's entry (ns), sha256."""
KNOWN = TypeAdapter(Known)

SETTLED = 2_000_000_000
"""A file changed less than this (ns) before it was read may change again within a tick of its clock: it is not kept."""
THREADS, PIECE = 8, 1 << 20


def digests(files: Sequence[File]) -> list[str]:
    """sha256 in hex of each file's bytes, in order; raises BadData for one that cannot be read."""
    if not files:
        return []
    kept = _kept(files)
    known, now = _known(kept), time.time_ns()
    stamps: dict[Path, tuple[int, int, int]] = {}
    for place in {_place(file) for file in files}:
        with suppress(OSError):  # gone since it was listed: reading it says so
            told = place.stat()
            stamps[place] = (told.st_size, told.st_mtime_ns, told.st_ctime_ns)

    def one(file: File) -> str:
        stamp, before = stamps.get(_place(file)), known.get(_key(file))
        if before and before[:3] == stamp:
            return before[3]
        with stream(file) as found:  # a piece at a time: eight threads read files of half a gigabyte each
            digest = hashlib.sha256()
            while piece := found.read(PIECE):
                digest.update(piece)
        return digest.hexdigest()

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(one, files))
    settled = {
        _key(file): (*stamp, digest) for file, digest in zip(files, found, strict=True)
        if (stamp := stamps.get(_place(file))) and max(stamp[1:]) < now - SETTLED
    }  # fmt: skip
    if not settled.items() <= known.items():
        _keep(kept, known | settled)
    return found


def _place(file: File) -> Path:
    return file.archive if isinstance(file, Member) else file


def _key(file: File) -> str:
    """Any name a file may have, as text that JSON can hold."""
    name = f"{file.archive.absolute()}//{file.name}" if isinstance(file, Member) else str(file.absolute())
    return os.fsencode(name).hex() if not name.isprintable() else name


def _kept(files: Sequence[File]) -> Path:
    """Where the hashes of these files' folder or archive are kept."""
    above = os.path.commonpath([str(_place(file).absolute()) for file in files])
    return cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(above)).hexdigest()}.json"


def _known(kept: Path) -> Known:
    try:
        return KNOWN.validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        return {}


def _keep(kept: Path, known: Known) -> None:
    """Written aside, then renamed; where that cannot be done the files are read again next time."""
    aside = kept.with_suffix(f".{uuid4().hex}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(KNOWN.dump_json(known))
        os.replace(aside, kept)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
