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

BILLS = {"bills": True}
"""Of sweep.json, what is written by runs that add nothing to the cells."""


class Finding(NamedTuple):
    """What is wrong with a cell, or with another part of the run."""

    where: str
    what: str


class Seal(Strict):
    """seal.json: the root, and what it is over: each cell's digest, each audit's, by run id, and sweep.json's."""

    version: Literal[1] = 1
    root: str
    sweep: str
    cells: dict[str, str]
    audits: dict[str, str]

    @classmethod
    def of(cls, sweep: SweepFacts, cells: Mapping[str, str], audits: Mapping[str, str]) -> Seal:
        """The seal over what these digests are of."""
        swept = digest_of_sweep(sweep)
        leaves = [f"sweep {swept}", *_lines("cell", cells), *_lines("audit", audits)]
        return cls(root=root_of(leaves), sweep=swept, cells=dict(sorted(cells.items())),
                   audits=dict(sorted(audits.items())))  # fmt: skip

    def whole(self) -> bool:
        """Whether the root is that of what is listed."""
        leaves = [f"sweep {self.sweep}", *_lines("cell", self.cells), *_lines("audit", self.audits)]
        return root_of(leaves) == self.root


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
    return hashlib.sha256(_json(sweep, BILLS)).hexdigest()


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


def _lines(kind: str, digests: Mapping[str, str]) -> list[str]:
    return [f"{kind} {run_id} {digest}" for run_id, digest in digests.items()]


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
