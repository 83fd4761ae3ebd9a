"""Queries over successes, against numbers counted by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.sections.evasion.query_costs import cost_tables, query_costs

QUERIES = [1, 5, 5, 105, 205, 1000]


@pytest.fixture(scope="module")
def genetic(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Six images: one wrong from the start, two broken by the first population, two by search, one not at all."""
    folder: Path = tmp_path_factory.mktemp("genetic") / "run"
    store = Store(folder)
    rows = pd.DataFrame({
        "index": range(6), "label": 0, "clean_ok": [False, *5 * [True]], "robust": [*5 * [False], True],
        "queries": QUERIES,
    })  # fmt: skip
    extra = rows.assign(at_init=[False, True, True, False, False, False], iou=[np.nan, 0.5, 0.7, 0.9, 0.3, 0.0])
    store.add(extra, attack="quscore(surrogates=own)", n=6, backwards=0)
    store.add(rows, attack="square", n=6, backwards=0)
    store.add(rows, attack="pgd(steps=50)", n=6, backwards=300)
    return read([folder])


def test_successes_alone_are_averaged_and_those_at_the_start_told_apart(genetic: Results) -> None:
    rows = query_costs(genetic).set_index("attack")
    assert set(rows.index) == {"quscore", "square"}
    mga = rows.loc["quscore"]
    assert (mga["n"], mga["broken"], mga["at_init"]) == (5, 4, 2)
    assert (mga["mean"], mga["median"]) == (80, 55)
    assert (mga["searched_mean"], mga["searched_median"]) == (155, 155)
    assert mga["iou"] == pytest.approx(0.6)
    assert rows.loc["square", "mean"] == 80
    assert rows.loc["square", ["at_init", "searched_mean", "iou"]].isna().all()


def test_the_table_shows_a_dash_where_an_attack_has_no_such_number(genetic: Results) -> None:
    (table,) = cost_tables(genetic)
    rows = {row[table.columns.index("attack")].text: row for row in table.rows}
    start, iou = table.columns.index("broken at the start"), table.columns.index("map IoU")
    assert rows["quscore"][start].text.startswith("40.0 %")
    assert rows["quscore"][iou].text == "0.6"
    assert rows["square"][start].text == rows["square"][iou].text == "–"


def test_a_run_without_such_attacks_has_no_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": [0], "label": 0, "clean_ok": [True], "robust": [False], "queries": [7]})
    store.add(rows, attack="pgd(steps=50)", n=1, backwards=7)
    assert cost_tables(read([tmp_path / "run"])) == ()
