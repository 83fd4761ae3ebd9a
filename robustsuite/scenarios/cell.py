"""One number of the cube, with what is needed to compute it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from robustsuite import __version__
from robustsuite.config.registry import AttackCard, Cost, canonical, identity, used
from robustsuite.config.threats import Threat
from robustsuite.records.flat import flat
from robustsuite.records.schema import CellRecord, DataFacts, ModelFacts, ShiftFacts, dumped
from robustsuite.scenarios import Scenario, scenario_of
from robustsuite.serve.data import Reading, Split, Subjects, Variant
from robustsuite.serve.lifecycle import Lifecycle

ROUTES = 3
"""Routes into a system with a surrogate; the third is only played on what the second leaves standing."""


COMMON = {"eot": 1}
"""Parameters every gradient attack has without naming them: draws averaged in each gradient (a random defense's card
may ask for more where the user says nothing)."""


@dataclass(frozen=True)
class Cell:
    """One number of the cube, with what is needed to compute it.

    subjects: the examples it is about. judged: all that the sweep judges its system on, and probes it with, whatever
    cell comes first. clean: what a shift's pictures are compared with; paired: they were made from these, one from one.
    names: what tables call its entries, by axis, where the user says.
    """

    sweep: str
    lifecycle: Lifecycle = field(repr=False)
    subjects: Subjects = field(repr=False)
    threat: Threat | None = None
    attack: AttackCard | None = None
    given: tuple[tuple[str, Any], ...] = ()
    shift: str | None = None
    variant: Variant | None = None
    judged: Split | None = field(default=None, repr=False, compare=False)
    clean: Split | None = field(default=None, repr=False)
    paired: bool = False
    reading: Reading = field(default_factory=Reading)
    names: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

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
        cycle, subjects, shifted = self.lifecycle, self.subjects, self.variant if self.shift != "clean" else None
        model, data = cycle.model, cycle.data
        return {
            "sweep": self.sweep, "scenario": self.scenario.facts(), "seed": cycle.seed,
            "threat": self.threat.facts() if self.threat else None,
            "attack": used(self.attack, dict(self.given)) if self.attack else None,
            "defenses": tuple(d.facts() for d in cycle.defenses),
            "model": ModelFacts(name=model.name, sha256=model.sha256, behaviour=model.behaviour),
            "data": DataFacts(name=data.name, sha256=self.split.sha256, n=len(self.split), splits=subjects.splits,
                              stream=subjects.stream),
            "shift": ShiftFacts(
                name=self.shift, corruption=shifted.corruption if shifted else "",
                severity=shifted.severity if shifted else None, head=self.reading.head_words(model.space.classes),
                transform=self.reading.transform,
            ) if self.shift else None,
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """The cell in words, for eyes."""
        return flat(CellRecord(run_id="-", status="done", **self.asked()))

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of the sha256 of all that the number depends on.

        What was asked with every parameter and radius in full, the pictures, the training's pictures, and of the
        suite, each plugin and the network what they do: versions and sources.
        """
        asked, cycle = CellRecord(run_id="-", status="done", **self.asked()), self.lifecycle
        facts = dumped(asked) | {
            "attack": identity(self.attack, dict(self.given)) if self.attack else None,
            "defenses": [d.identity() for d in cycle.defenses], "scenario": identity(self.scenario.card, {}),
            "trained_on": cycle.trained_on(), "suite": __version__, "sweep": None,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What the cell's random streams are keyed by; defenses share their attackers' randomness."""
        attack = canonical(self.attack, dict(self.given)) if self.attack else None
        threat = f"{self.threat.name}/{attack}" if self.threat else "shift"
        return f"{threat}/{self.shift}/{self.variant}"

    def cost(self) -> Cost:
        """Forwards and backwards of the cell, at the most."""
        if not self.attack:
            return Cost(len(self.split), 0)
        given = {k: v for k, v in self.given if k not in COMMON}
        used = [d.card for d in self.lifecycle.defenses]
        draws = dict(self.given).get("eot") or max([1, *(card.eot for card in used)])
        if any(card.surrogate for card in used):
            draws *= ROUTES
        one = self.attack.priced(self.lifecycle.model.space.classes, **given)
        return Cost((one.forwards * draws + 2) * len(self.split), one.backwards * draws * len(self.split))
