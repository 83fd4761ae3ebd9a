"""What is asked of an observer: the yaml keys of the scenario and the threat that they make."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from robustsuite.config.keys import BallSpec
from robustsuite.config.registry import AttackCard, canonical, card_of, checked_parameters, identity
from robustsuite.config.threats import Threat
from robustsuite.config.transforms import Allowed
from robustsuite.errors import BadValue
from robustsuite.serve.data import parse_spec

SHADOWS = "recipe:cnn_{kernel}_{activation}"
"""Nets of the observer's own, where it names no others."""

HELD = 5
"""One in so many of the observer's own examples is kept from what it learns on."""

OWN = ("sees", "shadows", "draws", "pictures")
"""What a threat of this scenario says besides its attacks, told where it is not the default."""


class Maker(NamedTuple):
    """An evasion attack with its parameters and budget, as pictures are made by."""

    card: AttackCard
    given: tuple[tuple[str, Any], ...]
    budget: Allowed

    def __str__(self) -> str:
        return f"{canonical(self.card, dict(self.given))} in {self.budget}"


@dataclass(frozen=True, kw_only=True)
class ParsingThreat(Threat):
    """The observer: what it finds (`made`, `sees`), and what it learns on (`assumed`; nets of its own).

    shadows: the spec of those, with {kernel} and {activation} in it, pruned by `magnitude_pruning`. draws: nets of each
    combination; pictures: examples that each is attacked on.
    """

    made: Maker
    assumed: Maker
    sees: str
    shadows: str
    draws: int
    pictures: int


class Assumed(BaseModel):
    """What the observer takes the pictures to be made by, where that is not what they are: out of distribution."""

    model_config = ConfigDict(extra="forbid")

    evasion: Any = None
    budget: dict[str, Any] = {}


class ParsingSpec(BallSpec):
    """evasion: the attack that the pictures are made by, within the budget. sees: what was added, or the picture.

    assumes: another attack or budget that the observer learns from. shadows, draws, pictures: its own nets, how many of
    each combination, and the examples that each is attacked on.
    """

    evasion: Any
    sees: Literal["delta", "picture"] = "delta"
    assumes: Assumed = Assumed()
    shadows: str = SHADOWS
    draws: int = Field(default=1, ge=1)
    pictures: int = Field(default=200, ge=HELD)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        plain = super().threat(name)
        if plain.goal.name != "untargeted" or plain.queries or plain.queries_total:
            raise BadValue(f"expected a set of pictures alone as the budget of {name!r} and no goal, got more; what "
                           f"the evasion attack may ask is said by its parameters")  # fmt: skip
        other = BallSpec(scenario=self.scenario, budget=self.assumes.budget or self.budget, attacks=["-"]).threat(name)
        maker = _maker(self.evasion, plain.budget)
        assumed = _maker(self.evasion if self.assumes.evasion is None else self.assumes.evasion, other.budget)
        if "{kernel}" not in self.shadows or "{activation}" not in self.shadows:
            raise BadValue(f"expected {{kernel}} and {{activation}} in the shadows of {name!r}, got {self.shadows!r}")
        told: dict[str, Any] = {"evasion": canonical(maker.card, dict(maker.given))}
        told |= {} if assumed == maker else {"assumes": str(assumed)}
        own = {key: getattr(self, key) for key in OWN}
        told |= {key: value for key, value in own.items() if value != type(self).model_fields[key].default}
        told["source"] = _source(maker, assumed)
        given = {f.name: getattr(plain, f.name) for f in fields(plain)} | {"terms": tuple(told.items())}
        return ParsingThreat(**given, made=maker, assumed=assumed, **own)


def _maker(entry: object, budget: Allowed | None) -> Maker:
    assert budget is not None
    name, given = parse_spec(entry, "evasion attack")
    card = card_of("attack", name)
    if card.place != "evasion":
        raise BadValue(f"expected an evasion attack that pictures are made by, got {name}, which plays {card.place}")
    return Maker(card, tuple(sorted(checked_parameters(card, given).items())), budget)


def _source(*makers: Maker) -> str:
    """8 digits that tell these attacks from what they were under another source."""
    told = [identity(maker.card, dict(maker.given)) for maker in makers]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
