"""Robust accuracy against queries, against numbers counted by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.measure.scores import scores
from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.sections.evasion.attacked import part
from robustsuite.reports.sections.evasion.query_curves import figures, query_curve_section, query_curves

CLEAN = [False, True, True, True, True]
ROBUST = [False, False, False, False, True]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Five images: one wrong when clean, three that break and one that stands; by scores, by labels, by gradients."""
    store = Store(tmp_path_factory.mktemp("curves") / "run")
    rows = pd.DataFrame({"index": range(5), "label": 0, "clean_ok": CLEAN, "robust": ROBUST})
    questions = rows.assign(queries=[0, 2, 100, 700, 1001])
    store.add(questions, attack="square(steps=1000)", n=5, backwards=0, budget="linf(eps=8/255)")
    labels = rows.assign(queries=[0, 1000, 1000, 1000, 1000], linf=0.1)
    labels["linf_at_250"] = np.float32([np.nan, 0.02, 0.05, 0.06, np.nan])
    labels["linf_at_500"] = np.float32([np.nan, 0.02, 0.03, 0.05, 0.04])
    labels["linf_at_1000"] = np.float32([np.nan, 0.01, 0.02, 0.0315, 0.03])  # the judge takes the last one back
    labels["linf_at_2500"] = np.float32(np.nan)
    store.add(labels, attack="rays", n=5, backwards=0, budget="linf(eps=8/255)")
    store.add(questions, attack="pgd(steps=50)", n=5, backwards=9, budget="linf(eps=8/255)")
    store.add(labels, attack="rays", n=5, backwards=0, budget="linf(eps=inf)", threat="nearest")
    return read([store.root])


def left(run: Results, attack: str) -> dict[int, int]:
    table = query_curves(run)
    return table[table["attack"] == attack].set_index("queries")["k"].to_dict()


def test_what_stops_at_success_is_told_to_the_query(asked: Results) -> None:
    found = left(asked, "square")
    assert found[0] == 4
    assert [k for q, k in found.items() if 0 < q < 100] == [3], "a level curve needs no points"
    assert (found[100], found[250], found[500], found[1001]) == (2, 2, 2, 1)
    assert 1000 in found
    assert 2500 not in found
    row = query_curves(asked).query("attack == 'square'").iloc[0]
    assert (row["mean"], row["median"]) == (pytest.approx((2 + 100 + 700) / 3), 100)


def test_what_seeks_the_nearest_breaks_an_image_once_it_is_in_reach(asked: Results) -> None:
    assert left(asked, "rays") == {0: 4, 250: 3, 500: 2, 1000: 1}
    assert query_curves(asked).query("attack == 'rays'")["mean"].isna().all()


def test_no_curve_ends_below_the_judge_s_number_and_none_is_made_up(asked: Results) -> None:
    table = query_curves(asked)
    assert set(table["attack"]) == {"square", "rays"}  # gradients are no questions
    assert set(table["threat"]) == {"linf"}  # without a radius nothing is within it
    last = table.groupby("run_id")["k"].min()
    assert set(last) == {1}
    assert table.groupby("run_id")["k"].apply(lambda k: (k.diff().dropna() <= 0).all()).all()


def test_the_section_has_a_table_at_equal_queries_and_a_curve_drawn_the_same_twice(asked: Results) -> None:
    section = query_curve_section(asked)
    (table,) = section.tables
    attack, at = table.columns.index("attack"), table.columns.index("250 queries")
    rows = {row[attack].text: row for row in table.rows}
    assert rows["square"][at].text.startswith("40.0 %")
    assert rows["rays"][at].text.startswith("60.0 %")
    assert rows["rays"][table.columns.index("100 queries")].text == "–"
    assert rows["rays"][table.columns.index("median queries")].text == "–"
    (figure,) = section.figures
    assert figure.png == figures(query_curves(asked))[0].png


def test_its_csv_is_among_a_run_s(asked: Results) -> None:
    assert len(part(asked, scores(asked)).frames["query_curves"])


def test_a_run_without_such_attacks_has_no_such_section(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": [0], "label": 0, "clean_ok": [True], "robust": [False], "queries": [7]})
    store.add(rows, attack="pgd(steps=50)", n=1, backwards=7)
    section = query_curve_section(read([tmp_path / "run"]))
    assert not section.tables
    assert not section.figures
