"""yaml -> Sweep: what to cross with what. An unknown key is an error with its line, value and nearest name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from robustsuite.config.keys import Entries, Spec
from robustsuite.config.registry import names
from robustsuite.errors import BadData, BadValue, RobustsuiteError, UsageError, nearest
from robustsuite.records.schema import Stream
from robustsuite.scenarios import scenario_of


class Sweep(BaseModel):
    """Models x data x defenses x (threats' attacks + shifts) x seeds. `as` beside an entry is what tables call it.

    hosts: those that may be asked, as host:port. stream: in which order (listed, shuffled) and batches systems that
    adapt to what they are asked are asked.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^\w[\w.-]*$")
    title: str = ""
    seeds: list[int] = Field(default=[0], min_length=1)
    models: Entries = Field(min_length=1)
    data: Entries = Field(min_length=1)
    shifts: Entries = []
    defenses: Entries = Field(default=["none"], min_length=1)
    threats: dict[str, SerializeAsAny[Spec]] = {}
    hosts: list[str] = []
    stream: Stream = Stream(order="listed", batch=64)


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
    threats = value.get("threats")
    if isinstance(threats, dict):
        value = {**value, "threats": {str(k): _threat(str(k), v, where, tree) for k, v in threats.items()}}
    try:
        sweep = Sweep.model_validate(value)
        for name, spec in sweep.threats.items():
            spec.threat(name)
    except ValidationError as error:
        raise _sentence(error, tree, where, Sweep) from error
    except RobustsuiteError as error:
        raise UsageError(f"{where}: {error}") from error
    return sweep


def _threat(name: str, value: Any, where: str, tree: yaml.Node | None) -> Any:
    """One threat under the keys of its scenario; what is no mapping is left for the sweep to refuse."""
    if not isinstance(value, dict):
        return value
    path, asked, known = ("threats", name), value.get("scenario"), names("scenario")
    if isinstance(asked, str) and asked not in known:
        line = f"{where} line {_line(tree, [*path, 'scenario'])}" if tree else where
        options = " or ".join(map(repr, known))
        raise BadValue(f"{line}: expected {options} for scenario, got {asked!r}; {nearest(asked, known)}")
    spec = scenario_of(asked).spec if isinstance(asked, str) else Spec
    try:
        return spec.model_validate(value)
    except ValidationError as error:
        raise _sentence(error, tree, where, spec, path) from error


def _sentence(
    error: ValidationError, tree: yaml.Node | None, where: str, model: type[BaseModel], under: tuple[str, ...] = ()
) -> BadValue:
    """The first thing wrong, with its line, what came and what to do; `under`: where in the text the model stands."""
    # a misspelt key is named before the key that it leaves out
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = [*under, *(part for part in first["loc"] if isinstance(part, str | int))]
    line = f"{where} line {_line(tree, path)}" if tree else where
    if first["type"] == "extra_forbidden":
        known = model.model_fields
        return BadValue(f"{line}: expected a key that a sweep has, got {path[-1]!r}; {nearest(str(path[-1]), known)}")
    spot = ".".join(map(str, path)) or "the sweep"
    if first["type"] == "missing":
        return BadValue(f"{line}: expected the key {spot!r}, got none; add it")
    if first["type"] == "value_error":  # ours, which say what came
        return BadValue(f"{line}: expected {first['ctx']['error']} in {spot}; mend it")
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
