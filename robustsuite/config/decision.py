"""What a plan says of a cell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """run, or inert / refused / unmeasured with a code and a sentence; same_as: the undefended cell's run_id."""

    status: str = "run"
    code: str = ""
    sentence: str = ""
    same_as: str | None = None
