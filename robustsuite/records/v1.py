"""Records as version 0.1.0 wrote them: flat rows of words. The one place where words are read back; it never grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from robustsuite.errors import BadData
from robustsuite.records.schema import (
    Budget,
    CellRecord,
    Column,
    Cost,
    DataFacts,
    FlagFacts,
    GoalFacts,
    Made,
    ModelFacts,
    ScenarioFacts,
    Scoring,
    ShiftFacts,
    ThreatFacts,
    Used,
    plain,
)
from robustsuite.records.untrusted import sentence_of


def _rate(column: str, name: str, better: str = "neither", **facts: Any) -> Column:
    return Column(name=column, better=better, scores=(Scoring(name=name, **facts),))  # type: ignore[arg-type]


def _mean(column: str, name: str, unit: str = "", better: str = "neither", **facts: Any) -> Column:
    scores = (Scoring(name=name, kind="mean", **facts),)
    return Column(name=column, dtype="float", unit=unit, better=better, scores=scores)  # type: ignore[arg-type]


_CLEAN = _rate("clean_ok", "clean_accuracy", "more")
COLUMNS: dict[str, tuple[Column, ...]] = {
    "evasion": (
        _rate("robust", "robust_accuracy", "more", compared=True), _CLEAN,
        _rate("rejected", "rejected_rate", sparse=True), _rate("overturned", "overturned_rate", sparse=True),
    ),
    "clean": (_rate("robust", "clean_accuracy", "more", compared=True),),
    "shift": (
        _rate("robust", "accuracy", "more", compared=True), _CLEAN,
        Column(name="confidence", dtype="float", scores=(
            Scoring(name="rms_calibration_error", kind="rms_calibration", by="robust"),
            Scoring(name="expected_calibration_error", kind="ece", by="robust"),
        )),
    ),
    "certification": (
        Column(name="radius", dtype="float", better="more", scores=(
            Scoring(name="certified_accuracy", kind="beyond", by="clean_ok", compared=True),
            Scoring(name="mean_certified_radius", kind="mean"),
        )),
        _rate("abstained", "abstained_rate"), _CLEAN,
    ),
    "poisoning": (
        _rate("triggered_as_target", "attack_success_rate", "less", where="eligible", compared=True),
        _rate("flagged", "triggered_rejected_rate", where="eligible"),
        _mean("psnr", "mean_psnr", "dB", "less", where="eligible"),
        _rate("clean_ok", "clean_accuracy", "more", compared=True),
        _rate("flagged_clean", "clean_rejected_rate", "less"),
    ),
    "unlearnable": (_rate("clean_ok", "clean_accuracy", "more", compared=True),),
    "inversion": (
        _mean("psnr", "mean_psnr", "dB", "less", compared=True), _mean("ssim", "mean_ssim", "", "less"),
        *(_rate(name, f"{name}_rate") for name in ("label_ok", "label_found", "identified", "failed")),
        _mean("federated_accuracy", "mean_federated_accuracy", "", "more"),
    ),
}  # fmt: skip
SCENARIOS = {
    "evasion": ("robust_accuracy", "all", "robustsuite.reports.sections.evasion.attacked:part"),
    "shift": ("accuracy", "", "robustsuite.reports.sections.shifts:part"),
    "certification": ("certified_accuracy", "any", "robustsuite.reports.sections.certified:part"),
    "poisoning": ("attack_success_rate", "", "robustsuite.reports.sections.poisoning:part"),
    "unlearnable": ("clean_accuracy", "", "robustsuite.reports.sections.poisoning:unlearnable_part"),
    "inversion": ("mean_psnr", "", "robustsuite.reports.sections.reconstructions:part"),
}
_NO_SCORE = ("run_id", "index", "label", "prediction", "queries")


def upgraded(row: Mapping[str, Any], schema: Mapping[str, str]) -> CellRecord:
    """A flat row as a record; schema: the examples' columns, bool, int or float. Raises BadData in a sentence."""
    try:
        return _upgraded(row, schema)
    except ValidationError as error:
        raise BadData(f"run.json: {sentence_of(error)}") from error
    except (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError, IndexError) as error:
        raise BadData(f"run.json is not as version 0.1.0 wrote it: {error}") from error


def _upgraded(row: Mapping[str, Any], schema: Mapping[str, str]) -> CellRecord:
    def word(key: str) -> str:
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"expected words for {key}, got {value!r}")
        return value or ""

    name, done = word("scenario"), row.get("status") == "done"
    headline, joins, sections = SCENARIOS.get(name, ("", "", ""))
    threat = None
    if word("threat"):
        access = tuple(part for part in word("access").split(", ") if part != "nothing")
        goal, budget = _goal(word("goal")), _budget(word("budget"))
        threat = ThreatFacts(name=word("threat"), access=access, goal=goal, budget=budget)
    attack = None
    if word("attack"):
        needs = tuple(part for part in word("needs").split(", ") if part not in ("", "nothing"))
        attack = _used(word("attack")).model_copy(update={"needs": needs})
    defense = word("defense") if word("defense") != "none" else ""
    flags = tuple(FlagFacts(**{k: str(v or "") for k, v in flag.items()}) for flag in row.get("flags") or ())  # type: ignore[arg-type]
    made: dict[str, Any] = {k: word(k) for k in ("suite_version", "device", "dtype", "started")}
    return CellRecord(
        run_id=word("run_id"), sweep=word("sweep"), status=row.get("status"), code=word("code"),  # type: ignore[arg-type]
        sentence=word("sentence"), same_as=row.get("same_as"), traceback=word("traceback"),
        scenario=ScenarioFacts(name=name, headline=headline, joins=joins, sections=sections),  # type: ignore[arg-type]
        threat=threat, attack=attack, defenses=tuple(_used(part) for part in _parted(defense, "+") if part),
        model=ModelFacts(name=word("model"), sha256=word("model_sha256")),
        data=DataFacts(name=word("dataset"), sha256=word("data_sha256"), n=row.get("n") or 0),
        shift=ShiftFacts(name=word("shift"), corruption=word("corruption"), severity=row.get("severity"),
                         head=word("head"), transform=word("transform")) if word("shift") else None,
        seed=row.get("seed") or 0, weights_sha256=word("weights_sha256"), rows=row.get("n") or 0,
        columns=_columns(name, word("shift"), schema) if done else (), flags=flags,
        cost=Cost(**{k: row.get(k) or 0 for k in Cost.model_fields}),
        made=Made(**made, commit=row.get("commit"), dirty=row.get("dirty"), packages=row.get("packages") or {},
                  canaries=plain(row.get("canaries") or {})),
    )  # fmt: skip


def _columns(scenario: str, shift: str, schema: Mapping[str, str]) -> tuple[Column, ...]:
    known = {c.name: c for c in COLUMNS.get("clean" if scenario == "shift" and shift == "clean" else scenario, ())}
    found = [c for name, c in known.items() if name in schema]
    for name, kind in schema.items():
        if name not in known and name not in ("run_id", "index", "label"):
            series, _, at = name.rpartition("_at_")
            marks: dict[str, Any] = {"series": f"{series}_at", "at": float(at)} if at.isdigit() and series else {}
            found.append(Column(name=name, dtype=kind, **marks, scores=() if known else _generic(name, kind)))  # type: ignore[arg-type]
    return tuple(found)


def _generic(name: str, kind: str) -> tuple[Scoring, ...]:
    if name in _NO_SCORE or name.startswith("after_"):
        return ()
    own = {"clean_ok": "clean_accuracy", "triggered_as_target": "attack_success_rate", "robust": "robust_accuracy"}
    if kind == "bool":
        return (Scoring(name=own.get(name, f"{name}_rate")),)
    return (Scoring(name=f"mean_{name}", kind="mean"),)


def _budget(text: str) -> Budget:
    facts: dict[str, Any] = {"terms": {}}
    for part in _parted(text, " "):
        name, _, inside = part.removesuffix(")").partition("(")
        if name == "queries":
            facts["queries"] = int(inside)
        elif name == "poison_rate":
            facts["poison_rate"] = float(inside)
        elif inside.startswith("eps="):
            value = inside.removeprefix("eps=")
            facts |= {"norm": name, "eps": math.inf if value == "inf" else _ratio(value)}
        elif name:
            facts["terms"][name] = dict(pair.split("=", 1) for pair in _parted(inside, ", "))
    return Budget(**facts)


def _ratio(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(Fraction(top) / Fraction(bottom or "1"))


def _goal(text: str) -> GoalFacts:
    name, _, inside = text.removesuffix(")").partition("(")
    if name == "to_class":
        return GoalFacts(name="targeted", terms={"target": int(inside)}, words=text)
    if name == "ordered_topk":
        return GoalFacts(name=name, terms={"k": int(inside.removeprefix("k="))}, words=text)
    return GoalFacts(name=name or "untargeted", words=text or "untargeted")


def _used(text: str) -> Used:
    """'pgd(steps=50)' with its parameters as words, a whole number as one; what has no brackets is a name."""
    name, opened, inside = text.partition("(")
    pairs = [part.partition("=") for part in _parted(inside.removesuffix(")"), ", ")] if opened else []
    if not opened or not text.endswith(")") or not all(sign for _, sign, _ in pairs):
        return Used(name=text)
    given = {key: int(value) if value.isdigit() else value for key, _, value in pairs}
    return Used(name=name, given=given, parameters=given)


def _parted(text: str, mark: str) -> list[str]:
    """The parts between marks that stand outside every bracket."""
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and text.startswith(mark, i):
            parts.append(text[start:i])
            start = i + len(mark)
    return [*parts, text[start:]]
