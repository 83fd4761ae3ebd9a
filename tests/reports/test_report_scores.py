"""Scores, worst cases and tables, recomputed here by hand from the rows the store wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import ATTACKS, CORRUPTIONS, DEFENSES, EPS, SEVERITIES, N, Store
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from robustsuite.errors import BadData
from robustsuite.reports.answers.opening import cautions
from robustsuite.reports.measure import tables
from robustsuite.reports.measure.kinds import radii
from robustsuite.reports.measure.scores import scores, to_csv
from robustsuite.reports.measure.worst import paired, worst_case
from robustsuite.reports.read.runs import Results, read


def _cells(store: Store, **want: object) -> list[dict]:
    return [c for c in store.cells.values() if all(c[k] == v for k, v in want.items())]


def test_every_readable_cell_is_there_and_the_broken_two_are_named(store: Store, run: Results) -> None:
    assert len(run.cells) == len(store.cells) - 1
    reasons = sorted(line.split(": ", 1)[1] for line in run.skipped)
    assert reasons == ["examples.parquet is cut short or no parquet", "run.json is cut short or no JSON"]
    assert list(dict.fromkeys(run.cells.loc[run.cells["threat"] == "linf", "attack"])) == ATTACKS
    assert list(dict.fromkeys(run.cells.loc[run.cells["threat"] == "linf", "defense"])) == DEFENSES


@pytest.mark.parametrize(
    ("scenario", "column", "metric"),
    [
        ("evasion", "robust", "robust_accuracy"),
        ("evasion", "clean_ok", "clean_accuracy"),
        ("shift", "robust", "accuracy"),
    ],
)
def test_rates_are_means_with_clopper_pearson(
    store: Store, run: Results, scenario: str, column: str, metric: str
) -> None:
    table = scores(run)
    table = table[(table["scenario"] == scenario) & (table["metric"] == metric) & (table["status"] == "done")]
    assert len(table) > 20
    for row in table.to_dict("records"):
        v = store.rows[row["run_id"]][column]
        assert (row["k"], row["n"]) == (v.sum(), len(v))
        assert row["value"] == pytest.approx(v.mean())
        lo, hi = proportion_confint(v.sum(), len(v), method="beta")
        assert (row["lo"], row["hi"]) == pytest.approx((np.nan_to_num(lo), hi))


def test_cells_without_a_measurement_have_a_row_a_reason_and_no_number(run: Results) -> None:
    table = scores(run)
    for status in ("refused", "unmeasured", "failed"):
        rows = table[table["status"] == status]
        assert len(rows)
        assert rows["value"].isna().all()
        assert rows["sentence"].str.len().min() > 5


def test_an_inert_cell_repeats_the_number_it_points_at(run: Results) -> None:
    table = scores(run)
    inert = table[table["status"] == "inert"]
    twin = table[table["run_id"] == inert["same_as"].iloc[0]]
    assert len(inert) == len(twin) == 2
    assert inert["value"].tolist() == twin["value"].tolist()


def test_certified_accuracy_counts_radii(store: Store, run: Results) -> None:
    table = scores(run).set_index(["run_id", "metric"])["value"]
    cell = _cells(store, scenario="certification", defense=DEFENSES[1])[0]["run_id"]
    rows = store.rows[cell]
    right = (rows["prediction"] == rows["label"]) & ~rows["abstained"]
    assert table[cell, "certified_accuracy@0"] == right.mean()
    assert table[cell, f"certified_accuracy@{EPS:.6g}"] == (rows["radius"] >= EPS).mean()
    assert table[cell, "mean_certified_radius"] == pytest.approx(rows["radius"].mean())


def test_a_radius_stored_in_float32_still_counts_at_its_own_budget() -> None:
    from robustsuite.reports.measure.scores import certified

    rows = pd.DataFrame(
        {"radius": np.full(3, np.float32(EPS)), "prediction": 1, "label": 1, "abstained": False}
    )
    assert certified(rows, EPS).all()
    assert not certified(rows, 1.01 * EPS).any()


def test_the_worst_case_is_an_and_over_examples(store: Store, run: Results) -> None:
    table = worst_case(run).set_index("defense")
    for defense in DEFENSES:
        verdict, alone = np.ones(N, bool), []
        for cell in _cells(store, threat="linf", defense=defense, status="done", seed=0):
            robust = store.rows[cell["run_id"]]["robust"].to_numpy()
            verdict &= robust
            alone.append(robust.sum())
        assert table.loc[defense, "k"] == verdict.sum()
        assert verdict.sum() < min(alone)
    assert table.loc["crossmax", "attacks"].count(";") == 3
    assert "unmeasured" in table.loc["crossmax", "missing"]


def test_a_defense_that_skipped_attacks_is_not_ranked_and_ties_share_a_range(run: Results) -> None:
    table = worst_case(run).set_index("defense")
    assert table.loc["crossmax", ["rank_first", "rank_last"]].tolist() == [0, 0]
    assert table.loc["crossmax", "unranked"] == "not ranked: unmeasured apgd, failed square"
    assert table.loc[DEFENSES[1], ["rank_first", "rank_last"]].tolist() == [1, 2]
    assert table.loc[DEFENSES[2], ["rank_first", "rank_last"]].tolist() == [1, 2]
    assert table.loc["none", ["rank_first", "rank_last"]].tolist() == [3, 3]


def test_paired_tests_agree_with_statsmodels(store: Store, run: Results) -> None:
    table = paired(run)
    verdicts = {}
    for defense in DEFENSES[:3]:
        cells = _cells(store, threat="linf", defense=defense, seed=0)
        verdicts[defense] = np.logical_and.reduce(
            [store.rows[c["run_id"]]["robust"].to_numpy() for c in cells]
        )
    expected = []
    for row in table.to_dict("records"):
        a, b = verdicts[row["a"]], verdicts[row["b"]]
        counts = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        expected.append(mcnemar(counts, exact=True).pvalue)
    assert len(expected) == 3
    assert table["p"].to_numpy() == pytest.approx(expected)
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(expected, method="holm")[1])


def test_a_struck_deciding_attack_is_not_ranked(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    strongest = _cells(store, threat="linf", defense=DEFENSES[1], attack="fmn")[0]["run_id"]
    file = copy / "cells" / strongest / "run.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"flags": [{"name": "over_budget", "detail": "x"}]})
    )
    table = worst_case(read([copy])).set_index("defense")
    assert bool(table.loc[DEFENSES[1], "struck"])
    assert table.loc[DEFENSES[1], "unranked"].startswith("not ranked: its deciding number")


def test_corruption_errors_are_means_over_severities(store: Store, run: Results) -> None:
    table = tables.corruption_errors(run).set_index(["defense", "corruption"])
    for defense in DEFENSES:
        means = []
        for corruption in CORRUPTIONS:
            cells = _cells(store, defense=defense, corruption=corruption)
            assert len(cells) == len(SEVERITIES)
            means.append(np.mean([1 - store.rows[c["run_id"]]["robust"].mean() for c in cells]))
            row = table.loc[(defense, corruption)]
            assert row["error"] == pytest.approx(means[-1])
            assert row["lo"] < row["error"] < row["hi"]
        assert table.loc[(defense, "mean"), "error"] == pytest.approx(np.mean(means))


def test_a_minimum_norm_attack_gives_the_curve_of_its_distances(store: Store, run: Results) -> None:
    table = tables.empirical_curves(run)
    curve = table[(table["kind"] == "curve") & (table["defense"] == DEFENSES[1])]
    rows = store.rows[_cells(store, threat="linf", defense=DEFENSES[1], attack="fmn")[0]["run_id"]]
    assert len(curve) > 10
    for point in curve.to_dict("records"):
        want = (rows["clean_ok"] & ~(rows["fooled"] & (rows["distance"] <= point["radius"]))).mean()
        assert point["value"] == pytest.approx(want)


def test_two_folders_with_the_same_cells_count_them_once(store: Store, run: Results, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    assert len(read([store.root, copy]).cells) == len(run.cells)


def test_the_plan_says_what_is_absent_and_what_belongs_to_another_sweep(
    store: Store, run: Results, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    kept = list(run.known)[3:]
    file = copy / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cells": [*kept, "not-run-1", "not-run-2"]}))
    again = read([copy])
    assert list(again.known) == kept
    assert (again.absent, again.foreign) == (2, 3)
    assert any(f"2 of {len(kept) + 2} planned cells are not there yet." in line
               for line in cautions(again, worst_case(again)))  # fmt: skip


@pytest.mark.parametrize(("missing", "said"), [
    (2, "not there yet: cell 0, cell 1."), (7, "not there yet: cell 0, cell 1, cell 2, cell 3, cell 4 and 2 more."),
])  # fmt: skip
def test_cells_that_are_not_there_are_named_a_few_of_them(
    store: Store, run: Results, tmp_path: Path, missing: int, said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    file, absent = copy / "sweep.json", [f"not-run-{i}" for i in range(missing)]
    named = {run_id: f"cell {i}" for i, run_id in enumerate(absent)}
    plan = {"cells": [*absent, *run.known], "planned": {**named, next(iter(run.known)): "a cell that is there"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | plan))
    again = read([copy])
    assert any(line.endswith(said) for line in cautions(again, worst_case(again)))


def test_nothing_to_read_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"sweep\.json"):
        read([tmp_path])
    (tmp_path / "sweep.json").write_text('{"name": "empty"}')
    with pytest.raises(BadData, match="run the sweep first"):
        read([tmp_path])


def test_radii_and_budgets() -> None:
    assert radii(1.0, 2.2) == [0, 0.5, 1, 1.5, 2]
    assert radii(None, 0.0) == [0.0]
    assert radii(None, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_csv_disarms_formulas_and_fixes_digits() -> None:
    frame = pd.DataFrame({"name": ["=cmd()", "ok"], "value": [1 / 3, float("nan")]})
    assert to_csv(frame) == "name,value\n'=cmd(),0.333333\nok,\n"


def test_no_two_columns_of_a_figure_read_alike() -> None:
    from functools import partial

    from report_store import cell_of

    from robustsuite.records.labels import labels
    from robustsuite.reports.render.draw import told_apart, wrap
    from robustsuite.reports.render.text import short

    rows = pd.DataFrame({"index": [0], "label": [0], "robust": [True], "clean_ok": [True]})
    stack = "gaussian_augmentation(epochs=3, sigma=0.1)"
    names = ["none", stack, f"{stack}+randomized_smoothing(alpha=0.05, n=32, sigma=0.1)",
             f"{stack}+randomized_smoothing(alpha=0.05, n=64, sigma=0.1)", "x" * 60, "x" * 61]  # fmt: skip
    cells = [cell_of("evasion", rows, run_id=f"{i}", defense=name, attack="pgd") for i, name in enumerate(names)]
    short_form = labels(cells, {})["defense"]
    assert short_form[stack] == "gaussian_augmentation"
    assert short_form[names[2]] == "gaussian_augmentation+randomized_smoothing(n=32)"
    for cut in (wrap, partial(short, width=34)):
        called = told_apart([short_form[name] for name in names], cut)
        assert len(set(called.values())) == len(names), called


def test_a_terminals_table_shows_the_one_system_that_was_measured(tmp_path: Path) -> None:
    """The first cell of a threat was refused and so declares no column; the measured one still has its number."""
    from report_store import Store

    from robustsuite.reports.publish.overview import overview

    store = Store(tmp_path / "run")
    proof = {"scenario": "certification", "threat": "votes", "attack": "smoothing"}
    store.add(None, **proof, status="refused", code="unsupported", sentence="draws no noise")
    n = 200
    rows = pd.DataFrame({"index": np.arange(n), "label": 0, "prediction": 0, "clean_ok": True, "abstained": False,
                         "radius": np.where(np.arange(n) < 50, 1.0, 0.0)})  # fmt: skip
    store.add(rows, **proof, defense="crossmax")
    grids, _ = overview([tmp_path / "run"])
    (grid,) = (g for g in grids if "votes" in g.title)
    assert [entry.text for entry in grid.rows[0][1:]] == ["refused", "25.0 (19–32)"]


def test_a_large_sweep_is_one_picture_of_colours(tmp_path: Path) -> None:
    """25 x 20 cells: no tile is drawn for itself, the table has the numbers, and a cell without one stays blank."""
    from report_store import Store

    from robustsuite.reports.sections.figures import heatmaps

    store = Store(tmp_path / "run")
    rows = pd.DataFrame({"index": range(4), "label": 0, "clean_ok": True, "robust": [True, False, True, True]})
    for d in range(25):
        for a in range(20):
            lost = d == a == 3
            facts = {"status": "failed", "sentence": "it raised"} if lost else {}
            store.add(None if lost else rows, defense=f"d{d}", attack=f"a{a}", n=4, **facts)
    run = read([tmp_path / "run"])
    (figure,) = heatmaps(run, scores(run))
    assert "the table has the numbers" in figure.caption
    assert figure.svg.count("<path") < 200
    assert len(figure.svg) < 100_000
