"""What a service was asked and said, on disk: a picture that was answered is never asked again, the bill stays exact.

One file of lines a process: a line before a request is sent, one when it has ended. What a kill cuts off is the last
line; a picture that was sent and never answered is asked again, and counted as sent twice.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

Said = list[float] | int
"""An answer: scores a class, or one class."""


class Bill(NamedTuple):
    """Pictures sent, answered, refused before they were looked at (429, 503 ...), and with no reply that could be read.

    Only answered ones and those without a reply can have been billed.
    """

    sent: int
    answered: int
    refused: int
    lost: int

    @property
    def most(self) -> int:
        """What the service can have counted at the most."""
        return self.sent - self.refused


class Ledger:
    """The answers of one service by the hash of what was sent; in memory alone for a folder of None."""

    def __init__(self, folder: Path | None, target: str) -> None:
        self.answers: dict[str, Said] = {}
        self.unstable: list[str] = []
        self.versions: set[str] = set()
        self._count = dict.fromkeys(("sent", "answered", "refused", "lost"), 0)
        self._lock = threading.Lock()
        self._file: Any = None
        if folder is None:
            return
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted(place.glob("*.jsonl")):
            for line in file.read_bytes().split(b"\n"):
                self._read(line)
        self._file = (place / f"{uuid4().hex}.jsonl").open("ab")

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            kind, keys = entry["is"], entry["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # cut off by a kill
        self._counted(kind, keys, entry)

    def _counted(self, kind: str, keys: Sequence[str], entry: dict[str, Any]) -> None:
        if kind in self._count:
            self._count[kind] += len(keys)
        if kind == "answered":
            self.answers |= dict(zip(keys, entry["said"], strict=True))
        if kind == "again":
            self._count["answered"] += len(keys)
        if kind == "unstable":
            self.unstable += keys
        if version := entry.get("version"):
            self.versions.add(str(version))

    def note(self, kind: str, keys: Iterable[str], **more: Any) -> None:
        """Write down that these pictures were sent, answered (or `again`), refused, lost, or answered otherwise."""
        entry = {"is": kind, "keys": list(keys), **more}
        with self._lock:
            self._counted(kind, entry["keys"], entry)
            if self._file is not None:
                self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())

    def bill(self) -> Bill:
        """So far, over all processes that have ended and this one."""
        with self._lock:
            return Bill(**self._count)
