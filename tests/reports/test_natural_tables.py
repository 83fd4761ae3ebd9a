"""Natural shift sets in the report: pooled accuracy, gap to the matching clean pictures, calibration, residuals."""

import numpy as np
import pandas as pd
import pytest
from report_store import cell_of

from robustsuite.reports.measure.calibration import expected_calibration_error, rms_calibration_error
from robustsuite.reports.measure.effective import residuals
from robustsuite.reports.read.runs import Results
from robustsuite.reports.sections.natural import natural_tables


def test_calibration_of_known_bins():
    confidence = np.repeat([0.2, 0.9], 1000)
    right = np.concatenate([np.arange(1000) % 10 < 3, np.arange(1000) % 10 < 6])
    assert expected_calibration_error(confidence, right) == pytest.approx((0.1 + 0.3) / 2)
    assert rms_calibration_error(confidence, right) == pytest.approx(np.sqrt((0.1**2 + 0.3**2) / 2))
    assert expected_calibration_error(confidence[::-1], right[::-1]) == pytest.approx(0.2)


def test_the_last_examples_count_in_the_rms_error():
    confidence = np.concatenate([np.full(1400, 0.5), np.full(100, 1.0)])
    right = np.concatenate([np.arange(1400) % 2 == 0, np.zeros(100, bool)])
    assert rms_calibration_error(confidence, right) == pytest.approx(np.sqrt(100 / 1500))


def test_few_examples_have_bins_of_ten_at_least():
    right = np.arange(40) % 2 == 0
    assert rms_calibration_error(np.linspace(0.4, 0.6, 40), right) == pytest.approx(0.058, abs=0.01)
    assert rms_calibration_error([0.7], [True]) == pytest.approx(0.3)


def test_residuals_are_off_the_line_on_the_logit_scale():
    clean = np.array([0.6, 0.7, 0.8, 0.9])
    logit = np.log(clean / (1 - clean))
    on = 1 / (1 + np.exp(-(0.7 * logit - 1)))
    np.testing.assert_allclose(residuals(clean, on, 10**6), 0, atol=1e-9)
    off = residuals(clean, on + np.array([0, 0.1, 0, 0]), 10**6)
    assert off[1] > 0.03
    assert residuals(clean[:2], on[:2], 100) is None
    assert residuals([0.5] * 4, on, 100) is None


def _run(cells: list[tuple[dict[str, object], pd.DataFrame]]) -> Results:
    base = {"dataset": "d", "model": "m", "seed": 0, "head": "all 4 classes"}
    rows = [cell_of("shift", rows, **{**base, "run_id": str(i), **cell}) for i, (cell, rows) in enumerate(cells)]
    frame = pd.DataFrame(rows).assign(severity=float("nan"), grade="SOUND").fillna({"corruption": ""})
    return Results("t", "", frame, load=lambda run_id: cells[int(run_id)][1])


def _examples(right: list[int], **more: object) -> pd.DataFrame:
    n = len(right)
    return pd.DataFrame({"index": range(n), "label": [1, 2] * (n // 2), "robust": np.array(right, bool), **more})


def _texts(table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


def test_the_gap_is_to_the_sets_own_clean_pictures():
    part = {"shift": "r", "defense": "none", "head": "2 of 4 classes"}
    cells = [
        ({"shift": "clean", "defense": "none"}, _examples([1, 1, 1, 1])),
        (
            {**part, "corruption": "unshifted"},
            _examples([1, 1, 1, 0]),
        ),
        ({**part, "corruption": "art"}, _examples([1, 0, 0, 0])),
        ({**part, "corruption": "toy"}, _examples([1, 0])),
    ]
    overview, variants, effective = natural_tables(_run(cells))
    clean, shifted = _texts(overview)
    assert clean[0] == "clean"
    assert shifted[:2] == ["r", "undefended"]
    assert shifted[2].startswith("33.3 %")
    assert shifted[3:5] == ["75.0 %", "−41.7 points"]
    assert shifted[-2:] == ["6", "2 of 4 classes"]
    assert [row[0] for row in _texts(variants)] == ["art", "toy"]
    assert "−50.0 points" in _texts(variants)[0][1]
    assert "three systems" in effective.caption


def test_the_edits_are_grouped_by_attribute():
    names = ["full", "inver", "rd", "rp", "0.05"]
    cells = [({"shift": "clean", "defense": "none"}, _examples([1, 1, 1, 1]))]
    cells += [({"shift": "imagenet_e", "defense": "none", "corruption": n}, _examples([1, 0, 0, 0])) for n in names]
    _, variants, _ = natural_tables(_run(cells))
    assert [row[0] for row in _texts(variants)] == [
        "background: mean gap", "inver", "size: mean gap", "full", "0.05", "position: mean gap", "rp",
        "direction: mean gap", "rd",
    ]  # fmt: skip


def test_a_watermark_that_helps_its_class_shows():
    before = _examples(
        [1, 0, 1, 1], watched=[0.1, 0.2, 0.1, 0.2], confidence=[0.1, 0.9, 0.9, 0.9], prediction=[2, 1, 1, 1]
    )
    after = _examples(
        [0, 1, 1, 1], watched=[0.6, 0.7, 0.6, 0.7], confidence=[0.6, 0.7, 0.6, 0.9], prediction=[2, 2, 2, 1]
    )
    cells = [
        ({"shift": "w", "defense": "none", "corruption": "unshifted"}, before),
        ({"shift": "w", "defense": "none", "corruption": "watermark"}, after),
    ]
    _, watermark, _ = natural_tables(_run(cells))
    row = _texts(watermark)[0]
    assert row[1:4] == ["+0.0 points", "+50.0 points", "+50.0 points"]


def test_alexnets_own_errors_give_a_hundred():
    from robustsuite.reports.measure.mce import ALEXNET, mce

    assert mce({name: [value] * 5 for name, value in ALEXNET.items()}) == pytest.approx(100, abs=1e-9)


def test_what_failed_a_check_is_struck_by_variant_and_left_out_of_the_line():
    run = _run([
        ({"shift": "clean"}, _examples([1] * 8)),
        ({"shift": "shortcuts", "corruption": "watermark"}, _examples([1, 0] * 4)),
        ({"shift": "shortcuts", "corruption": "texture"}, _examples([1, 1] * 4)),
    ])  # fmt: skip
    run.cells.loc[1, "grade"] = "INVALID"
    overview, variants, effective = natural_tables(run)
    struck = {row[0].text: row[1].struck for row in variants.rows}
    assert struck == {"watermark": True, "texture": False}
    assert [entry.struck for entry in overview.rows[1][2:5]] == [True, False, True]
    assert "passed every check" in effective.caption
