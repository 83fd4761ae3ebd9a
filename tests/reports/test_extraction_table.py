"""What is stolen, counted by hand on planted answers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.records.schema import Budget
from robustsuite.reports.measure.scores import cell_scores, scores
from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.render.adversary import who
from robustsuite.reports.sections.extracted import curves, part, thefts
from robustsuite.scenarios.extraction.played import scenario

N = 8


def examples(agree: int, **more: object) -> pd.DataFrame:
    """N pictures: `agree` agree, half are right, two of the four that both get right go over, one of a stranger's."""
    first = lambda k: np.arange(N) < k  # noqa: E731
    rows = {
        "index": range(N), "label": 0, "agree": first(agree), "clone_ok": first(4), "clean_ok": first(6),
        "answered": True, "both_ok": first(4), "transferred": first(2), "stranger_agree": first(3),
        "stranger_ok": first(5), "stranger_both_ok": first(5), "stranger_transferred": first(1), "prediction": 0,
        "clone": 0, "asked": 40, "prada_after": np.nan, "prada_w": 0.95, "benign_after": np.nan, "benign_w": 0.97,
        "agree_at_10": first(2), "agree_at_40": first(agree), "clone_ok_at_10": first(1), "clone_ok_at_40": first(4),
    }  # fmt: skip
    return pd.DataFrame({**rows, **more})


@pytest.fixture(scope="module")
def stolen(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two thieves of an undefended system and one of a defended, whose queries were found out."""
    store = Store(tmp_path_factory.mktemp("stolen") / "run")
    facts = {"n": N, "scenario": "extraction", "threat": "thief", "budget": "linf(eps=8/255)"}
    store.add(examples(6), attack="knockoff", defense="none", **facts)
    store.add(examples(5), attack="jbda", defense="none", **facts)
    store.add(examples(4, prada_after=20.0, prada_w=0.8), attack="knockoff", defense="rounding", **facts)
    return read([store.root])


def test_counts_are_those_of_the_rows(stolen: Results) -> None:
    found = thefts(stolen).set_index(["attack", "defense"])
    row = found.loc["knockoff", "none"]
    assert (row["k_agree"], row["n_agree"], row["k_clone_ok"], row["k_clean_ok"]) == (6, 8, 4, 6)
    assert (row["k_transferred"], row["n_transferred"]) == (2, 4)
    assert (row["k_stranger_transferred"], row["n_stranger_transferred"]) == (1, 5)
    at = curves(stolen)
    line = at[(at["attack"] == "jbda") & (at["measure"] == "agreement")]
    assert line[["queries", "k", "n"]].to_numpy().tolist() == [[10, 2, 8], [40, 5, 8]]


def test_a_table_row_says_what_is_stolen_beside_a_stranger_and_who_noticed(stolen: Results) -> None:
    (section,) = part(stolen, scores(stolen)).sections
    table, detector = section.tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    one = next(row for row in rows if row["attack"].text == "knockoff" and row["defense"].text == "undefended")
    assert one["agreement"].text.startswith("75.0 %")
    assert one["of the system's"].text == "66.7 %"
    assert one["transfer beyond it"].text == "+30.0 points"
    told = [dict(zip(detector.columns, row, strict=True)) for row in detector.rows]
    assert sorted(row["alarm after"].text for row in told) == ["20 queries", "none", "none"]
    assert len(section.figures) == 2, "something is defended: a drawing an attack"
    assert all("eps" not in figure.caption for figure in section.figures)


def test_what_could_not_be_measured_is_no_zero(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    silent = examples(0, answered=False, both_ok=False, stranger_both_ok=False, prada_w=np.nan, agree_at_40=False)
    store.add(silent, attack="knockoff", n=N, scenario="extraction", threat="thief", budget="linf(eps=8/255)")
    run = read([store.root])
    (section,) = part(run, scores(run)).sections
    row = dict(zip(section.tables[0].columns, section.tables[0].rows[0], strict=True))
    assert [row[name].text for name in ("agreement", "transfer", "stranger agrees", "transfer beyond it")] == ["–"] * 4
    detector = dict(zip(section.tables[1].columns, section.tables[1].rows[0], strict=True))
    assert (detector["alarm after"].text, detector["least W"].text) == ("too few queries", "–")
    assert set(curves(run)["measure"]) == {"clone accuracy"}


def test_scores_are_of_pictures_that_count() -> None:
    cell = {"record": SimpleNamespace(columns=scenario.columns)}
    found = {score.metric: score for score in cell_scores(cell, examples(6))}
    assert next(iter(found)) == "agreement"
    assert (found["agreement"].k, found["agreement"].n) == (6, 8)
    assert (found["transfer_rate"].k, found["transfer_rate"].n) == (2, 4)
    assert "transfer_rate" not in {s.metric for s in cell_scores(cell, examples(6, both_ok=False))}


def test_a_thief_is_told_by_what_it_asks() -> None:
    def told(*access: str) -> str:
        threat = SimpleNamespace(budget=Budget(queries_total=4000), access=access)
        return who(SimpleNamespace(scenario=SimpleNamespace(name="extraction"), threat=threat))  # type: ignore[arg-type]

    own = "whoever asks for 4\N{NARROW NO-BREAK SPACE}000 scores about pictures of their own and trains a clone on them"
    assert told("labels", "scores", "aux_data") == own
    assert told("labels").endswith("answers and trains a clone on them")
