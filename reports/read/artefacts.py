"""What defenses found out while they trained, read back from runs/<name>/artefacts/*.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from robustsuite.errors import BadData
from robustsuite.records.findings import Artefact
from robustsuite.records.untrusted import sentence_of, text_of


def read_artefacts(paths: Sequence[Path]) -> tuple[list[Artefact], list[str]]:
    """The artefacts of these run folders in the order of their names, and a line for each that cannot be read."""
    found: dict[str, Artefact] = {}
    skipped = []
    for file in (f for path in paths for f in sorted((Path(path) / "artefacts").glob("*.json"))):
        try:
            artefact = Artefact.model_validate_json(text_of(file))
        except ValidationError as error:
            skipped.append(f"artefacts/{file.name}: {sentence_of(error)}")
        except BadData as error:
            skipped.append(f"artefacts/{file.name}: {error}")
        else:
            found.setdefault(file.name, artefact)
    return list(found.values()), skipped
