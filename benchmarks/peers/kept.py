"""Results that take long, kept as json and found again, so that a comparison may be stopped at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(file: Path, made: Callable[[], Any]) -> Any:
    """What the file holds, or what is made now and written: aside first, so that a kill leaves no half of it."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".new")
        aside.write_text(json.dumps(made()))
        aside.rename(file)
    return json.loads(file.read_text())
