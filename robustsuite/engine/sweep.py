"""yaml -> Sweep: what to cross with what. An unknown key is an error with its line, value and nearest name."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from robustsuite.config.keys import Entries, Spec
from robustsuite.config.registry import names
from robustsuite.config.text import BYTES, WHOLE, plain_value, read_yaml
from robustsuite.errors import BadData, BadValue, RobustsuiteError, UsageError, brief, nearest, quoted
from robustsuite.records.schema import Stream, plain
from robustsuite.records.swept import Asked
from robustsuite.scenarios import scenario_of
from robustsuite.serve.data import Dataset

SEEDS = 10_000
"""The most seeds of a sweep."""

LONGEST = 100
"""Characters of a sweep's name, and of a threat's; bytes of the former, which is a folder's name, twice that."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What some systems take for a device."""


def _folder(name: str) -> str:
    """A sweep's name, which a folder can have everywhere."""
    fits = re.fullmatch(r"\w[\w.-]*", name) and not name.endswith(".") and not RESERVED.fullmatch(name)
    if not fits or len(name) > LONGEST or len(name.encode()) > 2 * LONGEST:
        raise ValueError(f"letters, digits, . _ and -, at most {LONGEST} and no device's name, got {brief(name)!r},")
    return name


def _threats(threats: dict[str, Any]) -> dict[str, Any]:
    """Threats under names that fit a table's column."""
    for name in threats:
        if not 0 < len(name) <= LONGEST or not name.isprintable() or name != name.strip():
            raise ValueError(f"names of 1 to {LONGEST} characters on one line, got {brief(name)!r},")
    return threats


def _of_sweep(stream: Stream) -> Stream:
    """A stream in an order that a sweep can declare: a threat's is its own."""
    if stream.order == "threat":
        raise ValueError("the order listed or shuffled, got 'threat',")
    return stream


class Sweep(BaseModel):
    """Models x data x defenses x (threats' attacks + shifts) x seeds. `as` beside an entry is what tables call it.

    hosts: those that may be asked, as host:port. stream: in which order (listed, shuffled) and batches systems that
    adapt to what they are asked are asked.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_folder)]
    title: str = ""
    seeds: list[Annotated[int, Field(strict=True, ge=0, lt=WHOLE)]] = Field(
        default=[0], min_length=1, max_length=SEEDS
    )
    models: Entries = Field(min_length=1)
    data: Entries = Field(min_length=1)
    shifts: Entries = []
    defenses: Entries = Field(default=["none"], min_length=1)
    threats: Annotated[dict[str, SerializeAsAny[Spec]], AfterValidator(_threats)] = {}
    hosts: list[str] = []
    stream: Annotated[Stream, AfterValidator(_of_sweep)] = Stream(order="listed", batch=64)


def default_sweep() -> str:
    """The text of the embedded sweep: offline, on a laptop."""
    return (files("robustsuite.benchmarks.sweeps") / "default.yaml").read_text(encoding="utf-8")


def read_sweep(file: Path | None) -> Sweep:
    """The sweep in this file, the embedded one for None. Raises BadData, BadValue."""
    if file is None:
        return parse_sweep(default_sweep(), "the embedded sweep")
    try:
        if file.is_file() and file.stat().st_size > 4 * BYTES:  # characters of UTF-8 take four bytes at the most
            raise BadData(f"expected at most {BYTES} characters of yaml at {file}, got a larger file; split it")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise BadData(f"expected a sweep in yaml at {brief(str(file))}, got {got}; check the path") from error
    return parse_sweep(text, str(file))


def parse_sweep(text: str, where: str) -> Sweep:
    """The sweep in a yaml text; `where` names it in errors."""
    value, tree = read_yaml(text, where)
    if not isinstance(value, dict):
        raise BadData(f"expected keys such as models, data, threats in {where}, got {type(value).__name__}; write them")
    return sweep_of(value, where, tree)


def sweep_of(value: dict[str, Any], where: str, tree: yaml.Node | None = None) -> Sweep:
    """The sweep these keys stand for; `where`, and the line in `tree` where there is a text, name it in errors."""
    threats = plain_value(_written(value), where).get("threats")
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


def asked(sweep: Sweep, first: int | None) -> Asked:
    """What it asks for besides its entries, as sweep.json keeps it. first: of each data set, as `plan` is told."""
    threats = {name: spec.model_dump(exclude={"attacks"}, exclude_unset=True) for name, spec in sweep.threats.items()}
    return Asked(first=first, hosts=tuple(sweep.hosts), stream=sweep.stream, threats=plain(threats))


def _written(value: dict[str, Any]) -> dict[str, Any]:
    """The same without data sets from Python, which no text holds."""
    data = value.get("data")
    return {**value, "data": [e for e in data if not isinstance(e, Dataset)]} if isinstance(data, list) else value


def _threat(name: str, value: Any, where: str, tree: yaml.Node | None) -> Any:
    """One threat under the keys of its scenario; what is no mapping is left for the sweep to refuse."""
    if not isinstance(value, dict):
        return value
    path, asked, known = ("threats", name), value.get("scenario"), names("scenario")
    if isinstance(asked, str) and asked not in known:
        line = f"{where} line {_line(tree, [*path, 'scenario'])}" if tree else where
        options = " or ".join(map(repr, known))
        raise BadValue(f"{line}: expected {options} for scenario, got {brief(asked)!r}; {nearest(asked, known)}")
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
        near = nearest(str(path[-1]), known)
        return BadValue(f"{line}: expected a key that a sweep has, got {brief(path[-1])!r}; {near}")
    spot = ".".join(map(str, path)) or "the sweep"
    if first["type"] == "missing":
        return BadValue(f"{line}: expected the key {spot!r}, got none; add it")
    if first["type"] == "value_error":  # ours, which say what came
        return BadValue(f"{line}: expected {first['ctx']['error']} in {spot}; mend it")
    wanted = "one entry or more" if first["type"] == "too_short" else first["msg"].removeprefix("Input should be ")
    return BadValue(f"{line}: expected {wanted} for {spot}, got {quoted(first['input'])}; mend it")


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
