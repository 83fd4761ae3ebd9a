"""The yaml keys of a threat. A scenario takes `Spec` as it is, or a subclass with keys of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from robustsuite.config.goals import parse_goal
from robustsuite.config.sets import NAMES, parse_set
from robustsuite.config.threats import Threat, parse_access, within_box
from robustsuite.errors import BadValue, UnknownName
from robustsuite.records.labels import LONGEST, read_as, sayable


def named(entry: Any) -> tuple[Any, str]:
    """An entry without its `as`, and that name, '' without one: {pgd: {steps: 50}, as: PGD-50}.

    A stack of defenses is a list, or {stack: [a, b], as: a name}; {none: } is the word none.
    """
    if not isinstance(entry, dict):
        return entry, ""
    rest: Any = {key: value for key, value in entry.items() if key != "as"}
    if set(rest) == {"stack"} and isinstance(rest["stack"], list):
        rest = rest["stack"]
    elif rest in ({"none": None}, {"none": {}}):
        rest = "none"
    return rest, entry.get("as", "")


def _told_apart(entries: list[Any]) -> list[Any]:
    names: list[str] = []
    for entry in entries:
        rest, name = named(entry)
        if rest == []:
            raise ValueError("one defense or more in a stack, got none,")
        if not isinstance(entry, dict) or "as" not in entry:
            continue
        if not (isinstance(name, str) and sayable(name)):
            rule = f"a name of 1 to {LONGEST} characters after `as`, none of ; and none of a table's own words"
            raise ValueError(f"{rule}, got {name!r},")
        if rest == "none":
            raise ValueError(f"no name for none, which tables call undefended, got {name!r},")
        if read_as(name) in map(read_as, names):
            raise ValueError(f"another name for each entry after `as`, got {name!r} twice,")
        names.append(name)
    return entries


Entries = Annotated[
    list[Any], BeforeValidator(lambda value: value if isinstance(value, list) else [value]), AfterValidator(_told_apart)
]
"""One axis of a sweep, or the attacks of a threat: each entry a name with parameters, and what tables shall call it."""

QUERIES = ("queries", "queries_total")
"""Limits that any scenario's budget may set: answers an image, answers in all."""


class Spec(BaseModel):
    """What every threat says: its scenario, what the adversary sees and may spend, and the attacks it may use.

    keep: which pictures are kept with the rows, those that broke up to a number, all that were attacked, or none.
    `threat` makes the live one; keys that a subclass adds, and what its budget holds besides queries, are its terms.
    """

    model_config = ConfigDict(extra="forbid")

    scenario: str
    access: str | list[str] = "white_box"
    budget: dict[str, Any] = {}
    attacks: Entries = Field(min_length=1)
    keep: Literal["broken", "all", "none"] = "broken"

    def asked(self, name: str) -> Threat:
        """What `threat` makes, with what shall be kept of it."""
        return replace(self.threat(name), keep=self.keep)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        terms = {k: v for k, v in self.budget.items() if k not in QUERIES}
        terms |= {k: getattr(self, k) for k in type(self).model_fields if k not in Spec.model_fields}
        return Threat(name, self.scenario, parse_access(self.access), terms=tuple(terms.items()), **self.limits(name))

    def limits(self, name: str) -> dict[str, Any]:
        """The limits on queries, checked."""
        found: dict[str, Any] = {key: self.budget[key] for key in QUERIES if self.budget.get(key) is not None}
        for key, value in found.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadValue(f"expected a whole number of {key} >= 1 in the budget of {name!r}, got {value!r}")
        return found

    def only(self, name: str, known: list[str], least: int = 1) -> dict[str, Any]:
        """The budget, if its keys are known ones; raises UnknownName or BadValue."""
        for key in self.budget:
            if key not in known:
                raise UnknownName(f"budget of the threat {name!r}", key, known)
        if len(self.budget) < least:
            raise BadValue(f"expected {' or '.join(known)} in the budget of {name!r}, got none; add it")
        return self.budget


class BallSpec(Spec):
    """A threat that may move a picture within a ball or another set. goal: what the answer shall become."""

    goal: Any = "untargeted"

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue or UnknownName."""
        norms = {k: v for k, v in self.only(name, [*NAMES, *QUERIES], least=0).items() if k not in QUERIES}
        if len(norms) != 1:
            raise BadValue(f"expected one of {', '.join(NAMES)} in the budget of {name!r}, got {self.budget!r}")
        ((norm, eps),) = norms.items()
        access, ball = parse_access(self.access), within_box(parse_set(norm, eps))
        return Threat(name, self.scenario, access, ball, goal=parse_goal(self.goal), **self.limits(name))
