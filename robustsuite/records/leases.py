"""Who works on what: a file that one process creates, keeps fresh and removes; what a dead one held is taken over.

Exclusive creation is atomic on local disks, NFS from version 3 on and Lustre; nothing here needs a lock of the file
system. A lease saves work and decides nothing: a lost race costs time, never a row, since whoever computes something
stores the same. On one machine a process is known to be dead by its pid and start; on another by a beat that stopped,
by the file system's own clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

BEAT = 10.0
"""Seconds between two signs of life."""

SILENT = 12 * BEAT
"""Seconds without one after which a process on another machine is taken for dead; an NFS client may look 60 s late."""

PAUSE = 0.2
"""Seconds between two looks at what another process does."""


@dataclass(frozen=True)
class Lease:
    """What is held. died: how many processes of the same run have died over it."""

    path: Path
    owner: str
    died: int = 0


@contextmanager
def leased(path: Path, run: str = "") -> Iterator[Lease | None]:
    """Hold `path` while it lasts; None where another live process does. run: whose deaths are counted.

    Where no file can be created there (a cache that is only read) it is held without one.
    """
    lease = _taken(path, run)
    if lease is not None:
        _HEART.held[lease.path] = None
        _HEART.start()
    try:
        yield lease
    finally:
        if lease is not None:
            _HEART.held.pop(lease.path, None)
            with suppress(OSError):
                if _read(path).get("owner") == lease.owner:
                    path.unlink()


@contextmanager
def waited(path: Path) -> Iterator[Lease]:
    """Hold `path` as soon as nobody else does."""
    while True:
        with leased(path) as lease:
            if lease is not None:
                yield lease
                return
        time.sleep(PAUSE)


def held(path: Path) -> bool:
    """Whether a live process holds it."""
    return path.exists() and not _dead(path, _read(path))


def _taken(path: Path, run: str) -> Lease | None:
    died = 0
    if path.exists():
        before = _read(path)
        if not _dead(path, before):
            return None
        counted = before.get("died")
        died = counted + 1 if run and before.get("run") == run and isinstance(counted, int) else 0
        with suppress(OSError):  # only one of several succeeds
            gone = path.with_name(f"{path.name}.{uuid4().hex}")
            os.rename(path, gone)
            gone.unlink()
    owner = uuid4().hex
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            json.dump({"owner": owner, "run": run, "died": died, **_me()}, file)
    except FileExistsError:
        return None
    except OSError:
        pass
    return Lease(path, owner, died)


def _read(path: Path) -> dict[str, object]:
    """What stands in a lease; nothing where it is just being written, or gone."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dead(path: Path, owner: dict[str, object]) -> bool:
    me = _me()
    if owner.get("machine") == me["machine"] and isinstance(pid := owner.get("pid"), int):
        return _started(pid) != owner.get("started")
    try:
        return _now(path.parent) - path.stat().st_mtime > SILENT
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The file system's clock: that of another machine may go differently."""
    probe = folder / f".now-{uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def mark() -> str:
    """This process in a file's name, so that what it leaves half-written is known for its own."""
    return f"{_place()}.{os.getpid()}.{_started(os.getpid())}"


def left(marked: str) -> bool:
    """Whether the process of this mark was one of this machine and has ended."""
    place, _, rest = marked.partition(".")
    pid, _, started = rest.partition(".")
    return place == _place() and pid.isdigit() and _started(int(pid)) != started


@cache
def _place() -> str:
    return hashlib.sha256(_machine().encode()).hexdigest()[:8]


def _me() -> dict[str, object]:
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "started": _started(pid)}


@cache
def _machine() -> str:
    """This machine since its last start, and of it the part in which pids mean the same."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's words; None for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "alive"
    return None if status[0] in "ZX" else status[19]


class _Heart:
    """Touches what this process holds, as long as it lives."""

    def __init__(self) -> None:
        self.held: dict[Path, None] = {}
        self.pid = 0

    def start(self) -> None:
        if self.pid != os.getpid():  # a fork has no thread but its own
            self.pid = os.getpid()
            threading.Thread(target=self.beat, name="leases", daemon=True).start()

    def beat(self) -> None:
        while True:
            time.sleep(BEAT)
            for path in list(self.held):
                with suppress(OSError):
                    os.utime(path)


_HEART = _Heart()
