"""How near attacks come, against areas counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports import write_report
from robustsuite.reports.across.nearest import nearness, nearness_section, optimality
from robustsuite.reports.read.runs import read

NEVER = np.inf
FAILED = [{"name": "judge_disagrees", "detail": "by hand", "level": "fail"}]


def add(store: Store, lost: list[float], attack: str, *, eps: float = 0.5, seeks: bool = True, **facts: Any) -> None:
    """An l2 attack that took the right answers at these distances: 0 wrong already, infinite never."""
    far = np.array(lost)
    found, clean = np.isfinite(far) & (far > 0), far > 0
    rows = pd.DataFrame({"index": range(len(far)), "label": 0, "clean_ok": clean, "fooled": found,
                         "distance": np.where(np.isfinite(far), far, 0.1)})  # fmt: skip
    rows["in_budget"] = rows["distance"] <= eps
    rows["robust"] = clean & ~(found & rows["in_budget"])
    if seeks:
        rows = rows.assign(l1=3 * rows["distance"], l2=rows["distance"], linf=rows["distance"] / 2)
    store.add(rows, attack=attack, n=len(far), **{"threat": "near", "budget": f"l2(eps={eps})", **facts})


def table_of(store: Store) -> pd.DataFrame:
    return nearness(read([store.root])).set_index("attack")


def test_the_best_has_1_and_what_finds_nothing_0() -> None:
    least = np.array([0, 0.1, 0.4, 1.0, NEVER])
    nothing = np.where(least > 0, NEVER, 0.0)
    beyond = np.array([0, 1.5, 1.0, 7.0, NEVER])
    for found, expected in ((least, 1.0), (nothing, 0.0), (beyond, 0.0)):
        ((value, lo, hi),) = optimality(found[None], least)
        assert (value, lo, hi) == pytest.approx((expected,) * 3)


def test_the_area_is_counted_by_hand() -> None:
    least, mine = np.array([0, 0.2, 0.5, 1.0]), np.array([0, 0.4, 0.5, NEVER])
    # up to D = 1: least 1.7 of 3, mine 1.9
    ((value, lo, hi),) = optimality(mine[None], least)
    assert value == pytest.approx(1 - 0.2 / 1.3)
    assert 0 <= lo <= value <= hi <= 1


def test_nothing_broken_or_every_break_as_far_has_no_optimality() -> None:
    for least in ([0, NEVER, NEVER], [0, 0.3, 0.3], [0.0]):
        found = np.array(least)
        assert np.isnan(optimality(found[None], found)).all()


def test_attacks_are_told_against_the_least_of_all_whoever_found_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    add(store, [0, 0.2, 0.6, 1.0, NEVER], "fmn")
    add(store, [0, 0.4, 0.5, NEVER, NEVER], "ddn")
    add(store, [0, 0.1, NEVER, NEVER, NEVER], "pgd", seeks=False)
    add(store, [0, NEVER, NEVER, NEVER, 0.8], "square", seeks=False, eps=0.9, threat="far")
    table = table_of(store)
    assert list(table.index) == ["fmn", "ddn", "all at once"]
    assert set(table["of"]) == {"square; pgd; fmn; ddn"}
    least, whole = 0.1 + 0.5 + 1.0 + 0.8, 4 * 1.0
    expected = [1 - (sum(found) - least) / (whole - least) for found in ([0.2, 0.6, 1, 1], [0.4, 0.5, 1, 1])]
    assert table["optimality"].tolist() == pytest.approx([*expected, 1])
    assert table["broken"].tolist() == [3, 2, 4]
    assert table["nearest"].tolist() == [1, 1, 4]
    assert table["median"].tolist() == pytest.approx([0.8, NEVER, 0.65])
    assert set(table["right"]) == {4}
    assert set(table["n"]) == {5}


def test_an_attack_in_another_norm_counts_by_its_distance_in_this_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    add(store, [1.0, 1.0, 2.0], "fmn")
    add(store, [1.0, 1.5, 2.0], "ddn")
    add(store, [1.0, 1.0, 0.3], "alma", threat="other", budget="l1(eps=9)")  # 0.3 in l2, which its rows hold
    table = table_of(store)
    assert set(table["norm"]) == {"l2"}
    assert table.loc["all at once", "median"] == 1.0
    assert table["nearest"].tolist() == [2, 1, 3]


def test_what_failed_a_check_has_a_target_or_stands_alone_is_no_measure(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    add(store, [0.1, 0.2, 0.3], "fmn")
    add(store, [0.3, 0.3, 0.4], "ddn", flags=FAILED)
    add(store, [0.3, 0.3, 0.4], "alma", threat="aimed", goal="targeted")
    add(store, [0.3, 0.3, 0.4], "pdpgd", defense="crossmax")
    assert not len(table_of(store))
    assert nearness_section(read([store.root])).tables == ()


def test_attacks_are_compared_on_the_images_that_all_of_them_met(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    add(store, [0.2, 0.4, 0.6, 0.01], "fmn")
    add(store, [0.3, 0.4, 0.5], "ddn")
    table = table_of(store)
    assert set(table["n"]) == {3}
    assert table.loc["all at once", "median"] == pytest.approx(0.4)


def test_a_report_has_the_table_and_the_csv(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    add(store, [0, 0.2, 0.6, 1.0], "fmn")
    add(store, [0, 0.4, NEVER, NEVER], "ddn")
    (table,) = nearness_section(read([store.root])).tables
    assert table.columns == ("attack", "broken", "median distance", "local optimality", "as near as any")
    assert [row[0].text for row in table.rows] == ["fmn", "ddn", "all at once"]
    assert [row[2].text for row in table.rows] == ["0.6", "fewer than half broke", "0.6"]
    assert table.rows[0][3].text == "1.000 (1.000–1.000)"
    assert table.rows[2][1].text.startswith("100.0 %")
    files = {file.name for file in write_report([store.root], tmp_path / "out", ("csv", "md"))}
    assert "nearness.csv" in files
    assert "How near attacks come" in (tmp_path / "out" / "report.md").read_text("utf-8")
