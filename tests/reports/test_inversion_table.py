"""The table of gradient inversions: counted by hand on planted examples."""

import numpy as np
import pandas as pd
import pytest
from report_store import cell_of

from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.sections.reconstructions import _reconstructed


def examples() -> pd.DataFrame:
    """Four pictures, one of them failed; two labels right without order, one of them in its place."""
    return pd.DataFrame({
        "mse": [0.01, 0.1, 0.1, 0.01], "psnr": [20.0, 10.0, 10.0, 20.0], "ssim": [0.8, 0.1, 0.3, 0.4],
        "label_ok": [True, False, False, False], "label_found": [True, True, False, False],
        "failed": [False, True, False, False], "identified": [True, False, False, True],
        "control_psnr": [9.0, 9.0, np.nan, np.nan], "federated_accuracy": [0.4] * 4,
    })  # fmt: skip


def test_failed_pictures_count_and_the_control_stands_beside() -> None:
    row = _reconstructed(examples())
    assert (row["psnr"], row["median"], row["control"], row["learnt"]) == (15.0, 15.0, 9.0, 0.4)
    assert (row["n"], row["label_ok"], row["label_found"], row["identified"], row["failed"]) == (4, 1, 2, 2, 1)
    assert row["psnr_lo"] < row["psnr"] < row["psnr_hi"]
    assert row["ssim"] == pytest.approx(0.4)
    assert np.isnan(_reconstructed(examples().drop(columns="federated_accuracy"))["learnt"])


def test_scores_begin_with_psnr() -> None:
    found = {s.metric: s for s in cell_scores(cell_of("inversion", examples()), examples())}
    assert next(iter(found)) == "mean_psnr"
    assert (found["failed_rate"].k, found["failed_rate"].n) == (1, 4)
    assert found["mean_federated_accuracy"].value == pytest.approx(0.4)
