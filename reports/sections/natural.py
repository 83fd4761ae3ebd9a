"""Natural shift sets as tables: the gap to the matching clean pictures, every variant, shortcuts, effective robustness.

The matching clean pictures are the set's own (the same classes under the same head), or else the clean split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from robustsuite.maths import stats

from ..measure.calibration import expected_calibration_error, rms_calibration_error
from ..measure.effective import residuals
from ..measure.scores import rate
from ..measure.selective import CONTROL
from ..read.runs import Results, once
from ..render.document import Entry, Table, accuracy, counted, split_constant, words
from ..render.text import number, percent, plain, points, pvalue
from .generic import across, titled

WHERE = ("dataset", "model", "seed")
ATTRIBUTES = {
    "background": ("back", "inver", "lambda", "bg", "l20"), "size": ("size", "full", "0."),
    "position": ("pos", "rp"), "direction": ("dir", "rd"),
}  # fmt: skip
"""ImageNet-E: an edit's attribute by what its folder's name contains."""

NOTHING = Entry("–", -1.0)
Member = Mapping[str, Any]
"""One system on one set."""


def natural_tables(run: Results) -> Iterator[Table]:
    """The overview, a table of variants for each set that has several, watermarks, effective robustness."""
    found = members(run)
    if not found:
        return
    yield _overview(found)
    shifted = [m for m in found if m["shift"] != "clean"]
    parts = list(_by(shifted, ("shift", *WHERE)))
    titles = titled([key for key, _ in parts], ("shift", *WHERE))
    for i, ((key, part), title) in enumerate(zip(parts, titles, strict=True)):
        if len(part[0]["variants"]) > 1:
            yield _variants(run, f"variants-{i + 1}", title, key, part)
        if "watched" in part[0]["pooled"] and part[0]["control"] is not None:
            yield _watermark(f"watermark-{i + 1}", title, key, part)
    yield from _effective(shifted)


@once
def members(run: Results) -> list[Member]:
    """Each system on each set: its facts, `variants` and `pooled` examples, `control` those of the clean pictures."""
    cells = run.cells[
        (run.cells["scenario"] == "shift") & run.cells["severity"].isna() & (run.cells["status"] == "done")
    ]
    if not len(cells):
        return []
    found = [_member(run, key, part, cells) for key, part in cells.groupby(["shift", *WHERE, "defense"], sort=False)]
    order = list(dict.fromkeys(m["shift"] for m in found))
    return sorted(found, key=lambda m: order.index(m["shift"]))


def _member(run: Results, key: tuple[Any, ...], part: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """One system on one set: its variants' examples, pooled, and those of the clean pictures they are compared with."""
    facts = dict(zip(("shift", *WHERE, "defense"), key, strict=True))
    variants = {
        c["corruption"]: run.examples(c["run_id"]) for c in part.to_dict("records") if c["corruption"] != CONTROL
    }
    own = part[part["corruption"] == CONTROL]["run_id"]
    same = np.logical_and.reduce([cells[name] == facts[name] for name in (*WHERE, "defense")])
    plain_cell = cells[same & (cells["shift"] == "clean")]["run_id"]
    reference = [*own, *plain_cell]
    first = part.iloc[0]
    notes = [
        first["head"] if not first["head"].startswith("all ") else "",
        first["transform"],
        *part["sentence"].unique(),
    ]
    return {
        **facts, "set": first["record"].shift.name, "variants": variants,
        "pooled": pd.concat(list(variants.values()), ignore_index=True),
        "control": run.examples(reference[0]) if reference else None, "struck": "INVALID" in set(part["grade"]),
        "failed": set(part["corruption"][part["grade"] == "INVALID"]),
        "notes": "; ".join(note for note in notes if note),
    }  # fmt: skip


def _overview(members: Sequence[Mapping[str, Any]]) -> Table:
    frame = pd.DataFrame([{name: m[name] for name in WHERE} for m in members])
    names, caption = split_constant(frame, WHERE)
    rows = []
    for m in members:
        score, shifted = rate("accuracy", m["pooled"]["robust"]), m["shift"] != "clean"
        clean = m["control"] if shifted else None
        drop = NOTHING if clean is None else replace(gap(score.value, clean), struck=m["struck"])
        rows.append((
            *(words(m[name]) for name in names), words(m["shift"]), words(m["defense"]),
            accuracy(score.value, score.lo, score.hi, struck=m["struck"]),
            NOTHING if clean is None else counted(clean["robust"].mean(), percent(clean["robust"].mean())), drop,
            *_calibration(m["pooled"]), counted(score.n, number(score.n)), Entry(_head(m["notes"]), note=m["notes"]),
        ))  # fmt: skip
    columns = (*names, "shift", "defense", "accuracy", "clean, same classes", "gap", "RMS cal.", "ECE", "n", "read as")
    return Table("shifts", "Shift sets", caption, columns, tuple(rows))


def _head(notes: str) -> str:
    """How the set was read, without the sum of the kept classes' indices: a checksum, which the entry's note keeps."""
    return re.sub(r", indices sum to \d+", "", notes)


def gap(value: float, clean: pd.DataFrame) -> Entry:
    """An accuracy minus that on the matching clean pictures."""
    difference = value - float(clean["robust"].mean())
    return counted(difference, points(difference))


def _calibration(rows: pd.DataFrame) -> tuple[Entry, Entry]:
    if "confidence" not in rows:
        return NOTHING, NOTHING
    both = rms_calibration_error, expected_calibration_error
    errors = [function(rows["confidence"], rows["robust"]) for function in both]
    return counted(errors[0], percent(errors[0])), counted(errors[1], percent(errors[1]))


def _variants(run: Results, name: str, title: str, key: Sequence[Any], part: Sequence[Member]) -> Table:
    """Every variant of one set, a column a defense: accuracy and gap; ImageNet-E's by attribute, with means."""
    groups = (
        _attributes(part[0]["variants"]) if part[0]["set"].startswith("imagenet_e") else {"": list(part[0]["variants"])}
    )
    rows = []
    for attribute, variants in groups.items():
        if attribute:
            means = [_mean_gap(m, variants) for m in part]
            rows.append((Entry(f"{attribute}: mean gap", attribute), *means))
        for variant in variants:
            rows.append(
                (Entry(plain(variant.replace("_", " ")), f"{attribute} {variant}"), *(_gap(m, variant) for m in part))
            )
    heads, said = across(run, [m["defense"] for m in part])
    caption = ", ".join(f"{n} {v}" for n, v in zip(WHERE, key[1:], strict=True))
    caption += f"; accuracy, and its gap to the clean pictures{said}"
    return Table(name, title, caption, ("variant", *heads), tuple(rows))


def _attributes(variants: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for variant in variants:
        kinds = [kind for kind, marks in ATTRIBUTES.items() if any(mark in variant.lower() for mark in marks)]
        found.setdefault(kinds[0] if kinds else "other", []).append(variant)
    return {kind: found[kind] for kind in (*ATTRIBUTES, "other") if kind in found}


def _mean_gap(member: Mapping[str, Any], variants: Sequence[str]) -> Entry:
    if member["control"] is None:
        return NOTHING
    clean = float(member["control"]["robust"].mean())
    mean = float(np.mean([member["variants"][v]["robust"].mean() - clean for v in variants if v in member["variants"]]))
    return counted(mean, points(mean))


def _gap(member: Mapping[str, Any], variant: str) -> Entry:
    examples = member["variants"].get(variant)
    if examples is None:
        return NOTHING
    value = float(examples["robust"].mean())
    change = "" if member["control"] is None else f" ({gap(value, member['control']).text})"
    struck = variant in member["failed"]
    return Entry(f"{percent(value)}{change}", value, _paired(examples) or f"n = {len(examples)}", struck=struck)


def _paired(examples: pd.DataFrame) -> str:
    """The exact paired test against the same pictures unshifted, in words; '' without pairing."""
    if "clean_ok" not in examples or examples["clean_ok"].isna().any():
        return ""
    test = stats.mcnemar_exact(examples["clean_ok"].to_numpy(bool), examples["robust"].to_numpy(bool))
    return f"paired with the same pictures unshifted: p {pvalue(test.pvalue)}, n = {len(examples)}"


def _watermark(name: str, title: str, key: Sequence[Any], part: Sequence[Member]) -> Table:
    """ImageNet-W's three: the gap, the gap on the watched class alone, the rise of its probability."""
    rows = []
    for m in part:
        shifted, clean = m["pooled"], m["control"]
        watched = _watched_class(shifted, clean)
        ours, before = (frame[frame["label"] == watched]["robust"] for frame in (shifted, clean))
        class_gap = float(ours.mean() - before.mean()) if len(ours) else float("nan")
        rise = float(shifted["watched"].mean() - clean["watched"].mean())
        whole = gap(float(shifted["robust"].mean()), clean)
        rows.append((words(m["defense"]), Entry(whole.text, whole.key, _paired(shifted), struck=m["struck"]),
                     counted(class_gap, points(class_gap)) if len(ours) else NOTHING,
                     counted(rise, points(rise)), counted(len(shifted), number(len(shifted)))))  # fmt: skip
    columns = ("defense", "gap", "gap on the marked class", "rise of its probability", "n")
    caption = ", ".join(f"{n} {v}" for n, v in zip(WHERE, key[1:], strict=True))
    caption += "; a class that gains where the others lose is a shortcut"
    return Table(name, f"{title} · watermark", caption, columns, tuple(rows))


def _watched_class(shifted: pd.DataFrame, clean: pd.DataFrame) -> int:
    """The class whose probability was kept: where it is the prediction, it is the confidence."""
    rows = pd.concat([shifted, clean], ignore_index=True)
    hits = rows[rows["confidence"] == rows["watched"]]["prediction"]
    return int(hits.mode().iloc[0]) if len(hits) else -1


def _effective(members: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Residuals from the line through the run's systems, one column a set."""
    sets = list(dict.fromkeys(m["shift"] for m in members))
    systems = list(dict.fromkeys((m["dataset"], m["model"], m["seed"], m["defense"]) for m in members))
    found: dict[str, dict[Any, float]] = {}
    for name in sets:
        of = [m for m in members if m["shift"] == name and m["control"] is not None and not m["struck"]]
        clean = [float(m["control"]["robust"].mean()) for m in of]
        values = residuals(
            clean, [float(m["pooled"]["robust"].mean()) for m in of], min([len(m["pooled"]) for m in of], default=1)
        )
        if values is not None:
            keys = [(m["dataset"], m["model"], m["seed"], m["defense"]) for m in of]
            found[name] = dict(zip(keys, values, strict=True))
    if not found:
        if members:
            why = "not given: a line needs three systems that passed every check, with different clean accuracies"
            alone = (counted(len(systems), number(len(systems))),)
            yield Table("effective", "Effective robustness", why, ("systems",), (alone,))
        return
    frame = pd.DataFrame(systems, columns=[*WHERE, "defense"])
    names, caption = split_constant(frame, WHERE)
    rows = []
    for system in systems:
        facts = dict(zip((*WHERE, "defense"), system, strict=True))
        places = [found[name].get(system) for name in found]
        shown = [NOTHING if v is None else counted(v, points(v)) for v in places]
        rows.append((*(words(facts[n]) for n in names), words(facts["defense"]), *shown))
    caption += "; accuracy above the line through these systems, logit scale; what failed a check is left out"
    yield Table("effective", "Effective robustness", caption, (*names, "defense", *found), tuple(rows))


def _by(members: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    found: dict[tuple[Any, ...], list[Any]] = {}
    for m in members:
        found.setdefault(tuple(m[name] for name in names), []).append(m)
    yield from found.items()
