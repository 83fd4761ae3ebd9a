"""Results on disk: runs/<name>/cells/<run_id>/{run.json, examples.parquet}, written aside, then renamed.

What a training found out about its network (a defense's own chart) stands beside them, in artefacts/.

No database, no lock, no pickle. A cell is there whole or not at all, so a killed run resumes by looking; several runs
may write into one folder. A long cell's parts stand in parts/<run_id>/ until the last one is there, and leases/ says
who works on what; neither is needed once the run has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Container, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from robustsuite.engine.parts import Played, read_part, write_part
from robustsuite.errors import BadData
from robustsuite.records.cells import read_audit, read_cell, read_sweep
from robustsuite.records.disk import aside, dump, place, remove, stale, synced, writable
from robustsuite.records.examples import PACKED, stamp_of, table_of
from robustsuite.records.leases import Lease, held, leased
from robustsuite.records.packed import CELLS, Known, known
from robustsuite.records.pictures import FOLDER as PICTURES
from robustsuite.records.pictures import Kept, digest_of, read_pictures, write_pictures
from robustsuite.records.schema import CellRecord, dumped
from robustsuite.records.seal import SEAL, Seal, digest_of_sweep, digests_of_artefacts, read_seal, sealed
from robustsuite.records.untrusted import object_of, text_of

FINISHED = ("done", "inert", "refused", "unmeasured")
"""Statuses that are not tried again; `failed` is."""

class Store:
    """One run's folder. run: the run that looks at it now, the same for all its workers."""

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder, self.run = folder, run or uuid4().hex
        self.cells = folder / "cells"
        self._pack = folder / PACKED / CELLS
        self._stamp: tuple[int, int] | None = None
        self._packed: dict[str, Known] = {}
        with writable(folder):
            self.cells.mkdir(parents=True, exist_ok=True)
            self._sweep()
            probe = self.cells / aside("probe")
            probe.mkdir()
            probe.rmdir()

    @property
    def packed(self) -> dict[str, Known]:
        """The cells of the pack by run id, read once and again where another pack has taken its place."""
        stamp = stamp_of(self._pack)
        if stamp != self._stamp:
            self._stamp, self._packed = stamp, known(self.folder)
        return self._packed

    def finished(self, run_id: str) -> bool:
        """Whether this cell needs no more work."""
        own = self.cells / run_id
        if own.exists():
            with suppress(BadData):
                return read_cell(own).status in FINISHED
        kept = self.packed.get(run_id)
        return kept is not None and kept.status in FINISHED

    def ended(self, run_id: str) -> CellRecord | None:
        """The record of a cell that needs no more work in this run: finished, or failed in this very run."""
        try:
            record = read_cell(self.cells / run_id)
        except BadData:
            return None
        return record if record.status in FINISHED or self.failed(run_id) else None

    def lease(self, name: str) -> AbstractContextManager[Lease | None]:
        """Hold what has this name while it lasts; None where another live process does."""
        return leased(self.folder / "leases" / name, self.run)

    def parts(self, run_id: str) -> Parts:
        """The parts of a cell."""
        return Parts(self.folder, run_id)

    def halfway(self) -> dict[str, int]:
        """How many parts there are of each cell that is not whole yet."""
        found = {}
        for cell in (self.folder / "parts").glob("*"):
            with suppress(OSError):  # whole meanwhile, and its parts removed
                found[cell.name] = sum(1 for _ in cell.glob("*.parquet"))
        return found

    def tidy(self) -> None:
        """Remove what only a run at work needs, where no other is at work."""
        self._sweep()
        for left_over in (self.folder / "leases").glob("*"):
            if left_over.name.startswith(f"failed-{self.run}-") or not held(left_over):
                left_over.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / "leases").rmdir()
        for parts in (self.folder / "parts").glob("*"):
            if self.finished(parts.name):
                remove(parts)
        with suppress(OSError):
            (self.folder / "parts").rmdir()

    def _sweep(self) -> None:
        for left_over in (*self.folder.glob(".writing-*"), *self.cells.glob(".writing-*")):
            if stale(left_over):
                remove(left_over)

    def failed(self, run_id: str) -> bool:
        """Whether the cell has failed in this run."""
        return self._failed(run_id).exists()

    def _failed(self, run_id: str) -> Path:
        return self.folder / "leases" / f"failed-{self.run}-{run_id}"

    def write(
        self, record: CellRecord, examples: dict[str, Any] | None = None, pictures: Iterable[Kept] = (), *,
        seal: bool = True,
    ) -> None:  # fmt: skip
        """Store one cell: its record, its examples' columns (numpy arrays by name), the pictures that are kept.

        One that another writer has finished meanwhile stays: it holds the same numbers. seal: it was computed just now,
        and is given the digest by which an edit is found.
        """
        final, written = self.cells / record.run_id, self.cells / aside(record.run_id)
        with writable(self.folder):
            written.mkdir()
            shown = self.folder / aside(f"{record.run_id}.parquet")
            n, sha256 = write_pictures(shown, pictures)
            if seal:
                told = {name: column for name, column in (examples or {}).items() if name != "run_id"}
                record = sealed(record.model_copy(update={"pictures": n, "pictures_sha256": sha256}), told or None)
            dump(written / "run.json", dumped(record))
            if examples is not None:
                with open(written / "examples.parquet", "wb") as file:
                    pq.write_table(pa.table(examples), file, compression="zstd", write_page_checksum=True)
                    synced(file)
            if self.finished(record.run_id):
                shutil.rmtree(written)
                remove(shown)
            else:
                if n:
                    self.pictures(record.run_id).parent.mkdir(exist_ok=True)
                    os.replace(shown, self.pictures(record.run_id))
                place(written, final)
            if record.status == "failed":
                self._failed(record.run_id).parent.mkdir(exist_ok=True)
                self._failed(record.run_id).touch()
            else:
                remove(self.folder / "parts" / record.run_id)

    def audited(self, run_id: str) -> bool:
        """Whether an audit of this cell is stored."""
        kept = self.packed.get(run_id)
        own = self.cells / run_id
        return (own / "audit.json").is_file() or (kept is not None and kept.audited and not (own / "run.json").exists())

    def column(self, run_id: str, name: str) -> list[Any] | None:
        """One column of a cell's examples, in the order in which they were played; None where it has none."""
        file, kept = self.cells / run_id / "examples.parquet", self.packed.get(run_id)
        if file.is_file():
            return list(pq.read_table(file, columns=[name]).column(name).to_pylist())
        if kept is None or kept.place is None:
            return None
        return list(table_of(self.folder, kept.place, run_id).column(name).to_pylist())

    def amend(self, run_id: str, audit: dict[str, Any]) -> None:
        """Store what an audit adds to a finished cell, beside it."""
        self._put(self.cells / run_id / "audit.json", audit)

    def keep(self, name: str, artefact: dict[str, Any]) -> None:
        """Store what a training found out about its network, under artefacts/ by its content."""
        digest = hashlib.sha256(json.dumps(artefact, sort_keys=True).encode()).hexdigest()[:16]
        self._put(self.folder / "artefacts" / f"{name}-{digest}.json", artefact)

    def describe(self, sweep: dict[str, Any]) -> int:
        """Store what was swept, beside the cells. Returns how many cells the description before had besides."""
        before: tuple[str, ...] = ()
        with suppress(BadData):
            before = read_sweep(self.folder).cells or ()
        self._put(self.folder / "sweep.json", sweep)
        return len(set(before) - set(sweep.get("cells", ())))

    def billed(self, sentences: list[str]) -> None:
        """Store with what was swept what its services were sent and answered so far, for the report."""
        with suppress(BadData):  # cells that nobody described have no report
            described = read_sweep(self.folder).model_dump(mode="json")
            self._put(self.folder / "sweep.json", described | {"bills": sentences})

    def pictures(self, run_id: str) -> Path:
        """Where the pictures that are kept of a cell stand."""
        return self.folder / PICTURES / f"{run_id}.parquet"

    def seal(self) -> None:
        """Store what finds an edit: the digests of the planned cells and of their audits, under one root."""
        sweep, found = read_sweep(self.folder), dict[str, tuple[str, str]]()
        for name in sweep.cells or ():
            own, kept = self.cells / name, self.packed.get(name)
            with suppress(BadData):
                record = str(object_of(text_of(own / "run.json"), name).get("digest", ""))
                found[name] = record, ""
            if name not in found and kept is not None:
                found[name] = kept.digest, kept.audit_digest
            with suppress(BadData):
                if name in found and (audit := read_audit(own)) is not None:
                    found[name] = found[name][0], audit.digest
        cells, audits = ({k: pair[i] for k, pair in found.items() if pair[i]} for i in (0, 1))
        seal = Seal(sweep=digest_of_sweep(sweep), cells=cells, audits=audits, earlier=self._earlier(cells),
                    artefacts=digests_of_artefacts(self.folder))  # fmt: skip
        self._put(self.folder / SEAL, dumped(seal.model_copy(update={"root": seal.under()})))

    def _earlier(self, cells: Container[str]) -> dict[str, str]:
        """The cells of the seal before that are there and no longer planned."""
        before = None
        with suppress(BadData):
            before = read_seal(self.folder)
        known = before.earlier | before.cells if before is not None and before.whole() else {}
        return {name: digest for name, digest in known.items()
                if name not in cells and (self.finished(name) or (self.cells / name).is_dir())}  # fmt: skip

    def take(self, folder: Path) -> None:
        """Copy a whole cell from another run."""
        written = self.cells / aside(folder.name)
        with writable(self.folder):
            written.mkdir()
            for name in ("run.json", "examples.parquet", "audit.json"):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, written / name)
            place(written, self.cells / folder.name)

    def take_pictures(self, run: Path, run_id: str) -> None:
        """Copy what is kept of a cell from another run's folder, if anything is."""
        file = run / PICTURES / f"{run_id}.parquet"
        if file.is_file():
            self._take(file, self.pictures(run_id))

    def take_artefact(self, file: Path) -> None:
        """Copy what a training found out from another run."""
        self._take(file, self.folder / "artefacts" / file.name)

    def _take(self, file: Path, final: Path) -> None:
        written = self.folder / aside(file.name)
        with writable(self.folder):
            final.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, written)
            os.replace(written, final)

    def _put(self, file: Path, value: dict[str, Any]) -> None:
        written = self.folder / aside(file.name)
        with writable(self.folder):
            dump(written, value)
            for last in (False, True):
                file.parent.mkdir(exist_ok=True)
                try:
                    os.replace(written, file)
                    break
                except FileNotFoundError:  # the cell was packed, and its folder removed, between the two
                    if last:
                        raise


SHOWN = ".pictures"
"""How the file of a part's pictures ends."""


@dataclass(frozen=True)
class Parts:
    """The parts of one cell that are stored; each is there whole or not at all."""

    folder: Path
    run_id: str

    def there(self, rows: range) -> bool:
        """Whether somebody has stored this part."""
        return self._file(rows).exists()

    def write(self, rows: range, part: Played) -> None:
        """Store a part."""
        file = self._file(rows)
        with writable(self.folder):
            file.parent.mkdir(parents=True, exist_ok=True)
            written = self.folder / aside(file.name)
            if write_pictures(written, part.pictures())[0]:
                os.replace(written, file.with_suffix(SHOWN))
            write_part(written, part)
            os.replace(written, file)

    def read(self, rows: range) -> Played | None:
        """A part; None, and the file removed, where it is damaged: it is played again."""
        file, shown = self._file(rows), self._file(rows).with_suffix(SHOWN)
        part = read_part(file, len(rows))
        if part is not None and shown.exists():
            try:
                digest_of(read_pictures(shown))
                return part._replace(pictures=lambda: read_pictures(shown))
            except BadData:
                part = None
        if part is None:
            file.unlink(missing_ok=True)
        return part

    def _file(self, rows: range) -> Path:
        return self.folder / "parts" / self.run_id / f"{rows.start}-{rows.stop}.parquet"
