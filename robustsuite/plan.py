"""Sweep -> cells: the product inside each threat, each with a verdict and a sentence, and what it will cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from robustsuite import __version__
from robustsuite.adversary import Poisoner
from robustsuite.data import CONTROL, Dataset, Reading, ShiftSet, Split, Variant, load_data, parse_spec
from robustsuite.errors import BadValue, UnknownName
from robustsuite.lifecycle import Lifecycle
from robustsuite.models import load_model
from robustsuite.registry import Card, Cost, canonical, card_of, checked_parameters
from robustsuite.stages import Applied, applied
from robustsuite.sweep import Sweep
from robustsuite.threats import Access, Ball, Threat

ANSWERED = ("data", "train", "harden", "serve")
PASSED = {
    **dict.fromkeys(("evasion", "certification", "poisoning", "unlearnable"), ANSWERED),
    "inversion": ("data", "train", "harden", "share"),
}
"""The stages a scenario passes; a defense at another stage is inert in it."""

WAYS = 3
"""Ways into a system with a surrogate; the third is only played on what the second leaves standing."""

COMMON = {"eot": 1}
"""Parameters every gradient attack has without naming them: draws averaged in each gradient (a random defense's card
may ask for more where the user says nothing)."""


@dataclass(frozen=True)
class Verdict:
    """run, or inert / refused / unmeasured with a code and a sentence; same_as: the undefended cell's run_id."""

    status: str = "run"
    code: str = ""
    sentence: str = ""
    same_as: str | None = None


@dataclass(frozen=True)
class Cell:
    """One number of the cube, with what is needed to compute it.

    clean: what a shift's pictures are compared with; paired: they were made from these, one from one.
    """

    sweep: str
    lifecycle: Lifecycle = field(repr=False)
    split: Split = field(repr=False)
    threat: Threat | None = None
    attack: Card | None = None
    given: tuple[tuple[str, Any], ...] = ()
    shift: str | None = None
    variant: Variant | None = None
    clean: Split | None = field(default=None, repr=False)
    paired: bool = False
    reading: Reading = field(default_factory=Reading)

    def facts(self) -> dict[str, Any]:
        """What identifies the cell; `run_id` hashes it, so a changed weight or picture is another cell."""
        cycle = self.lifecycle
        return {
            "threat": self.threat.name if self.threat else None,
            "scenario": self.threat.scenario if self.threat else "shift",
            "access": self.threat.access.words() if self.threat else None,
            "budget": self.threat.budget_words() if self.threat else None,
            "goal": str(self.threat.goal) if self.threat else "untargeted",
            "model": cycle.model.name,
            "model_sha256": cycle.model.sha256,
            "defense": "+".join(map(str, cycle.defenses)) or "none",
            "attack": canonical(self.attack, dict(self.given)) if self.attack else None,
            "dataset": cycle.data.name,
            "shift": self.shift,
            "corruption": self.variant.corruption if self.variant and self.shift != "clean" else None,
            "severity": self.variant.severity if self.variant else None,
            "head": self.reading.head_words(cycle.model.space.classes),
            "transform": self.reading.transform,
            "n": len(self.split),
            "data_sha256": self.split.sha256,
            "seed": cycle.seed,
        }

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of the sha256 of the facts, the training's pictures and the suite's version."""
        facts = {**self.facts(), "trained_on": self.lifecycle.trained_on(), "suite": __version__}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What the cell's random streams are keyed by; defenses share their attackers' randomness."""
        threat = f"{self.threat.name}/{self.facts()['attack']}" if self.threat else "shift"
        return f"{threat}/{self.shift}/{self.variant}"

    def cost(self) -> Cost:
        """Forwards and backwards of the cell, at the most."""
        if not self.attack:
            return Cost(len(self.split), 0)
        given = {k: v for k, v in self.given if k not in COMMON}
        used = [d.card for d in self.lifecycle.defenses]
        draws = dict(self.given).get("eot") or max([1, *(card.eot for card in used)])
        if any(card.surrogate for card in used):
            draws *= WAYS
        one = self.attack.cost(classes=self.lifecycle.model.space.classes, **{**self.attack.parameters, **given})
        return Cost((one.forwards * draws + 2) * len(self.split), one.backwards * draws * len(self.split))


def plan(sweep: Sweep, device: str = "cpu", first: int | None = None) -> list[tuple[Cell, Verdict]]:
    """Every cell of the sweep with its verdict, those that share a training side by side.

    first: judge on this many examples of each data set. Raises UsageError for anything that cannot be loaded.
    """
    cells: list[tuple[Cell, Verdict]] = []
    defended = [_defenses(entry) for entry in sweep.defenses]
    attacks = [
        (spec.threat(name), *_attack(entry), _attacked(sweep, name))
        for name, spec in sweep.threats.items() for entry in spec.attacks
    ]  # fmt: skip
    for data_spec in sweep.data:
        dataset, split = load_data(data_spec)
        split = split.first(None if first is None else min(first, len(split)))
        for model_spec in sweep.models:
            model = load_model(str(model_spec), dataset.space)
            for seed in sweep.seeds:
                shifted = list(_shifts(sweep, split, dataset, seed))
                for defenses in defended:
                    cycle = Lifecycle(model, dataset, defenses, seed, device)
                    cells += _cells(sweep.name, cycle, split, attacks, shifted)
    return cells


def _cells(
    sweep: str, cycle: Lifecycle, split: Split, attacks: list[Any], shifted: list[dict[str, Any]]
) -> Iterator[tuple[Cell, Verdict]]:
    yield Cell(sweep, cycle, split, shift="clean"), Verdict()
    for member in shifted:
        yield Cell(sweep, cycle, **member), Verdict()
    for threat, card, given, first, on in attacks:
        played = replace(cycle, poison=Poisoner(card, given, threat), findings={}) if threat.poison else cycle
        cell = Cell(sweep, played, split.first(min(first, len(split)) if first else None), threat, card, given)
        yield cell, verdict(cell)
        for member in (m for m in shifted if m["shift"].partition("(")[0] in on):
            moved = _under_shift(cell, threat, member, first)
            yield moved, verdict(moved)


def _under_shift(cell: Cell, threat: Threat, member: dict[str, Any], first: int | None) -> Cell:
    """The same attack on a shifted set's pictures: a threat of its own name, so that no ranking mixes the two."""
    where = " ".join(str(part) for part in (member["shift"], *member["variant"]) if part is not None)
    pictures: Split = member["split"]
    pictures = pictures.first(min(first, len(pictures)) if first else None)
    moved = replace(threat, name=f"{threat.name} on {where}")
    return replace(cell, threat=moved, **{**member, "split": pictures, "paired": False})


def _attacked(sweep: Sweep, name: str) -> list[str]:
    """The shift sets a threat attacks besides the clean pictures; raises UnknownName or BadValue."""
    spec, known = sweep.threats[name], [parse_spec(entry, "shift set")[0] for entry in sweep.shifts]
    if spec.shifts and spec.scenario != "evasion":
        raise BadValue(f"expected shifts in an evasion threat, got {spec.shifts!r} in {name!r}; leave them out")
    for shift in spec.shifts:
        if shift not in known:
            raise UnknownName(f"shift set of this sweep in the threat {name!r}", str(shift), known)
    return [str(shift) for shift in spec.shifts]


def verdict(cell: Cell) -> Verdict:
    """Whether the cell can be run, and in a sentence why not."""
    threat, card, cycle = cell.threat, cell.attack, cell.lifecycle
    if threat is None or card is None:
        return Verdict()
    if card.place != threat.scenario:
        return Verdict("refused", "scenario", f"{card.name} plays {card.place}, the threat is {threat.scenario}")
    if missing := card.needs & ~threat.access:
        return Verdict(
            "refused", "access",
            f"{card.name} needs {missing.words()}; the threat {threat.name} grants {threat.access.words()}",
        )  # fmt: skip
    if cell.reading.head is not None and Access.AUX_DATA in card.needs:
        return Verdict("refused", "head", f"{card.name} asks nets of its own, whose heads are whole")
    if threat.poison and cycle.model.pretrained:
        return Verdict("refused", "recipe", f"{cycle.model.name} comes trained; poison a model that brings a recipe")
    if threat.budget and (found := _unfit(card, threat, threat.budget)):
        return found
    passed = PASSED[threat.scenario]
    if cycle.defenses and all(d.card.place not in passed for d in cycle.defenses):
        bare = replace(cell, lifecycle=replace(cycle, defenses=()))
        return Verdict("inert", "stage", f"no stage of it is passed in {threat.scenario}", bare.run_id)
    return _hidden(card, cycle)


def _unfit(card: Card, threat: Threat, ball: Ball) -> Verdict | None:
    """Why the attack cannot work in this ball towards this goal; None where it can."""
    if threat.goal.name not in card.goals and threat.scenario == "evasion":
        goals = ", ".join(card.goals)
        return Verdict("refused", "goal", f"{card.name} works towards {goals}; the threat's goal is {threat.goal}")
    if not (math.isfinite(ball.eps) or card.minimum_norm):
        return Verdict("refused", "budget", f"{card.name} needs a finite budget; the threat allows any change")
    if card.norms and ball.norm not in card.norms:
        return Verdict("refused", "budget", f"{card.name} works in {', '.join(card.norms)}, not in {ball.norm}")
    return None


def _hidden(card: Card, cycle: Lifecycle) -> Verdict:
    """What the defenses take from the attack: a certifier needs the weights, an attack a surrogate."""
    hiders = [d for d in cycle.defenses if d.card.hides & card.needs or d.card.stochastic]
    if not hiders:
        return Verdict()
    names = "+".join(d.card.name for d in hiders)
    if card.place == "certification":
        if Access.WEIGHTS in card.needs:
            return Verdict("refused", "hidden", f"{card.name} bounds a network; {names} answers by something else")
        return Verdict()
    for d in hiders:
        if (hidden := d.card.hides & card.needs) and d.card.surrogate is None:
            sentence = f"{d.card.name} hides {hidden.words()} and ships no surrogate to attack through"
            return Verdict("unmeasured", "no_surrogate", sentence)
    return Verdict()


def _defenses(entry: object) -> tuple[Applied, ...]:
    """A yaml entry: 'none', a defense, or a list of them in order."""
    if entry == "none":
        return ()
    parts = entry if isinstance(entry, list) else [entry]
    return tuple(applied(*parse_spec(part, "defense")) for part in parts)


def _attack(entry: object) -> tuple[Card, tuple[tuple[str, Any], ...], int | None]:
    """A yaml entry 'pgd' or {pgd: {steps: 50}}: its card, checked parameters, and on how many examples it is played.

    `first` is every attack's: a certifier that takes minutes an image is asked about fewer of them, and its row says n.
    """
    name, given = parse_spec(entry, "attack")
    card = card_of("attack", name)
    first = given.pop("first", None)
    if first is not None and (not isinstance(first, int) or first < 1):
        raise BadValue(f"expected first >= 1 for {name}, got {first!r}; leave it out to play on all examples")
    common = set(COMMON) if Access.GRADIENTS in card.needs else set()
    for key in common & set(given) - set(card.parameters):
        if not isinstance(given[key], int) or given[key] < 1:
            raise BadValue(f"expected {key} >= 1 for {name}, got {given[key]!r}; leave it out for {COMMON[key]}")
    checked_parameters(card, {k: v for k, v in given.items() if k not in common - set(card.parameters)})
    return card, tuple(sorted(given.items())), first


def _shifts(sweep: Sweep, split: Split, dataset: Dataset, seed: int) -> Iterator[dict[str, Any]]:
    """What the cells of each shift set have of their own; a set with clean pictures of its own has a cell for them.

    A set that is listed twice is named with the parameters that tell the two apart.
    """
    entries = [parse_spec(entry, "shift set") for entry in sweep.shifts]
    for name, given in entries:
        card = card_of("shift", name)
        found: ShiftSet = card.function(split, dataset, seed=seed, **checked_parameters(card, given))
        others = [other for twin, other in entries if twin == name]
        label = canonical(card, {k: v for k, v in given.items() if any(o.get(k) != v for o in others)})
        clean = split if found.clean is None else found.clean
        control = {} if found.clean is None else {Variant(CONTROL): clean}
        for variant, pictures in {**control, **found.variants}.items():
            paired = found.paired and pictures is not clean and torch.equal(pictures.ids, clean.ids)
            yield {
                "shift": label, "variant": variant, "split": pictures, "clean": clean, "paired": paired,
                "reading": found.reading,
            }  # fmt: skip
