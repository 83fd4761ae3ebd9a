"""yaml -> Sweep: what to cross with what. An unknown key is an error with its line, value and nearest name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robustsuite.errors import BadData, BadValue, RobustsuiteError, UnknownName, UsageError, nearest
from robustsuite.goals import ToClass, parse_goal
from robustsuite.threats import BALLS, Access, PoisonRate, Threat, Update, parse_access, parse_ball, parse_number

Entries = Annotated[list[Any], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class ThreatSpec(BaseModel):
    """One adversary and the algorithms it may use; shifts: sets of the sweep whose pictures it attacks as well."""

    model_config = ConfigDict(extra="forbid")

    scenario: Literal["evasion", "certification", "poisoning", "unlearnable", "inversion"]
    access: str | list[str] = "white_box"
    goal: Any = "untargeted"
    target: int | None = None
    budget: dict[str, Any]
    attacks: Entries = Field(min_length=1)
    shifts: Entries = Field(default_factory=list)

    def threat(self, name: str) -> Threat:
        """The threat with its budget parsed; raises BadValue or UnknownName."""
        access: Access = parse_access(self.access)
        if self.scenario in ("poisoning", "unlearnable"):
            rate = PoisonRate(parse_number(self._only(name, ["poison_rate"])["poison_rate"], "poison_rate"))
            target = (self.target or 0) if self.scenario == "poisoning" else None
            goal = ToClass(target) if target is not None else parse_goal(self.goal)
            return Threat(name, self.scenario, access, goal=goal, poison=rate, target=target)
        if self.scenario == "inversion":
            known = list(Update.__dataclass_fields__)
            return Threat(name, self.scenario, access, update=Update(**self._only(name, known, least=0)))
        queries = self.budget.get("queries")
        norms = self._only(name, [*BALLS, "queries"], least=0)
        norms = {k: v for k, v in norms.items() if k != "queries"}
        if len(norms) != 1:
            raise BadValue(f"expected one of {', '.join(BALLS)} in the budget of {name!r}, got {self.budget!r}")
        if queries is not None and (not isinstance(queries, int) or queries < 1):
            raise BadValue(f"expected a whole number of queries >= 1 in the budget of {name!r}, got {queries!r}")
        ((norm, eps),) = norms.items()
        return Threat(name, self.scenario, access, parse_ball(norm, eps), queries, parse_goal(self.goal))

    def _only(self, name: str, known: list[str], least: int = 1) -> dict[str, Any]:
        """The budget, if its keys are known ones; raises UnknownName or BadValue."""
        for key in self.budget:
            if key not in known:
                raise UnknownName(f"budget of the threat {name!r}", key, known)
        if len(self.budget) < least:
            raise BadValue(f"expected {' or '.join(known)} in the budget of {name!r}, got none; add it")
        return self.budget


class Sweep(BaseModel):
    """Models x data x defenses x (threats' attacks + shifts) x seeds."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[\w.-]+$")
    title: str = ""
    seeds: list[int] = Field(default=[0], min_length=1)
    models: Entries = Field(min_length=1)
    data: Entries = Field(min_length=1)
    shifts: Entries = []
    defenses: Entries = Field(default=["none"], min_length=1)
    threats: dict[str, ThreatSpec] = {}


def default_sweep() -> str:
    """The text of the embedded sweep: offline, on a laptop."""
    return (files("robustsuite.benchmarks.sweeps") / "default.yaml").read_text(encoding="utf-8")


def read_sweep(file: Path | None) -> Sweep:
    """The sweep in this file, the embedded one for None. Raises BadData, BadValue."""
    if file is None:
        return parse_sweep(default_sweep(), "the embedded sweep")
    try:
        return parse_sweep(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or error
        raise BadData(f"expected a sweep in yaml at {file}, got {got}; check the path") from error


def parse_sweep(text: str, where: str) -> Sweep:
    """The sweep in a yaml text; `where` names it in errors."""
    try:
        value, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise BadData(f"expected yaml in {where}{line}, got {getattr(error, 'problem', None) or error}") from error
    if not isinstance(value, dict):
        raise BadData(f"expected keys such as models, data, threats in {where}, got {type(value).__name__}")
    return sweep_of(value, where, tree)


def sweep_of(value: dict[str, Any], where: str, tree: yaml.Node | None = None) -> Sweep:
    """The sweep these keys stand for; `where`, and the line in `tree` where there is a text, name it in errors."""
    try:
        sweep = Sweep.model_validate(value)
        for name, spec in sweep.threats.items():
            spec.threat(name)
    except ValidationError as error:
        raise _sentence(error, tree, where) from error
    except RobustsuiteError as error:
        raise UsageError(f"{where}: {error}") from error
    return sweep


def _sentence(error: ValidationError, tree: yaml.Node | None, where: str) -> BadValue:
    """The first thing wrong, with its line, what came and what to do."""
    # a misspelt key is named before the key that it leaves out
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = [part for part in first["loc"] if isinstance(part, str | int)]
    line = f"{where} line {_line(tree, path)}" if tree else where
    if first["type"] == "extra_forbidden":
        known = (ThreatSpec if len(path) > 2 else Sweep).model_fields
        return BadValue(f"{line}: expected a key that a sweep has, got {path[-1]!r}; {nearest(str(path[-1]), known)}")
    spot = ".".join(map(str, path)) or "the sweep"
    if first["type"] == "missing":
        return BadValue(f"{line}: expected the key {spot!r}, got none; add it")
    wanted = "one entry or more" if first["type"] == "too_short" else first["msg"].removeprefix("Input should be ")
    return BadValue(f"{line}: expected {wanted} for {spot}, got {first['input']!r}; mend it")


def _line(node: yaml.Node, path: list[str | int]) -> int:
    """The line of the deepest part of `path` that stands in the text."""
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == str(part)]
            if not pairs:
                return line
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
