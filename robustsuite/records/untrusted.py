"""Files that somebody else may have written: what is wrong with one becomes a sentence. Imports no torch."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from robustsuite.errors import BadData

MOST_BYTES = 1 << 26
"""A record larger than this is none."""


def sentence_of(error: ValidationError) -> str:
    """The first thing wrong: 'cost.seconds: expected ..., got ...'."""
    first = error.errors(include_url=False)[0]
    spot = ".".join(map(str, first["loc"])) or "it"
    got = repr(first.get("input"))
    return f"{spot}: {first['msg'].lower()}, got {got if len(got) < 80 else got[:77] + '...'}"


def text_of(file: Path) -> str:
    """A file's text. Raises BadData in a sentence for whatever is wrong with it."""
    try:
        if not stat.S_ISREG((status := file.stat()).st_mode):
            raise BadData(f"{file.name} is no file")
        if status.st_size > MOST_BYTES:
            raise BadData(f"{file.name} is larger than any record")
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        raise BadData(f"{file.name} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{file.name} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def object_of(text: str, name: str) -> dict[str, Any]:
    """The JSON object that the text of the file `name` holds. Raises BadData in a sentence."""
    try:
        value = from_json(text)  # unlike json's, its depth is limited, whatever stack the thread has
    except ValueError as error:
        raise BadData(f"{name} is cut short or no JSON") from error
    if not isinstance(value, dict):
        raise BadData(f"{name} holds no object but {type(value).__name__}")
    return value
