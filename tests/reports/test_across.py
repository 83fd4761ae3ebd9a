"""Radii joined into curves, models against attacks, attacks against one another: against numbers counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import Store
from scipy.stats import binomtest

from robustsuite.maths import stats
from robustsuite.reports import write_report
from robustsuite.reports.across.budgets import budgets_section
from robustsuite.reports.across.models import models_section
from robustsuite.reports.across.strength import strength_section
from robustsuite.reports.across.threats import over_threats, threats_section
from robustsuite.reports.measure.budgets import over_eps
from robustsuite.reports.measure.scores import scores
from robustsuite.reports.measure.strength import attack_pairs
from robustsuite.reports.read.runs import Results, read

FAILED = [{"name": "judge_disagrees", "detail": "by hand", "level": "fail"}]
LOW = [{"name": "by_hand", "detail": "a warning", "level": "warn"}]
RADII = {"near": "linf(eps=2/255)", "far": "linf(eps=8/255)"}


def attack(store: Store, standing: Any, n: int = 20, **facts: Any) -> None:
    """n images that are right; those of `standing` (a count: the first ones) stand."""
    rows = pd.DataFrame({"index": range(n), "label": 0, "clean_ok": True})
    rows["robust"] = rows["index"] < standing if isinstance(standing, int) else rows["index"].isin(list(standing))
    store.add(rows, n=n, **{"attack": "pgd", **facts})


@pytest.fixture(scope="module")
def radii(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two models under two radii, the larger one first; another threat that differs in its attacks too."""
    store = Store(tmp_path_factory.mktemp("radii") / "run")
    for model, far, near in (("cnn", 5, 15), ("vit", 10, 18)):
        attack(store, far, threat="far", budget=RADII["far"], model=model)
        attack(store, near, threat="near", budget=RADII["near"], model=model)
        attack(store, 1, threat="other", budget="linf(eps=4/255)", model=model, attack="fgsm")
    return store


def test_radii_are_joined_sorted_and_start_at_the_clean_accuracy(radii: Store) -> None:
    table = over_eps(read([radii.root]))
    assert table["eps"].tolist() == pytest.approx([0, 2 / 255, 8 / 255] * 2)
    assert table["robust_accuracy"].tolist() == [1, 0.75, 0.25, 1, 0.9, 0.5]
    assert set(table["threats"]) == {"near, far"}, "the third threat has other attacks"
    low, high = stats.clopper_pearson(15, 20)
    assert table.loc[1, ["lo", "hi"]].tolist() == pytest.approx([low, high])
    assert table["sd"].isna().all()


def test_the_table_has_radii_across_and_one_figure_stands_by_it(radii: Store) -> None:
    section = budgets_section(read([radii.root]))
    (table,), (figure,) = section.tables, section.figures
    assert table.columns == ("model", "defense", "no attack", "2/255", "8/255")
    assert [entry.text.split(" (")[0] for entry in table.rows[1]][2:] == ["100.0 %", "90.0 %", "50.0 %"]
    assert "exact 95 % interval" in figure.caption
    assert "linf radius, 1/255" in figure.svg
    assert ">vit<" in figure.svg


def test_a_radius_that_is_no_255th_keeps_its_own_unit(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for threat, eps in (("near", "0.1"), ("far", "0.30000001")):
        attack(store, 5, threat=threat, budget=f"linf(eps={eps})")
    (figure,) = budgets_section(read([store.root])).figures
    assert "1/255" not in figure.svg
    assert "linf radius<" in figure.svg


def test_a_curve_over_seeds_has_the_range_of_its_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for seed in (0, 1):
        for threat, standing in (("near", 10 + 2 * seed), ("far", 2)):
            attack(store, standing, threat=threat, budget=RADII[threat], seed=seed)
    attack(store, 20, threat="far", budget=RADII["far"], seed=2, flags=FAILED)
    attack(store, 14, threat="near", budget=RADII["near"], seed=2)
    table = over_eps(read([store.root])).set_index("eps")
    near, far = table.iloc[1], table.iloc[2]
    assert (near["lo"], near["hi"], near["seeds"]) == (0.5, 0.7, 3)
    assert (near["robust_accuracy"], near["sd"]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (far["robust_accuracy"], far["sd"], far["seeds"]) == (pytest.approx(0.1), 0, 2)


def test_one_radius_and_one_model_have_no_such_table(run: Results, written: Path) -> None:
    assert not len(over_eps(run))
    assert budgets_section(run).tables == budgets_section(run).figures == ()
    assert models_section(run, scores(run)).tables == ()
    assert not (written / "over_eps.csv").exists()


def test_models_stand_down_and_attacks_across_marked_as_elsewhere(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for model in ("cnn", "vit"):
        doubted = model == "vit"
        attack(store, range(10), model=model, flags=FAILED if doubted else [])
        attack(store, range(5, 15), model=model, attack="fgsm", flags=LOW if doubted else [])
    run = read([store.root])
    (table,) = models_section(run, scores(run)).tables
    assert table.columns == ("defense", "model", "fgsm", "pgd", "all at once")
    cnn, vit = table.rows
    assert [e.text.split(" (")[0] for e in cnn] == ["undefended", "cnn", "50.0 %", "50.0 %", "25.0 %"]
    assert vit[2].text.startswith("≤ 50.0 %")
    assert vit[3].struck


def test_models_over_seeds_say_how_many_seeds_are_in_a_mean(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for seed in (0, 1, 2):
        attack(store, 4 + 4 * seed, model="cnn", seed=seed)
        attack(store, 10, model="vit", seed=seed, flags=FAILED if seed == 1 else [])
    run = read([store.root])
    (table,) = models_section(run, scores(run)).tables
    assert [row[2].text for row in table.rows] == ["40.0 ± 20.0 %", "50.0 ± 0.0 % (2 of 3 seeds)"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """pgd leaves images 0 and 1; fgsm leaves what pgd breaks but for 2 and 3, and breaks 0; noise leaves everything."""
    store = Store(tmp_path_factory.mktemp("three") / "run")
    attack(store, {0, 1})
    attack(store, set(range(1, 20)) - {2, 3}, attack="fgsm")
    attack(store, 20, attack="noise")
    return read([store.root])


def test_pairs_count_what_one_attack_alone_broke_and_correct_over_all_pairs(three: Results) -> None:
    table = attack_pairs(three).set_index("attack")
    assert set(table["strongest"]) == {"pgd"}
    fgsm, noise = table.loc["fgsm"], table.loc["noise"]
    assert (fgsm["only_strongest"], fgsm["only_attack"], fgsm["n"]) == (16, 1, 20)
    assert (noise["only_strongest"], noise["only_attack"]) == (18, 0)
    raw = [binomtest(1, 17).pvalue, binomtest(0, 18).pvalue, binomtest(0, 3).pvalue]  # the last: fgsm against noise
    assert [fgsm["p"], noise["p"]] == pytest.approx(raw[:2])
    assert [fgsm["p_holm"], noise["p_holm"]] == pytest.approx([2 * raw[0], 3 * raw[1]])
    assert table["stronger"].all()


def test_the_table_of_pairs_reads_off_the_outcome(three: Results) -> None:
    (table,) = strength_section(three).tables
    assert [row[-1].text for row in table.rows] == ["stronger", "stronger"]
    assert table.columns[:3] == ("defense", "strongest", "other")


def test_an_attack_that_failed_a_check_is_in_no_pair_and_one_attack_has_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    attack(store, 2, flags=FAILED)
    attack(store, 5, attack="fgsm")
    attack(store, 3, attack="fgsm", threat="l2")
    run = read([store.root])
    assert not len(attack_pairs(run))
    assert strength_section(run).tables == ()


def test_of_very_many_pairs_the_table_has_the_first_seeds_and_the_csv_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run")
    for seed in (3, 4, 5):
        attack(store, 2, seed=seed)
        attack(store, 9, seed=seed, attack="fgsm")
    run = read([store.root])
    monkeypatch.setattr("robustsuite.reports.across.strength.MOST_ROWS", 2)
    (table,) = strength_section(run).tables
    assert len(table.rows) == 1
    assert table.caption.endswith("seed 3, the first of 3 seeds")
    assert len(attack_pairs(run)) == 3
    monkeypatch.setattr("robustsuite.reports.across.strength.MOST_ROWS", 0)
    assert strength_section(run).tables == ()


def test_pairs_are_of_the_images_that_every_attack_met(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    attack(store, 2)
    attack(store, 10, n=12, attack="fgsm")
    row = attack_pairs(read([store.root])).iloc[0]
    assert (row["n"], row["only_strongest"], row["only_attack"]) == (12, 8, 0)


def test_pvalues_of_many_pairs_are_those_of_each() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 50, 30)) < 0.5
    counts = (a & ~b).sum(axis=1), (~a & b).sum(axis=1)
    each = [stats.mcnemar_exact(*pair).pvalue for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(stats.mcnemar_pvalues(*counts), each, rtol=1e-12)
    assert stats.mcnemar_pvalues([0], [0]) == [1.0]


def test_files_have_them_and_say_the_same_twice(radii: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for out in (first, second):
        write_report([radii.root], out)
    assert (first / "over_eps.csv").read_bytes() == (second / "over_eps.csv").read_bytes()
    assert "Robust accuracy by radius" in (first / "report.md").read_text("utf-8")
    assert "model by attack" in (first / "report.tex").read_text("utf-8")


@pytest.fixture
def several(tmp_path: Path) -> Store:
    """Three threats on one model: images 0-11, 6-17 and (of ten) 0-7 stand; a second system met two of them."""
    store = Store(tmp_path / "run")
    attack(store, range(12), threat="turned", budget="spatial(eps=30)", attack="grid")
    attack(store, range(6, 18), threat="moved", budget="flow(eps=0.8)", attack="transform_pgd")
    attack(store, 8, n=10, threat="few", budget="linf(eps=2/255)")
    attack(store, range(12), threat="turned", budget="spatial(eps=30)", attack="grid", defense="crossmax")
    attack(store, range(10), threat="moved", budget="flow(eps=0.8)", attack="transform_pgd", defense="crossmax")
    return store


def test_every_threat_at_once_is_counted_on_the_images_that_all_met(several: Store) -> None:
    none, crossmax = over_threats(read([several.root])).to_dict("records")
    assert (none["k"], none["n"], none["of"]) == (2, 10, 20), "6 and 7 stand under all three, of the ten that all met"
    assert (none["lo"], none["hi"]) == pytest.approx(stats.clopper_pearson(2, 10))
    assert none["strongest"] == "moved"
    assert not none["bound"]
    assert (crossmax["k"], crossmax["n"], crossmax["missing"], crossmax["bound"]) == (10, 20, "few", True)


def test_the_table_says_what_each_adversary_does(several: Store) -> None:
    (table,) = threats_section(read([several.root])).tables
    assert table.columns == ("threat", "adversary", "undefended", "crossmax")
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    assert "by turning the picture by up to 30 degrees and shifting it by up to 10 %" in rows["turned"][0]
    assert rows["few"][2] == "–"
    assert rows["all at once"][1].startswith("20.0 %")
    assert rows["all at once"][2].startswith("≤ 50.0 %")


def test_one_threat_alone_is_no_union(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    attack(store, 5, threat="linf", budget="linf(eps=2/255)")
    run = read([store.root])
    assert not len(over_threats(run))
    assert threats_section(run).tables == ()
