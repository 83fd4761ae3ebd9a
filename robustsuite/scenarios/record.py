"""What playing one cell yields: columns an example, flags, and what it cost."""

from typing import NamedTuple

from torch import Tensor

from robustsuite.integrity.probes import Flag
from robustsuite.records.schema import Column


class Record(NamedTuple):
    """Columns (N,) by name, flags, total forwards and backwards in images, and what a reader should know.

    declared: what the columns mean, where that is not what the scenario says.
    """

    columns: dict[str, Tensor]
    flags: list[Flag]
    forwards: int
    backwards: int
    note: str = ""
    declared: tuple[Column, ...] | None = None
