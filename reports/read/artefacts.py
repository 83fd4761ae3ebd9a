"""What defenses found out while they trained, and what foreign pictures did: runs/<name>/artefacts/*.json read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from robustsuite.errors import BadData
from robustsuite.records.findings import TRANSFERS, Artefact, Transfer, Transfers
from robustsuite.records.untrusted import sentence_of, text_of


def read_artefacts(paths: Sequence[Path]) -> tuple[list[Artefact], list[Transfer], list[str]]:
    """The artefacts of these run folders in the order of their names, and a line for each that cannot be read."""
    found: dict[str, Artefact] = {}
    transfers: dict[tuple[str, str], Transfer] = {}
    skipped = []
    for file in (f for path in paths for f in sorted((Path(path) / "artefacts").glob("*.json"))):
        try:
            if file.name.startswith(f"{TRANSFERS}-"):
                pairs = Transfers.model_validate_json(text_of(file)).pairs
                transfers |= {(pair.target, pair.source): pair for pair in pairs}
            else:
                found.setdefault(file.name, Artefact.model_validate_json(text_of(file)))
        except ValidationError as error:
            skipped.append(f"artefacts/{file.name}: {sentence_of(error)}")
        except BadData as error:
            skipped.append(f"artefacts/{file.name}: {error}")
    return list(found.values()), list(transfers.values()), skipped
