"""What is printed: through consoles that show escaped what a terminal would act on, in whatever encoding it has."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from robustsuite.errors import UsageError, shown


class Shown(Console):
    """A console for words that anybody may have chosen: names, sentences of errors, files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Its segments, the texts among them with control characters escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def console(**settings: Any) -> Console:
    """A console that colours nothing by itself."""
    return Shown(highlight=False, **settings)


def prepare(arguments: list[str]) -> None:
    """Before anything is printed: what the terminal cannot encode stands escaped. Raises UsageError for arguments.

    An argument may hold line ends and tabs, as yaml does, but nothing else that a terminal acts on.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for argument in arguments:
        if any((ord(c) < 32 and c not in "\n\t\r") or c == "\x7f" for c in argument):
            raise UsageError(f"expected arguments without control characters, got {shown(argument)}; remove them")
