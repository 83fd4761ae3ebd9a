"""The table of backdoors: counted by hand on planted examples."""

import numpy as np
import pandas as pd
import pytest
from report_store import cell_of
from sklearn.metrics import roc_auc_score

from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.sections.poisoning import _victim, auroc


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
    row = _victim(examples())
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
    assert auroc(table) == pytest.approx(roc_auc_score(truth, [*clean, *triggered]))
    assert np.isnan(auroc(table.drop(columns=["score_clean", "score_triggered"])))
    assert np.isnan(auroc(table.assign(eligible=False)))
