"""What trainings found out about their networks, as artefacts/*.json holds it. Imports no torch."""

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
