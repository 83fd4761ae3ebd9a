"""How one cell is computed again: flags of `robustsuite run` where they say it, else a sweep of its own in yaml.

Made of what a run stored as values, the entries of its sweep as they were written; no words are read back. What is
called by what tells it from a twin stands with its twin, since a cell's id holds these names. Imports no torch.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from robustsuite.records.schema import CellRecord, Stream
from robustsuite.records.swept import Asked, Entry, Part

KINDS: dict[str, tuple[type, ...]] = {"model": (str,), "shift": (str, dict)}
"""What an entry of these axes is; anybody may have written a sweep.json."""
FLAGGED = "cli"
"""The threat that `--attack` of the command line stands under."""

LISTED = Stream(order="listed", batch=64)
"""The stream of a sweep that says none."""


@dataclass(frozen=True)
class Again:
    """A command, and the yaml that it reads from `file`, '' where flags say all. lacks: what the run does not say.

    beside: whether entries stand in it that the cell's own are told apart from, and are planned with them.
    """

    command: str = ""
    file: str = ""
    sweep: str = ""
    beside: bool = False
    lacks: str = ""


class _Unsaid(Exception):
    """What a run does not say, in words."""


def again(record: CellRecord, share: Part) -> Again:
    """The command whose plan holds this cell of this sweep under the same run id; or what is missing for it."""
    try:
        if share.sweep is None:
            raise _Unsaid("how the sweep was asked for: its sweep.json was written by a version that kept words alone")
        found, beside = _sweep(record, share, share.sweep)
    except _Unsaid as error:
        return Again(lacks=str(error))
    first = [] if share.sweep.first is None else ["--first", str(share.sweep.first)]
    # a flag's threat has the scenario of its first attack
    if record.code != "scenario" and (flags := _flags(found)) is not None:
        return Again(shlex.join(["robustsuite", "run", *flags, *first]), beside=beside)
    file = f"{found['name']}.yaml"
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100)
    return Again(shlex.join(["robustsuite", "run", file, *first]), file, text, beside)


def _sweep(record: CellRecord, share: Part, asked: Asked) -> tuple[dict[str, Any], bool]:
    """The sweep of this cell as yaml has it; and whether twins stand in it."""
    model, data = _entry(share, "model", record.model.name), _entry(share, "dataset", record.data.name)
    defense, shift = _entry(share, "defense", record.defense_words()), None
    found: dict[str, Any] = {
        "name": f"cell-{record.run_id}", "seeds": [record.seed], "models": [model.spec, *model.twins],
        "data": [data.spec, *data.twins], "defenses": [defense.spec],
    }  # fmt: skip
    if record.shift and record.shift.name not in ("", "clean"):
        shift = _entry(share, "shift", record.shift.name)
        found["shifts"] = [shift.spec, *shift.twins]
    if record.threat is not None and record.attack is not None:
        attack = _entry(share, "attack", f"{record.threat.name}: {record.attack.words()}")
        name = _threat(record, asked)
        threat = {key: value for key, value in asked.threats[name].items() if key != "shifts"}
        on = {} if shift is None else {"shifts": [*({shift.spec} if isinstance(shift.spec, str) else shift.spec)]}
        found["threats"] = {name: {**threat, **on, "attacks": [attack.spec]}}
    found |= {"hosts": list(asked.hosts)} if asked.hosts else {}
    found |= {"stream": asked.stream.model_dump()} if asked.stream not in (None, LISTED) else {}
    return found, bool(model.twins or data.twins or (shift and shift.twins))


def _entry(share: Part, axis: str, words: str) -> Entry:
    """What was asked for under these words. Raises _Unsaid."""
    entry = share.entries.get(axis, {}).get(words)
    said = [] if entry is None else [entry.spec, *entry.twins]
    if entry is None or None in said or not all(isinstance(each, KINDS.get(axis, (object,))) for each in said):
        axis = {"dataset": "data set", "shift": "shift set"}.get(axis, axis)
        why = "it was handed over from Python" if None in said else "its sweep.json has no such entry"
        raise _Unsaid(f"how to load the {axis} {words}: {why}")
    return entry


def _threat(record: CellRecord, asked: Asked) -> str:
    """The name that the threat has in its sweep, where it may stand 'on' a shift set as well. Raises _Unsaid."""
    assert record.threat is not None
    name, shift = record.threat.name, record.shift
    under = [base for base in asked.threats if shift and name.startswith(f"{base} on {shift.name}")]
    known = name if name in asked.threats else max(under, key=len, default="")
    if not known:
        raise _Unsaid(f"how the threat {name} was asked for: its sweep.json has no such threat")
    return known


def _flags(sweep: dict[str, Any]) -> list[str] | None:
    """The sweep as flags; None where they cannot say it."""
    if {"hosts", "stream"} & set(sweep) or set(sweep.get("threats", {})) - {FLAGGED}:
        return None
    flags = [part for model in sweep["models"] for part in ("--model", model)]
    for axis, flag in (("data", "--data"), ("shifts", "--shift"), ("defenses", "--defense")):
        flags += [part for entry in sweep.get(axis, []) if entry != "none" for part in (flag, _flow(entry))]
    for threat in sweep.get("threats", {}).values():
        access, budget = threat.get("access"), threat.get("budget")
        if set(threat) - {"scenario", "access", "budget", "attacks"} or not isinstance(access, str) or not budget:
            return None
        flags += ["--attack", _flow(threat["attacks"][0]), "--budget", _flow(budget), "--access", access]
    return [*flags, *(part for seed in sweep["seeds"] for part in ("--seed", str(seed)))]


def _flow(value: Any) -> str:
    """A value as yaml on one line, as flags take it."""
    return str(yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=1 << 20))[1:-2]
