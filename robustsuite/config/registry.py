"""What the planner knows of a plugin without running it, and how plugins are found.

A plugin is a function with a card. Packages name themselves under the entry point group "robustsuite.plugins";
every module below that name is imported and its functions that carry a card are collected. Our own attacks,
defenses, shifts, data sets and models come in by the same door.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from types import MappingProxyType, ModuleType
from typing import Any, Literal, TypeVar, overload

from robustsuite.config.identity import GROUP as GROUP
from robustsuite.config.identity import distribution_of, source_of
from robustsuite.config.plugins import leave_out, plugins
from robustsuite.config.plugins import left_out as left_out
from robustsuite.config.sets import NAMES
from robustsuite.config.taxonomy import formed
from robustsuite.config.threats import Access
from robustsuite.config.values import among, fitting, takes, whole_by_word
from robustsuite.errors import BadValue, UnknownName, UsageError, cause, nearest, quoted
from robustsuite.records.schema import Used, dumped, plain, used_words

KINDS = ("attack", "defense", "shift", "data", "model", "scenario")
HANDED = ("rng", "targets", "aux")
"""What a scenario hands to an attack, so that no user may set it."""

TAKEN = ("classes", "first")
"""What the planner says of an attack besides its parameters: what it costs, and on how many examples."""

PLACES = ("data", "train", "harden", "serve", "share")

FAMILIES = ("gradient", "minimum norm", "score", "decision", "exhaustive", "transfer", "noise")
"""How evasion attacks search, in the field's terms.

gradient: ascent inside the ball; minimum norm: to the nearest error, by gradients; score, decision: by questions alone;
exhaustive: every point of a grid; transfer: on a network of the adversary's own; noise: the floor.
"""

UNTOLD = ("given", "family", "least", "atlas", "nist")
"""Of what a record says of a plugin, what is no part of an id."""

GOALS = ("untargeted", "targeted", "ordered_topk")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Cost:
    """Forwards and backwards an example, at the most."""

    forwards: float = 1.0
    backwards: float = 0.0


@dataclass(frozen=True)
class Card:
    """One plugin's facts. `place` is an attack's scenario or a defense's stage."""

    kind: str
    name: str
    function: Callable[..., Any] = field(repr=False, compare=False)
    place: str = ""
    paper: str = ""
    differs: tuple[str, ...] = ()
    requires: str = ""
    about: str = ""

    @property
    def summary(self) -> str:
        """What it is in a line: the docstring's first."""
        return self.about or (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """Keyword parameters a user may set, with their defaults."""
        signature = inspect.signature(self.function)
        found = {
            p.name: p.default
            for p in signature.parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and p.name not in HANDED
        }
        return MappingProxyType(found)

    @property
    def origin(self) -> str:
        """module:function, where to read the method."""
        return f"{self.function.__module__}:{self.function.__qualname__}"


@dataclass(frozen=True)
class AttackCard(Card):
    """An attack's facts.

    goals: what it can work towards; one that can do more than leave the true class is handed `targets`.
    whole: it wants the misclassified examples too. minimum_norm: it returns the nearest error, in the budget or not.
    learns: it learns once what it does to all examples: its cells are not divided, and its cost is of all of them.
    cost: from the number of classes and every parameter, all as keywords.
    family: of FAMILIES, several of an ensemble; a function of every parameter where these decide.
    least: parameter -> from which value on a number may rest on it; an attack that lacks the parameter never suffices.
    atlas, nist: ids of its techniques in MITRE ATLAS and of its classes in NIST AI 100-2, as `taxonomy` has them.
    """

    needs: Access = Access.NONE
    norms: tuple[str, ...] = ()
    goals: tuple[str, ...] = ("untargeted",)
    whole: bool = False
    minimum_norm: bool = False
    learns: bool = False
    cost: Callable[..., Cost] = field(default=lambda **_: Cost(), repr=False, compare=False)
    family: tuple[str, ...] | Callable[..., tuple[str, ...]] = field(default=(), compare=False)
    least: Mapping[str, int] = field(default_factory=dict, compare=False)
    atlas: tuple[str, ...] = field(default=(), compare=False)
    nist: tuple[str, ...] = field(default=(), compare=False)

    def priced(self, classes: int, **given: Any) -> Cost:
        """What it costs an example, the parameters that are not given at their defaults."""
        return self.cost(classes=classes, **{**self.parameters, **given})

    def families(self, **given: Any) -> tuple[str, ...]:
        """How it searches, the parameters that are not given at their defaults; () where its card does not say."""
        return self.family(**{**self.parameters, **given}) if callable(self.family) else tuple(self.family)


@dataclass(frozen=True)
class DefenseCard(Card):
    """A defense's facts.

    eot: gradient draws an attack on a random one averages, where the user does not say.
    rejects: it may give no answer, by a row of NaN; of any other, NaN is a wrong answer.
    adapts: "stream" where answers depend on what was asked before, or on the batch.
    learns: a serve-stage one is handed Training besides the network (clean pictures to learn from), a data-stage one a
    function train set -> network. splits: which of train and val one that learns, or of the harden stage, works on; the
    other is empty in its Training. shape: of the former, the wrapper (net, training, every parameter) before it has
    learnt: with it, what it learns is kept.
    """

    hides: Access = Access.NONE
    stochastic: bool = False
    rejects: bool = False
    eot: int = 1
    adapts: str = ""
    learns: bool = False
    splits: tuple[str, ...] = ("train", "val")
    shape: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    surrogate: Callable[..., Any] | None = field(default=None, repr=False, compare=False)


OWN: dict[str, type[Card]] = {"attack": AttackCard, "defense": DefenseCard}


def carded(kind: str, place: str = "", **facts: Any) -> Callable[[F], F]:
    """Give a function its card; the plugin's name is the function's, unless `name` says otherwise.

    Raises UsageError for a fact that plugins of this kind do not have.
    """
    made = OWN.get(kind, Card)
    known = {f.name for f in fields(made)} - {"kind", "function", "place"}
    if unknown := [fact for fact in facts if fact not in known]:
        raise UsageError(f"expected a fact of the {kind}'s card, got {unknown[0]!r}; {nearest(unknown[0], known)}")

    def decorate(function: F) -> F:
        name = facts.pop("name", function.__name__)
        function.card = _sound(made(kind, name, function, place, **facts))  # type: ignore[attr-defined]
        return function

    return decorate


@cache
def cards() -> dict[tuple[str, str], Card]:
    """Every installed plugin's card, by (kind, name), in the order of names."""
    found: dict[tuple[str, str], Card] = {}
    for module in plugins():
        try:
            carried = list(_cards_in(module))
        except Exception as error:  # anybody's module, of anybody's objects
            leave_out(module.__name__, cause(error))
            continue
        for card in carried:
            _add(found, card)
    scenarios = [name for kind, name in found if kind == "scenario"]
    for key, card in list(found.items()):
        if card.kind == "attack" and card.place not in scenarios:
            why = f"the attack {card.name} for the scenario {card.place!r}, which is not there"
            leave_out(card.function.__module__, why)
            del found[key]
    return dict(sorted(found.items()))


def _sound(card: Card) -> Card:
    """The card, if its facts are what the planner takes them for; raises UsageError for the first that is not."""
    words = "a word or more"
    wanted: list[tuple[str, object, bool, str]] = [
        ("name", card.name, isinstance(card.name, str) and card.name.isprintable() and card.name != "", words),
        ("paper", card.paper, isinstance(card.paper, str), words),
        ("differs", card.differs, isinstance(card.differs, tuple | list), "a tuple of sentences"),
        ("requires", card.requires, isinstance(card.requires, str), "a package's name"),
    ]
    if isinstance(card, AttackCard):
        taken = [name for name in TAKEN if name in card.parameters]
        wanted += [
            ("needs", card.needs, isinstance(card.needs, Access), "an Access"),
            ("norms", card.norms, among(card.norms, NAMES), f"a tuple of {', '.join(NAMES)}"),
            ("goals", card.goals, among(card.goals, GOALS), f"a tuple of {', '.join(GOALS)}"),
            ("cost", card.cost, callable(card.cost), "a function"),
            ("family", card.family, callable(card.family) or among(card.family, FAMILIES),
             f"a tuple of {', '.join(FAMILIES)}"),
            ("least", card.least, whole_by_word(card.least), "a dict of whole numbers by parameter"),
            ("atlas", card.atlas, formed(card.atlas, "atlas"), "a tuple of ids such as AML.T0043.000"),
            ("nist", card.nist, formed(card.nist, "nist"), "a tuple of ids such as NISTAML.022"),
            ("parameters", taken, not taken, f"none of the name {' or '.join(TAKEN)}"),
        ]
    if isinstance(card, DefenseCard):
        eot = isinstance(card.eot, int) and card.eot >= 1
        wanted += [
            ("place", card.place, card.place in PLACES, " or ".join(PLACES)),
            ("hides", card.hides, isinstance(card.hides, Access), "an Access"),
            ("rejects", card.rejects, isinstance(card.rejects, bool), "True or False"),
            ("eot", card.eot, eot, "a whole number >= 1"),
            ("adapts", card.adapts, card.adapts in ("", "stream"), "'stream' or ''"),
            ("surrogate", card.surrogate, card.surrogate is None or callable(card.surrogate), "a function"),
            ("shape", card.shape, card.shape is None or callable(card.shape), "a function"),
        ]
    for fact, value, fits, what in wanted:
        if not fits:
            raise UsageError(f"expected {what} as {fact} of the {card.kind} {card.name}, got {quoted(value)}; mend it")
    return card


def _cards_in(module: ModuleType) -> Iterator[Card]:
    for value in vars(module).values():
        card = getattr(value, "card", None)
        if isinstance(card, Card) and card.function.__module__ == module.__name__:
            yield card


def _add(found: dict[tuple[str, str], Card], card: Card) -> None:
    twin = found.get((card.kind, card.name))
    if twin and twin.origin != card.origin:
        raise UsageError(
            f"expected one {card.kind} of the name {card.name!r}, got two: {twin.origin} and {card.origin}; rename one"
        )
    found[card.kind, card.name] = card


def names(kind: str) -> list[str]:
    """The registered names of a kind, sorted."""
    return [name for k, name in cards() if k == kind]


@overload
def card_of(kind: Literal["attack"], name: str) -> AttackCard: ...
@overload
def card_of(kind: Literal["defense"], name: str) -> DefenseCard: ...
@overload
def card_of(kind: str, name: str) -> Card: ...


def card_of(kind: str, name: str) -> Card:
    """The card of this name; raises UnknownName with the nearest."""
    if (kind, name) not in cards():
        raise UnknownName(kind, name, names(kind), "; ".join(map(str, left_out())))
    return cards()[kind, name]


def checked_parameters(card: Card, given: dict[str, Any]) -> dict[str, Any]:
    """The given parameters, if the plugin has them all and they are of its types; raises BadValue.

    A whole number may stand for a float. Types are told by the annotation as far as it is made of plain ones: int,
    float, str, bool, None, literals and lists; other parameters take one value where the default is one.
    """
    for key, value in given.items():
        if key not in card.parameters:
            raise BadValue(f"expected a parameter of {card.name}, got {quoted(key)}; {nearest(key, card.parameters)}")
        if not fitting(value, card.function, key):
            wanted = takes(card.function, key)
            if isinstance(value, list | tuple | dict):
                other = f"a {type(value).__name__}; write an entry for each value"
                raise BadValue(f"expected {key} of {card.name} as {wanted}, got {other}")
            raise BadValue(
                f"expected {key} of {card.name} as {wanted}, got {quoted(value)}; see robustsuite show {card.name}"
            )
    return given


def changed(card: Card, given: dict[str, Any]) -> dict[str, Any]:
    """What was set to something else than the default, sorted."""
    return {k: v for k, v in sorted(given.items()) if card.parameters.get(k, inspect.Parameter.empty) != v}


def canonical(card: Card, given: dict[str, Any]) -> str:
    """'pgd(steps=50)': the name with the parameters that differ from their defaults, sorted."""
    return used_words(card.name, changed(card, given))


def used(card: Card, given: dict[str, Any]) -> Used:
    """A plugin in use as a record holds it: every parameter resolved, its distribution and the hash of its source."""
    module, attack = card.function.__module__, card if isinstance(card, AttackCard) else None
    return Used(
        name=card.name, stage=card.place if card.kind == "defense" else "", given=plain(changed(card, given)),
        parameters=plain(dict(sorted({**card.parameters, **given}.items()))),
        needs=attack.needs.kinds() if attack else (), distribution=distribution_of(module), source=source_of(module),
        family=attack.families(**given) if attack else (), least=dict(attack.least) if attack else {},
        atlas=tuple(attack.atlas) if attack else (), nist=tuple(attack.nist) if attack else (),
    )  # fmt: skip


def identity(card: Card, given: dict[str, Any]) -> str:
    """What tells this use of a plugin from any other, as text: which parameters are defaults is no part of it.

    Nor is what its card says of its strength and class: that grades and names a number and changes none.
    """
    facts = {k: v for k, v in dumped(used(card, given)).items() if k not in UNTOLD}
    return json.dumps(facts, sort_keys=True)
