"""What playing one cell yields: columns an example, flags, and what it cost."""

from typing import NamedTuple

from torch import Tensor


class Flag(NamedTuple):
    """One of the field's own checks that did not pass, as data; a report strikes the number through."""

    name: str
    detail: str


class Record(NamedTuple):
    """Columns (N,) by name, flags, total forwards and backwards in images."""

    columns: dict[str, Tensor]
    flags: list[Flag]
    forwards: int
    backwards: int


def flag(name: str, detail: str) -> Flag:
    """A flag; the names are listed in docs/architecture.md."""
    return Flag(name, detail)
