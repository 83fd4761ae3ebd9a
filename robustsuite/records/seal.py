"""What tells a run as it was computed from one that was edited: a digest a cell, and one root over all of them.

A cell's digest is worked out when the cell is written, from its record and the values of its columns, not from files:
a copy, a pack and a merge keep it, and so does the same cell computed once more; an edit does not. seal.json lists the
digests when a run ends, and its root is that of RFC 6962's Merkle tree over them (leaf and node hashed apart), so one
line of 64 digits stands for a run. A seal proves nothing against who can write all of a folder anew: publish its root,
or sign the file (`ssh-keygen -Y sign -n robustsuite -f KEY RUN/seal.json`). Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from robustsuite.errors import BadData
from robustsuite.records.schema import Audit, CellRecord, Strict
from robustsuite.records.swept import SweepFacts
from robustsuite.records.untrusted import sentence_of, text_of

SEAL = "seal.json"

NAMED = 5
"""Rows that a sentence names."""

LEFT_OUT = {"digest": True, "cost": {"seconds", "peak_bytes"}, "made": {"started"}}
"""Of a record, what is no part of its digest: itself, and what clocks and meters say, which no second run repeats."""

class Finding(NamedTuple):
    """What is wrong with a cell, or with another part of the run."""

    where: str
    what: str


class Seal(Strict):
    """seal.json: the root, and what it is over: sweep.json, and by run id or name each cell, audit and artefact.

    earlier: cells that an earlier plan left in the folder, which reports leave out.
    """

    version: Literal[1] = 1
    root: str = ""
    sweep: str
    cells: dict[str, str]
    audits: dict[str, str]
    artefacts: dict[str, str]
    earlier: dict[str, str]

    def under(self) -> str:
        """The root of what is listed."""
        kinds = {"cell": self.cells, "audit": self.audits, "artefact": self.artefacts, "earlier": self.earlier}
        lines = (f"{kind} {name} {digest}" for kind, found in kinds.items() for name, digest in found.items())
        return root_of([f"sweep {self.sweep}", *lines])

    def whole(self) -> bool:
        """Whether the root is that of what is listed."""
        return self.root == self.under()


def read_seal(folder: Path) -> Seal | None:
    """The seal of a run's folder; None where it has none. Raises BadData in a sentence."""
    file = folder / SEAL
    if not file.exists():
        return None
    try:
        return Seal.model_validate_json(text_of(file))
    except ValidationError as error:
        raise BadData(f"{SEAL}: {sentence_of(error)}") from error


def sealed(record: CellRecord, columns: Mapping[str, Any] | None) -> CellRecord:
    """The record with the digest of itself and of its examples' columns."""
    return record.model_copy(update={"digest": digest_of_cell(record, columns)})


def digest_of_cell(record: CellRecord, columns: Mapping[str, Any] | None) -> str:
    """sha256 of a record, but for LEFT_OUT, and of its examples' columns sorted by index; columns: None without any."""
    digest = hashlib.sha256(_json(record, LEFT_OUT))
    if columns is not None:
        order = np.argsort(np.asarray(columns["index"]), kind="stable")
        for name in sorted(columns):
            digest.update(f"\n{name} ".encode() + _bytes(np.asarray(columns[name])[order]))
    return digest.hexdigest()


def sealed_audit(audit: Audit) -> Audit:
    """An audit with the digest of itself."""
    return audit.model_copy(update={"digest": digest_of_audit(audit)})


def digest_of_audit(audit: Audit) -> str:
    """sha256 of what an audit added, its own digest left out."""
    return hashlib.sha256(_json(audit, {"digest": True})).hexdigest()


def digest_of_sweep(sweep: SweepFacts) -> str:
    """sha256 of what was swept, and of what tables call its entries."""
    return hashlib.sha256(_json(sweep, {})).hexdigest()


def digests_of_artefacts(folder: Path) -> dict[str, str]:
    """sha256 of each file that a training left in a run's folder, by its name."""
    files = (file for file in sorted((folder / "artefacts").glob("*.json")) if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def unlike(folder: Path, sweep: SweepFacts, cells: Mapping[str, str]) -> str:
    """What a run's folder has another than its seal, in words; '' where they agree.

    cells: the digests that its records hold, by run id.
    """
    seal = read_seal(folder)
    if seal is None:
        return "no seal"
    if not seal.whole():
        return "an edited seal"
    if seal.sweep != digest_of_sweep(sweep):
        return "another sweep.json"
    if any(cells.get(name) != digest for name, digest in seal.cells.items()):
        return "other cells"
    return "" if digests_of_artefacts(folder).items() >= seal.artefacts.items() else "other artefacts"


def root_of(lines: Iterable[str]) -> str:
    """The root of the Merkle tree over these lines, sorted (RFC 6962, section 2.1)."""
    level = [hashlib.sha256(b"\x00" + line.encode()).digest() for line in sorted(lines)]
    if not level:
        return hashlib.sha256().hexdigest()
    while len(level) > 1:  # an odd one at the end moves up as it is, which gives the same tree
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(level) & ~1 :]
    return level[0].hex()


def named(ids: NDArray[Any]) -> str:
    """Examples by their ids (M,), for a sentence: 'examples 3, 17 and 4 more'."""
    some = ", ".join(str(int(i)) for i in ids[:NAMED])
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"example{'s' if len(ids) > 1 else ''} {some}{more}"


def _json(value: BaseModel, left_out: dict[str, Any]) -> bytes:
    told = value.model_dump(mode="json", exclude=left_out, exclude_defaults=True)  # a field to come changes no digest
    return json.dumps(told, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _bytes(column: np.ndarray[Any, Any]) -> bytes:
    """The values of a column, whatever width they are stored in: as one byte, 64 bits, or words with their lengths."""
    kind = column.dtype.kind
    if kind == "b":
        return b"bool" + column.tobytes()
    if kind in "iu":
        return b"int" + column.astype("<i8").tobytes()
    if kind == "f":
        wide = column.astype("<f8")
        wide[np.isnan(wide)] = np.nan  # one of its many
        return b"float" + wide.tobytes()
    return b"text" + b"".join(b"%d:" % len(word) + word for word in (str(value).encode() for value in column))
