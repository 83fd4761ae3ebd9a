"""What stands in artefacts/*.json: what trainings found out about their networks, and what foreign pictures did.

Imports no torch.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustsuite.records.schema import Strict


class Bars(Strict):
    """A chart of named values; marked: the one in its own colour."""

    axis: str
    names: tuple[Any, ...] = Field(min_length=1)
    values: tuple[float, ...]
    marked: Any = None

    @model_validator(mode="after")
    def _as_many(self) -> Bars:
        if len(self.names) != len(self.values):
            raise ValueError(f"expected a value for each of {len(self.names)} names")
        return self


class Listed(Strict):
    """A table."""

    columns: tuple[Any, ...]
    rows: tuple[tuple[Any, ...], ...]

    @model_validator(mode="after")
    def _as_wide(self) -> Listed:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"expected {len(self.columns)} values in each row")
        return self


class Finding(BaseModel):
    """What a training found out, for a report."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    title: str
    note: str = ""
    bars: Bars | None = None
    table: Listed | None = None


class Artefact(BaseModel):
    """A finding and the weights it is about, as artefacts/*.json holds it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    name: str
    finding: Finding
    weights_sha256: str = ""
    model: str = ""
    defense: str = ""
    dataset: str = ""
    seed: int = 0


TRANSFERS = "foreign_pictures"
"""How the names of files begin that hold `Transfers`."""


class Transfer(Strict):
    """What the kept pictures of one cell, made against its system, did to another system of the same threat and data.

    target: the run id of a cell of that system, source: of the cell whose pictures these are, by their digest. asked:
    the examples that were put to it, which it answers right unattacked and whose picture keeps its budget; broken:
    those of them that it answered wrong.
    """

    target: str
    source: str
    pictures_sha256: str
    asked: tuple[int, ...]
    broken: tuple[int, ...]

    @model_validator(mode="after")
    def _of_the_asked(self) -> Transfer:
        if not set(self.broken) <= set(self.asked):
            raise ValueError("expected nothing broken that was not asked")
        return self


class Transfers(Strict):
    """All that one system was asked, as artefacts/foreign_pictures-*.json holds it."""

    pairs: tuple[Transfer, ...]
