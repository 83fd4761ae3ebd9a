"""One number of the cube, with what is needed to compute it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, TypeVarTuple

from pydantic import BaseModel

from robustsuite import __version__
from robustsuite.config.registry import AttackCard, Cost, canonical, identity, used
from robustsuite.config.threats import Access, Threat
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord, DataFacts, ModelFacts, ScenarioFacts, ShiftFacts, Used, dumped
from robustsuite.records.swept import Entry
from robustsuite.scenarios import Scenario, scenario_of
from robustsuite.scenarios.routes import ROUTES
from robustsuite.serve.data import Dataset, InputSpace, Reading, Split, Subjects, Variant
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model
from robustsuite.serve.stages import Applied

Parts = TypeVarTuple("Parts")
Made = TypeVar("Made")

Given = tuple[tuple[str, Any], ...]
"""Parameters as the user set them, sorted by name."""

COMMON = {"eot": 1}
"""Parameters every gradient attack has without naming them: draws averaged in each gradient (a random defense's card
may ask for more where the user says nothing)."""


UNPLAYED = CellRecord(
    run_id="-", status="done", scenario=ScenarioFacts(name=""), model=ModelFacts(name=""), data=DataFacts(name="", n=0)
)
"""What a record holds besides what was asked, before the cell is played."""

_json = json.JSONEncoder(sort_keys=True).encode

_UNPLAYED = {name: _json(value) for name, value in (dumped(UNPLAYED) | {"suite": __version__, "sweep": None}).items()
             if name not in ("pictures", "pictures_sha256", "digest")}  # fmt: skip
"""The same for the id, which no sweep's name enters, nor what is kept beside the rows: each field as JSON."""


class Memo:
    """What was made of which objects, each made once; the cells of a plan share one.

    Told apart are the objects themselves, never their values: 1, 1.0 and True are equal and yet other parameters.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], tuple[Any, object]] = {}

    def of(self, make: Callable[[*Parts], Made], *parts: *Parts) -> Made:
        """make(*parts), of parts that nobody writes to."""
        key = (make, *map(id, parts))
        if key not in self._made:
            self._made[key] = make(*parts), parts  # the parts are kept, so that their ids stay their own
        made: Made = self._made[key][0]
        return made


@dataclass(frozen=True)
class Cell:
    """One number of the cube, with what is needed to compute it.

    subjects: the examples it is about. judged: all that the sweep judges its system on, and probes it with, whatever
    cell comes first. clean: what a shift's pictures are compared with; paired: they were made from these, one from one.
    names: what tables call its entries, by axis, where the user says. asked_for: entries as they were asked for.
    memo: what its parts come to as words, records and hashes, worked out once for all cells that share a part.
    """

    sweep: str
    lifecycle: Lifecycle = field(repr=False)
    subjects: Subjects = field(repr=False)
    threat: Threat | None = None
    attack: AttackCard | None = None
    given: Given = ()
    shift: str | None = None
    variant: Variant | None = None
    judged: Split | None = field(default=None, repr=False, compare=False)
    clean: Split | None = field(default=None, repr=False)
    paired: bool = False
    reading: Reading = field(default_factory=Reading)
    names: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    asked_for: Mapping[str, Entry] = field(default_factory=dict, repr=False, compare=False)
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)

    @property
    def split(self) -> Split:
        """The examples as pictures and labels."""
        return self.subjects.examples

    @property
    def scenario(self) -> Scenario:
        """The protocol that is played."""
        return scenario_of(self.threat.scenario if self.threat else "shift")

    def asked(self) -> dict[str, Any]:
        """What the cell is, as the fields of its record."""
        cycle, of = self.lifecycle, self.memo.of
        return {
            "sweep": self.sweep, "scenario": of(Scenario.facts, self.scenario), "seed": cycle.seed,
            "threat": of(Threat.facts, self.threat) if self.threat else None,
            "attack": of(_used, self.attack, self.given) if self.attack else None,
            "defenses": of(_stack, cycle.defenses), "model": of(_model, cycle.model),
            "data": of(_data, cycle.data, self.subjects),
            "shift": of(_shift, self.shift, self.variant, self.reading, cycle.model.space) if self.shift else None,
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """The cell in words, for eyes."""
        return flat(UNPLAYED.model_copy(update=self.asked()))

    def words(self) -> dict[str, str | None]:
        """Of these words those that name the entries of its sweep, by axis."""
        cycle, of = self.lifecycle, self.memo.of
        return {
            "model": cycle.model.name, "dataset": cycle.data.name, "defense": of(_words, of(_stack, cycle.defenses)),
            "shift": self.shift or None, "threat": self.threat.name if self.threat else None,
            "attack": of(Used.words, of(_used, self.attack, self.given)) if self.attack else None,
        }  # fmt: skip

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of the sha256 of all that the number depends on.

        What was asked with every parameter and radius in full, the pictures, the training's pictures, and of the
        suite, each plugin and the network what they do: versions and sources.
        """
        cycle, of = self.lifecycle, self.memo.of
        facts = _UNPLAYED | {
            "threat": of(_told, Threat.facts, self.threat) if self.threat else "null",
            "attack": of(_told, _identity, self.attack, self.given) if self.attack else "null",
            "defenses": of(_told, _identities, cycle.defenses), "scenario": of(_told, _protocol, self.scenario),
            "model": of(_told, _answers, cycle.model), "data": of(_told, _data, cycle.data, self.subjects),
            "shift": of(_told, _shift, self.shift, self.variant, self.reading, cycle.model.space)
            if self.shift else "null",
            "seed": _json(cycle.seed), "trained_on": _json(cycle.trained_on()),
        }  # fmt: skip
        text = "{" + ", ".join([f'"{name}": {facts[name]}' for name in sorted(facts)]) + "}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What the cell's random streams are keyed by; defenses share their attackers' randomness."""
        attack = canonical(self.attack, dict(self.given)) if self.attack else None
        threat = f"{self.threat.name}/{attack}" if self.threat else "shift"
        return f"{threat}/{self.shift}/{self.variant}"

    def cost(self) -> Cost:
        """Forwards and backwards of the cell, at the most; never below 0, which steps below 0 would cost."""
        if not self.attack:
            return Cost(len(self.split), 0)
        given = {k: v for k, v in self.given if k not in COMMON}
        used = [d.card for d in self.lifecycle.defenses]
        draws = 1
        if self.attack.needs & (Access.GRADIENTS | Access.WEIGHTS):
            draws = dict(self.given).get("eot") or max([1, *(card.eot for card in used)])
            if any(card.surrogate for card in used) and not any(card.hides & self.attack.needs for card in used):
                draws *= len(ROUTES)  # what hides its gradients has, as a rule, none: its surrogate is the only way in
        one = self.attack.priced(self.lifecycle.model.space.classes, **given)
        n, threat = len(self.split), self.threat
        asked = one.forwards * draws
        if threat is not None and threat.queries is not None:
            asked = min(asked, threat.queries)
        if threat is not None and threat.queries_total is not None:
            asked = min(asked, threat.queries_total / max(1, n))
        times = 1 if self.attack.learns else n
        return Cost(max(0, asked) * times + 2 * n, max(0, one.backwards) * draws * times)


def _told(make: Callable[..., Any], *parts: object) -> str:
    """make(*parts) as JSON. An id is of the JSON of its cell, which is joined from what cells share."""
    made = make(*parts)
    return _json(dumped(made) if isinstance(made, BaseModel) else made)


def _used(card: AttackCard, given: Given) -> Used:
    return used(card, dict(given))


def _identity(card: AttackCard, given: Given) -> str:
    return identity(card, dict(given))


def _stack(defenses: tuple[Applied, ...]) -> tuple[Used, ...]:
    return tuple(d.facts() for d in defenses)


def _words(defenses: tuple[Used, ...]) -> str:
    return "+".join(d.words() for d in defenses) or "none"


def _identities(defenses: tuple[Applied, ...]) -> list[str]:
    return [d.identity() for d in defenses]


def _protocol(scenario: Scenario) -> str:
    return identity(scenario.card, {})


def _model(model: Model) -> ModelFacts:
    shows = model.shows.kinds()
    return ModelFacts(name=model.name, sha256=model.sha256, behaviour=model.behaviour, shows=shows)


def _answers(model: Model) -> dict[str, Any]:
    """Of these facts those that a number depends on: what is shown decides who may play, not what comes of it."""
    return {k: v for k, v in dumped(_model(model)).items() if k != "shows"}


def _data(data: Dataset, subjects: Subjects) -> DataFacts:
    pictures = subjects.examples
    return DataFacts(
        name=data.name, sha256=pictures.sha256, n=len(pictures), splits=subjects.splits, stream=subjects.stream
    )


def _shift(shift: str, variant: Variant | None, reading: Reading, space: InputSpace) -> ShiftFacts:
    shifted = variant if shift != "clean" else None
    return ShiftFacts(
        name=shift, corruption=shifted.corruption if shifted else "", severity=shifted.severity if shifted else None,
        head=reading.head_words(space.classes), transform=reading.transform,
    )  # fmt: skip
