"""Risk against coverage by hand, and who gets a curve or a point."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_store import answered
from report_store import Store

from robustsuite.reports.examples.selective import selective_section
from robustsuite.reports.measure.selective import risks, selective
from robustsuite.reports.read.runs import read

SHIFT = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None, "shift": "clean"}


def test_the_curve_by_hand() -> None:
    sure, right = [0.6, 0.9, 0.7, 0.8], [False, True, True, False]
    assert risks(sure, right) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert risks(right, right) == pytest.approx([0, 0, 1 / 3, 2 / 4]), "the optimal order"


def test_equal_confidence_is_a_random_order() -> None:
    assert risks([0.5] * 5, [True, False, True, True, False]) == pytest.approx([0.4] * 5)
    assert risks([0.9, 0.5, 0.5], [True, True, False]) == pytest.approx([0, 0.25, 1 / 3])


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_no_order_beats_the_optimal_one_and_rows_have_no_order(rows: list[tuple[float, bool]], random: object) -> None:
    sure, right = zip(*rows, strict=True)
    assert (risks(right, right) <= risks(sure, right) + 1e-12).all()
    assert risks(sure, right)[-1] == pytest.approx(1 - np.mean(right))
    mixed = list(rows)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert risks(*zip(*mixed, strict=True)) == pytest.approx(risks(sure, right))


def shifted(confidence: list[float], right: list[bool], rejected: list[bool] | None = None) -> pd.DataFrame:
    n = len(right)
    return pd.DataFrame({
        "index": np.arange(n), "label": 0, "robust": right, "rejected": rejected or [False] * n,
        "confidence": confidence,
    })  # fmt: skip


def test_a_rejected_picture_is_not_answered(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    store.add(shifted([0.9, 0.8, 0.7, 0.99], [True, False, True, False], [False] * 3 + [True]), **SHIFT, n=4)
    row = selective(read([store.root])).iloc[0]
    assert (row["n"], row["answered"], row["coverage"], row["wrong"]) == (4, 3, 0.75, 1)
    assert row["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert row["aurc_optimal"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert row["aurc_random"] == row["risk"] == pytest.approx(1 / 3)
    assert np.isnan(row["risk_surest"]), "80 % are not answered"


def test_variants_of_a_set_are_one_curve_and_a_missing_one_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "c")
    set_ = SHIFT | {"shift": "scenes_c", "corruption": "fog"}
    store.add(shifted([0.9, 0.8], [True, True]), **set_, severity=1, n=2)
    store.add(shifted([0.7, 0.6], [False, True]), **set_, severity=5, n=2)
    store.add(shifted([0.9, 0.8], [True, True]), **set_, severity=1, n=2, defense="crossmax")
    store.add(None, **set_, severity=5, n=2, defense="crossmax", status="failed", sentence="stopped")
    frame = selective(read([store.root]))
    assert list(frame["defense"]) == ["none"], "the hard half of the set is missing"
    assert frame["aurc"][0] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert frame["risk_surest"][0] == pytest.approx(1 / 4)


def test_who_rejects_under_attack_is_a_point_by_its_worst_attack(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    weak = answered()
    weak["robust"] = weak["clean_ok"] & ~weak["rejected"]
    store.add(weak, attack="fgsm", n=10)
    store.add(answered(), attack="pgd", n=10)
    proof = pd.DataFrame({"index": range(4), "label": 0, "clean_ok": [True, False, False, True], "radius": 0.0,
                          "abstained": [False, False, True, False], "prediction": [0, 1, -1, 0]})  # fmt: skip
    store.add(proof, threat="proof", scenario="certification", attack="smoothing", n=4)
    section = selective_section(read([store.root]))
    frame = selective(read([store.root])).set_index("attack")
    assert set(frame.index) == {"pgd", "smoothing"}
    assert (frame.loc["pgd", "answered"], frame.loc["pgd", "wrong"]) == (9, 6)
    assert (frame.loc["smoothing", "coverage"], frame.loc["smoothing", "risk"]) == (0.75, pytest.approx(1 / 3))
    assert frame["aurc"].isna().all()
    assert section.figures == ()


def test_what_came_back_from_outside_the_budget_stands(tmp_path: Path) -> None:
    """A minimum-norm attack that is rejected beyond the budget leaves the picture right: 5 right, 2 gone, 3 wrong."""
    rows = answered()
    far, gone = rows["index"].isin([6, 8]), rows["index"] < 2
    rows = rows.assign(in_budget=~far, robust=rows["robust"] | far, rejected=rows["rejected"] | far | gone,
                       fooled=rows["fooled"] & ~gone)  # fmt: skip
    store = Store(tmp_path / "o")
    store.add(rows, attack="fmn", n=10)
    point = selective(read([store.root])).iloc[0]
    assert (point["answered"], point["wrong"]) == (8, 3)
    assert point["answered"] - point["wrong"] == rows["robust"].sum(), "as many are right as every other table says"


def test_a_picture_that_is_rejected_before_any_attack_is_not_answered(tmp_path: Path) -> None:
    store = Store(tmp_path / "u")
    rows = answered()
    store.add(rows.assign(rejected=rows["rejected"] | (rows["index"] == 9)), attack="pgd", n=10)
    assert list(selective(read([store.root]))[["answered", "wrong"]].iloc[0]) == [8, 5]


def test_rows_without_confidence_have_no_section(tmp_path: Path) -> None:
    store = Store(tmp_path / "n")
    store.add(shifted([0.9], [True]).drop(columns="confidence"), **SHIFT, n=1)
    section = selective_section(read([store.root]))
    assert (section.tables, section.figures) == ((), ())
