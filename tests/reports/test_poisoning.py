"""The table of backdoors: counted by hand on planted examples."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from report_store import cell_of
from sklearn.metrics import roc_auc_score

from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.sections.poisoning import _backdoor_tables, detected, victim
from robustsuite.reports.sections.repairs import figures, ranked, rated, tables


def examples() -> pd.DataFrame:
    """Ten pictures, two of the target class; of eight triggered five hit, two are rejected."""
    return pd.DataFrame({
        "clean_ok": [True] * 8 + [False, False],
        "flagged_clean": [False] * 9 + [True],
        "eligible": [False, False] + [True] * 8,
        "triggered_as_target": [False, False] + [True] * 5 + [False] * 3,
        "flagged": [True, False] + [False] * 5 + [True, True, False],
        "recovered": [False] * 9 + [True],
        "psnr": np.arange(10.0),
        "score_clean": np.linspace(0, 1, 10),
        "score_triggered": np.linspace(0.5, 2, 10),
    })  # fmt: skip


def test_success_is_over_the_eligible_and_rejections_are_none() -> None:
    row = victim(examples())
    assert (row["n"], row["eligible"], row["hits"], row["flagged"], row["recovered"]) == (10, 8, 5, 2, 1)
    assert row["psnr"] == np.arange(2.0, 10.0).mean()
    found = {s.metric: s for s in cell_scores(cell_of("poisoning", examples()), examples())}
    assert (found["attack_success_rate"].k, found["attack_success_rate"].n) == (5, 8)
    assert (found["clean_accuracy"].k, found["clean_accuracy"].n) == (8, 10)
    assert next(iter(found)) == "attack_success_rate"


def test_auroc_compares_right_clean_with_working_triggers() -> None:
    table = examples()
    clean = table["score_clean"][[0, 1, 2, 3, 4, 5, 6, 7, 9]]
    triggered = table["score_triggered"][2:9]
    truth = [0] * len(clean) + [1] * len(triggered)
    found = detected(table)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, [*clean, *triggered]))
    assert found["tpr_1"] == found["tpr_5"] == (triggered > clean.max()).mean(), "of nine clean ones none may pass"
    assert np.isnan(list(detected(table.drop(columns=["score_clean", "score_triggered"])).values())).all()
    assert np.isnan(list(detected(table.assign(eligible=False)).values())).all()


def victims(**rates: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """One row a defense and attack of 100 pictures, all eligible: (C-Acc, ASR); what is left recovers."""
    where = {"threat": "bd", "budget": "b", "goal": "g", "dataset": "d", "model": "m", "seed": 0}
    return pd.DataFrame([
        {**where, "attack": attack, "defense": defense, "grade": "SOUND", "n": 100, "clean_ok": round(100 * ca),
         "eligible": 100, "hits": round(100 * asr), "recovered": round(100 * (1 - asr))}
        for defense, found in rates.items() for attack, (ca, asr) in found.items()
    ])  # fmt: skip


def test_der_weighs_what_falls_and_half_is_no_change() -> None:
    one = {"none": (0.9, 1.0), "same": (0.9, 1.0), "cure": (0.8, 0.0), "harm": (0.1, 1.0)}
    rows = rated(victims(**{name: {"a": rates} for name, rates in one.items()}))
    found = dict(zip(rows["defense"], rows["der"], strict=True))
    assert found == pytest.approx({"none": 0.5, "same": 0.5, "cure": 0.95, "harm": 0.1})
    lone = rated(victims(cure={"a": (0.8, 0.0)}))
    assert lone["der"].isna().all(), "without the undefended victim there is nothing to compare with"
    assert not lone["worked"].any()
    doubted = victims(none={"a": (0.1, 1.0)}, cure={"a": (0.1, 0.0)}).assign(grade=["INVALID", "SOUND"])
    assert not rated(doubted)["worked"].any(), "nor where that one cannot be believed"


def test_ranks_share_ties_leave_weak_attacks_out_and_never_count_what_was_not_measured() -> None:
    rows = rated(victims(
        none={"a": (0.9, 1.0), "b": (0.9, 0.8), "weak": (0.9, 0.1)},
        x={"a": (0.9, 0.0), "b": (0.9, 0.4), "weak": (0.9, 0.0)}, y={"a": (0.9, 0.0), "b": (0.9, 0.0)},
        half={"a": (0.9, 0.5)}, odd={"a": (0.9, 0.0), "b": (0.9, 0.0)},
    ))  # fmt: skip
    rows.loc[rows["defense"] == "odd", "grade"] = "INVALID"
    found = ranked(rows).set_index("defense")
    assert dict(found["rank"].dropna()) == {"y": 1.25, "x": 1.75}, "a shared first of 1.5 and a first, or a second"
    assert found.loc["half", "lacking"] == "b"
    assert found.loc["odd", "attacks"] == 0
    assert np.isnan(found.loc["odd", "der"])
    assert set(found["of"]) == {2}
    assert found.loc["half", "der"] == pytest.approx(0.75), "a mean of what was measured alone"


def test_the_matrix_says_what_was_measured_and_names_the_status_of_what_was_not() -> None:
    found = victims(none={"a": (0.9, 1.0), "<b>": (0.8, 0.6)}, x={"a": (0.85, 0.05)})
    asked = [*found.to_dict("records"), {**found.iloc[1], "defense": "x", "status": "refused"}]
    known = {str(i): {"scenario": "poisoning", "status": "done", **row} for i, row in enumerate(asked)}
    run = SimpleNamespace(known=known, defended=True)
    matrix, ranks = tables(run, found)  # type: ignore[arg-type]
    assert matrix.columns == ("attack", "undefended", "x")
    assert [[entry.text for entry in row] for row in matrix.rows] == [
        ["a", "90.0 / 100.0 / 0.0", "85.0 / 5.0 / 95.0"], ["<b>", "80.0 / 60.0 / 40.0", "refused"],
    ]  # fmt: skip
    assert "2 attacks" in ranks.caption
    assert [entry.text for entry in ranks.rows[0]][1:3] == ["–", "95.0 %"]
    assert ranks.rows[0][-1].text == "not ranked: without <b>"
    (figure,) = figures(run, found)  # type: ignore[arg-type]
    assert "refused" in figure.svg
    assert "85 · 95" in figure.svg
    assert "<b>" not in figure.svg
    assert figures(SimpleNamespace(known=known, defended=False), found) == ()  # type: ignore[arg-type]
    alone = victims(none={"a": (0.9, 1.0)})
    assert tables(run, alone) == (), "without a defense there is nothing to compare"  # type: ignore[arg-type]


def test_an_attack_whose_undefended_victim_failed_a_check_is_not_called_weak_and_its_numbers_are_struck() -> None:
    found = victims(none={"a": (0.9, 1.0), "weak": (0.9, 0.2), "odd": (0.1, 1.0)}, x={"a": (0.9, 0.1)})
    found.loc[found["attack"] == "odd", "grade"] = "INVALID"
    found = found.assign(flagged_clean=0, flagged=0, psnr=20.0, auroc=np.nan, sentence="")
    run = SimpleNamespace(known={}, defended=True)
    _, ranks = tables(run, found)  # type: ignore[arg-type]
    assert "at least 50 %; left out: weak; left out, as no number of the undefended victim can" in ranks.caption
    assert "relied on: odd; equal" in ranks.caption
    (table,) = _backdoor_tables(found)
    rates = {row[0].text: [entry.struck for entry in row[2:5]] for row in table.rows if row[1].text == "undefended"}
    assert rates == {"a": [False] * 3, "weak": [False] * 3, "odd": [True] * 3}
