"""What explanations come to over several systems: counted by hand on planted rows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustsuite.records.schema import Column
from robustsuite.reports.sections.explained import explained, part, robustness, shape_bias, shape_tables

CELL = {"scenario": "explanation", "status": "done", "same_as": None, "threat": "maps", "dataset": "d", "model": "m",
        "seed": 0, "grade": "SOUND", "sentence": "", "flags": []}  # fmt: skip


def rows(clean: list[bool], **columns: list[float]) -> dict[str, Any]:
    """Examples 10, 11, ... of a cell, insertion and deletion with what they are of the whole."""
    return {"index": np.arange(10, 10 + len(clean)), "clean_ok": np.array(clean),
            **{name: np.array(values) for name, values in columns.items()}}  # fmt: skip


def run_of(*cells: tuple[dict[str, Any], dict[str, Any]], worst: list[dict[str, Any]] | None = None) -> Any:
    """A run that holds these cells, and what evasion comes to."""
    known = {f"run{i}": {**CELL, **cell, "run_id": f"run{i}"} for i, (cell, _) in enumerate(cells)}
    held = {f"run{i}": columns for i, (_, columns) in enumerate(cells)}
    return SimpleNamespace(
        known=known, columns=held.__getitem__, examples=lambda run_id: pd.DataFrame(held[run_id]), classes={},
        found={"worst_case": pd.DataFrame(worst or [])}, defended=True,
    )  # fmt: skip


def two_systems(**more: Any) -> Any:
    first = {"defense": "none", "attack": "gradient"}, rows([True, True, False], insertion=[0.2, 0.4, 0.9])
    second = {"defense": "better", "attack": "gradient"}, rows([False, True, True], insertion=[0.9, 0.6, 0.8])
    return run_of(first, second, **more)


def test_systems_are_compared_on_the_pictures_that_all_get_right() -> None:
    found = explained(two_systems())
    assert found["n"].tolist() == [2, 2]
    assert found["common"].tolist() == [1, 1]
    assert found["insertion"].tolist() == pytest.approx([0.3, 0.7])
    assert found["common_insertion"].tolist() == pytest.approx([0.4, 0.6])


def test_what_was_not_measured_is_no_number() -> None:
    run = two_systems()
    found = explained(run)
    assert found[["pointed", "on_object", "diffroar", "deletion"]].isna().all().all()
    tables = {table.name: table for table in part(run, pd.DataFrame()).sections[0].tables}
    entries = dict(zip(tables["explanation"].columns, tables["explanation"].rows[0], strict=True))
    assert {
        name: entries[name].text for name in ("deletion", "points at it", "on the object", "DiffROAR")
    } == dict.fromkeys(("deletion", "points at it", "on the object", "DiffROAR"), "–")
    assert entries["insertion"].text.startswith("0.300 (0.2")


def test_no_common_picture_or_a_missing_value_leaves_nothing_to_compare() -> None:
    apart = run_of(
        ({"defense": "none", "attack": "gradient"}, rows([True, False], insertion=[0.2, 0.4])),
        ({"defense": "better", "attack": "gradient"}, rows([False, True], insertion=[np.nan, np.nan])),
    )
    found = explained(apart)
    assert found["common_insertion"].isna().all()
    assert found["insertion"].isna().tolist() == [False, True]


def test_robust_accuracy_stands_beside_the_maps_of_the_same_system_alone() -> None:
    facts = {"threat": "linf", "budget": "eps", "dataset": "d", "model": "m", "seed": 0, "lo": 0.1, "hi": 0.3}
    worst = [{**facts, "defense": "none", "robust_accuracy": 0.2, "grade": "PROVISIONAL"}]
    run = two_systems(worst=worst)
    beside = robustness(run, explained(run))
    assert beside["defense"].tolist() == ["none"]
    (table, _) = part(run, pd.DataFrame()).sections[0].tables
    assert table.rows[0][1].text.startswith("≤ 20.0 %"), "a weak attack is no good news"
    assert not len(robustness(two_systems(), explained(two_systems())))
    assert [t.name for t in part(two_systems(), pd.DataFrame()).sections[0].tables] == ["explanation"]


def test_shape_bias_is_counted_over_the_pictures_that_go_by_either_cue() -> None:
    def cell(corruption: str) -> dict[str, Any]:
        names = ("robust", "by_shape", "by_texture", "by_either") if corruption == "cue_conflict" else ("robust",)
        record = SimpleNamespace(columns=[Column(name=name) for name in names])
        return {"scenario": "shift", "shift": "cue_conflict", "corruption": corruption, "record": record,
                "defense": "none"}  # fmt: skip

    cues = {"label": [0, 0, 1, 1], "by_shape": [True, False, False, False], "by_texture": [False, True, True, False]}
    run = run_of(
        (cell("cue_conflict"), {name: np.array(values) for name, values in cues.items()}),
        (cell("edges"), {"robust": np.array([True, False, False, False])}),
    )
    found = shape_bias(run)
    assert found[["class", "shape", "texture", "n"]].to_numpy().tolist() == [
        ["", 1, 2, 4], ["class 0", 1, 1, 2], ["class 1", 0, 1, 2]
    ]  # fmt: skip
    assert found["edges"].tolist() == [0.25] * 3
    assert found["silhouettes"].isna().all()
    whole, each = shape_tables(run)
    assert [entry.text for entry in whole.rows[0]][1:] == ["33.3 % (6.1–79.2)", "1", "2", "1", "4", "25.0 %", "–"]
    assert len(each.rows) == 2
    assert not whole.rows[0][1].struck
    failed = run_of(({**cell("cue_conflict"), "grade": "INVALID"}, {k: np.array(v) for k, v in cues.items()}))
    assert [[row[i].struck for row in table.rows] for i, table in enumerate(shape_tables(failed), 1)] == [
        [True], [True, True]]  # fmt: skip
    assert not list(shape_tables(run_of()))
