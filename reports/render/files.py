"""How a file of a report gets to where readers look: written aside, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from robustsuite.errors import BadOutput


def put(file: Path, content: str | bytes) -> Path:
    """Write one file aside, then rename it; raises BadOutput where that cannot be done."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(aside).chmod(0o644)
            os.replace(aside, file)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadOutput(
            f"expected a folder to write into, got {str(file.parent)!r} ({error.strerror}); name another"
        ) from error
    return file
