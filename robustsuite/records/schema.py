"""What a finished cell is on disk: one typed schema that the writer and every reader share. Imports no torch.

A record says what was asked (threat, attack, defenses, model, data) in structured fields with numbers in full, what the
columns of its examples mean and which scores come of them, and what it was made with. Words for eyes are made from the
fields (`Budget.words`, `Used.words`), never read back. A folder that somebody hands over is untrusted:
`cells.read_cell` raises one sentence that names file and field. Flat rows of words, version 1, are read by
`records/v1.py`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

VERSION = 2

Status = Literal["done", "inert", "refused", "unmeasured", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)
Better = Literal["more", "less", "neither"]


class Strict(BaseModel):
    """Nothing is converted, nothing unknown is taken."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _radius(value: object) -> float:
    number = math.inf if value == "inf" else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
        raise ValueError("expected a radius of 0 or more, or 'inf'")
    return float(number)


Radius = Annotated[
    float, PlainValidator(_radius), PlainSerializer(lambda v: "inf" if math.isinf(v) else v, return_type=Any)
]
"""A radius in full precision; JSON has no infinity, so that stands as the word inf."""


class Budget(Strict):
    """What the adversary may change and ask. terms: what a scenario of its own limits besides, by name."""

    norm: str = ""
    eps: Radius | None = None
    queries: int | None = Field(default=None, ge=1)
    queries_total: int | None = Field(default=None, ge=1)
    poison_rate: float | None = None
    terms: dict[str, Any] = {}

    def words(self) -> str:
        """For eyes: 'linf(eps=8/255) queries(500)', '' where nothing is limited."""
        parts = [] if self.eps is None else [f"{self.norm}(eps={radius_words(self.eps, self.norm)})"]
        parts += [] if self.poison_rate is None else [f"poison_rate({_short(self.poison_rate)})"]
        parts += [f"{name}({_inside(value)})" for name, value in self.terms.items()]
        parts += [] if self.queries is None else [f"queries({self.queries})"]
        parts += [] if self.queries_total is None else [f"queries_total({self.queries_total})"]
        return " ".join(parts)


def _inside(value: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _short(value: float) -> str:
    """Six digits where they are the number, else all of them."""
    text = f"{value:.6g}"
    return text if float(text) == value else repr(value)


def radius_words(eps: float, norm: str) -> str:
    """A radius for eyes: 8/255 in linf, 0.5 in l2; no two radii read alike."""
    levels = round(eps * 255, 6)
    fraction = f"{levels:g}/255" if math.isfinite(eps) and abs(levels / 255 - eps) < 1e-15 else ""
    short = f"{eps:.6g}"
    exact = float(short) == eps
    if fraction and (norm == "linf" or not exact):
        return fraction
    return short if exact else repr(eps)


class GoalFacts(Strict):
    """What the answer shall be: a name with its terms, and the words for eyes."""

    name: str = "untargeted"
    terms: dict[str, int] = {}
    words: str = "untargeted"


class ThreatFacts(Strict):
    """One adversary: what it sees and wants and may change."""

    name: str
    access: tuple[str, ...] = ()
    goal: GoalFacts = GoalFacts()
    budget: Budget = Budget()


class Used(Strict):
    """A plugin in use. given: parameters that were set to something else than the default; parameters: all of them.

    family, least: how an attack searches, and from which values of its parameters on it counts as one of that family.
    atlas, nist: ids of its techniques in MITRE ATLAS and of its classes in NIST AI 100-2. All four are no part of a
    cell's id, and empty in records that were made before cards said so.
    """

    name: str
    stage: str = ""
    given: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    needs: tuple[str, ...] = ()
    distribution: str = ""
    source: str = ""
    family: tuple[str, ...] = ()
    least: dict[str, int] = {}
    atlas: tuple[str, ...] = ()
    nist: tuple[str, ...] = ()

    def words(self) -> str:
        """For eyes: 'pgd(steps=50)'."""
        return used_words(self.name, self.given)


def used_words(name: str, given: dict[str, Any]) -> str:
    """'pgd(steps=50)': the name with what was set, sorted."""
    return name + (f"({', '.join(f'{k}={v}' for k, v in sorted(given.items()))})" if given else "")


class ModelFacts(Strict):
    """behaviour: what the answers depend on besides the weights: versions of libraries, hashes of sources.

    shows: what it gives anybody at the most, no part of a cell's id; None in records that do not say.
    """

    name: str
    sha256: str = ""
    behaviour: dict[str, str] = {}
    shows: tuple[str, ...] | None = None


class Stream(Strict):
    """The order and batches in which a system that adapts was asked; threat: in an order of the threat's own."""

    order: Literal["listed", "shuffled", "threat"]
    batch: int = Field(ge=1)


class DataFacts(Strict):
    """The pictures a cell is about; splits: where they come from, stream: where their order is part of the system."""

    name: str
    sha256: str = ""
    n: int = Field(ge=0)
    splits: tuple[str, ...] = ()
    stream: Stream | None = None


class ShiftFacts(Strict):
    """The shift set and variant the pictures are of; head and transform: how they were put to the model."""

    name: str = ""
    corruption: str = ""
    severity: int | None = None
    head: str = ""
    transform: str = ""


class Scoring(Strict):
    """How a column becomes a number. by: who is positive, of beyond what counts at radius 0; at: a quantile, tpr_at's
    fpr, epsilon's share of guesses; where: which examples count; sparse: left out where it is 0; compared: `compare`
    tests it.
    """

    name: str
    kind: Literal[
        "rate", "mean", "median", "quantile", "auc", "tpr_at", "ece", "rms_calibration", "beyond", "custom",
        "balanced_accuracy", "epsilon",
    ] = "rate"
    by: str = ""
    where: str = ""
    at: float | None = None
    sparse: bool = False
    compared: bool = False
    function: str = ""


class At(str):
    """A column's name that is one of a series: 'l2_at_500' of the series l2_at at 500."""

    __slots__ = ("at", "series")
    series: str
    at: float

    @classmethod
    def of(cls, series: str, at: int) -> At:
        """The name, which knows what it is made of."""
        name = cls(f"{series}_{at}")
        name.series, name.at = series, float(at)
        return name


class Column(Strict):
    """One column of the examples. better: which way is good for the defender; series, at: 'l2_at_500' is l2_at at 500.

    joins: over several attacks an example stands where it stands under all of them, or any (proofs), or neither.
    """

    name: str
    dtype: Literal["bool", "int", "float"] = "bool"
    unit: str = ""
    better: Better = "neither"
    scores: tuple[Scoring, ...] = ()
    series: str = ""
    at: float | None = None


class ScenarioFacts(Strict):
    """Which protocol was played, what ranks it, how attacks are joined, and who adds sections to its report."""

    name: str
    headline: str = ""
    joins: Literal["all", "any", ""] = ""
    sections: str = ""


class FlagFacts(Strict):
    """What was noticed about a number."""

    name: str
    detail: str = ""
    check: str = ""
    level: Literal["warn", "fail", ""] = ""


class Cost(Strict):
    """What the cell took; forwards and backwards in images."""

    seconds: float = Field(default=0.0, ge=0)
    peak_bytes: int = Field(default=0, ge=0)
    forwards: int = Field(default=0, ge=0)
    backwards: int = Field(default=0, ge=0)
    queries: int = Field(default=0, ge=0)


class Made(Strict):
    """What it was made with: the suite, every plugin's distribution, packages, device."""

    suite_version: str = ""
    commit: str | None = None
    dirty: bool | None = None
    plugins: dict[str, str] = {}
    packages: dict[str, str | None] = {}
    canaries: dict[str, Any] = {}
    device: str = ""
    dtype: str = ""
    started: str = ""


class CellRecord(Strict):
    """One cell of a sweep, as run.json holds it; rows: in its examples; pictures: how many are kept.

    digest: by which an edit is found (`seal.py`), empty in records that were made before there was one.
    """

    version: Literal[2] = 2
    run_id: str = Field(min_length=1)
    sweep: str = ""
    status: Status
    code: str = ""
    sentence: str = ""
    same_as: str | None = None
    traceback: str = ""
    scenario: ScenarioFacts
    threat: ThreatFacts | None = None
    attack: Used | None = None
    defenses: tuple[Used, ...] = ()
    model: ModelFacts
    data: DataFacts
    shift: ShiftFacts | None = None
    seed: int = 0
    weights_sha256: str = ""
    rows: int = Field(default=0, ge=0)
    columns: tuple[Column, ...] = ()
    flags: tuple[FlagFacts, ...] = ()
    cost: Cost = Cost()
    made: Made = Made()
    pictures: int = Field(default=0, ge=0)
    pictures_sha256: str = ""
    digest: str = ""

    def defense_words(self) -> str:
        """For eyes: 'a+b(x=1)', 'none' without any."""
        return "+".join(d.words() for d in self.defenses) or "none"


class Audit(Strict):
    """What an audit added to a cell, as audit.json holds it."""

    run_id: str
    flags: tuple[FlagFacts, ...] = ()
    figures: dict[str, float] = {}
    digest: str = ""


def dumped(record: BaseModel) -> dict[str, Any]:
    """A record as plain JSON values."""
    return record.model_dump(mode="json")


def plain(value: Any) -> Any:
    """A parameter as JSON can hold it: numbers, words, lists and dicts stay, anything else stands as its words."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
