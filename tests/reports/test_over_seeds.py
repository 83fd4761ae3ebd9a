"""Means over seeds against numbers worked out by hand; one seed changes nothing and has no deviation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports import write_report
from robustsuite.reports.across.seeds import seeds_section
from robustsuite.reports.measure.scores import scores
from robustsuite.reports.measure.seeds import TOGETHER, over_seeds
from robustsuite.reports.publish.overview import overview
from robustsuite.reports.publish.write import build
from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.render.text import deviated

FAILED = [{"name": "judge_disagrees", "detail": "by hand", "level": "fail"}]
LOW = [{"name": "by_hand", "detail": "a warning", "level": "warn"}]


def attack(store: Store, standing: int, clean: int = 10, **facts: Any) -> None:
    """Ten images of which the first ones stand."""
    rows = pd.DataFrame({"index": range(10), "label": 0})
    rows["clean_ok"], rows["robust"] = rows["index"] < clean, rows["index"] < standing
    store.add(rows, n=10, **{"attack": "pgd", **facts})


def of(run: Results, metric: str = "robust_accuracy", name: str = TOGETHER, **facts: Any) -> Any:
    """The one row of a metric."""
    table = over_seeds(run)
    for column, value in {"metric": metric, "attack": name, "defense": "none", **facts}.items():
        table = table[table[column] == value]
    (row,) = table.to_dict("records")
    return row


def made(folder: Path, seeds: Sequence[int], **facts: Any) -> Store:
    """A run of one attack that leaves `seeds[i]` of ten images standing under seed i."""
    store = Store(folder)
    for seed, standing in enumerate(seeds):
        attack(store, standing, clean=9 - seed % 2, seed=seed, **facts)
    return store


def test_the_mean_and_the_sample_deviation(tmp_path: Path) -> None:
    made(tmp_path / "run", [2, 4, 6])
    run = read([tmp_path / "run"])
    row = of(run)
    assert row["mean"] == pytest.approx(0.4)
    assert row["sd"] == pytest.approx(0.2), "sqrt(((0.2)^2 + 0 + (0.2)^2) / 2), not / 3"
    assert (row["smallest"], row["largest"]) == (0.2, 0.6)
    assert (row["sound"], row["seeds"], row["n"], row["left_out"]) == (3, 3, 10, "")
    clean = of(run, "clean_accuracy")
    assert clean["mean"] == pytest.approx((0.9 + 0.8 + 0.9) / 3)
    assert clean["sd"] == pytest.approx((0.01 / 3) ** 0.5)
    assert of(run, name="pgd")["sd"] == pytest.approx(0.2)


def test_the_worst_case_of_each_seed_is_averaged_not_the_worst_attack(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [4, 4])
    rows = pd.DataFrame({"index": range(10), "label": 0})
    for seed in (0, 1):
        right = rows["index"] < 9 - seed
        store.add(rows.assign(clean_ok=right, robust=right & (rows["index"] >= 2 + seed)), attack="fgsm", n=10,
                  seed=seed)  # fmt: skip
    assert of(read([store.root]))["mean"] == pytest.approx((2 + 1) / 20), "images 2, 3 and image 3 stand under both"


def test_a_seed_that_failed_a_check_is_counted_and_left_out(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2, 4])
    attack(store, 10, seed=2, flags=FAILED)
    row = of(read([store.root]))
    assert (row["sound"], row["seeds"], row["invalid"], row["left_out"]) == (2, 3, 1, "seed 2 INVALID")
    assert row["mean"] == pytest.approx(0.3)
    assert row["largest"] == 0.4
    assert of(read([store.root]), "clean_accuracy")["sound"] == 2


def test_one_sound_seed_has_no_deviation_and_none_no_mean(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2])
    attack(store, 10, seed=1, flags=FAILED)
    attack(store, 10, seed=0, flags=FAILED, defense="crossmax")
    attack(store, 10, seed=1, flags=FAILED, defense="crossmax")
    run = read([store.root])
    one, none = of(run), of(run, defense="crossmax")
    assert (one["mean"], one["sound"]) == (0.2, 1)
    assert pd.isna(one["sd"])
    assert none["sound"] == 0
    assert pd.isna(none["mean"])
    (table,) = seeds_section(run).tables
    assert [(row[1].text, row[-3].text) for row in table.rows] == [("20.0 %", "1 of 2"), ("–", "0 of 2")]


def test_a_seed_without_an_attack_that_another_has_is_no_reading_of_the_same(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2, 4, 6])
    for seed in (0, 1):
        attack(store, 1, clean=9 - seed, seed=seed, attack="fgsm")
    store.add(None, attack="fgsm", n=10, seed=2, status="failed", sentence="it raised")
    row = of(read([store.root]))
    assert (row["mean"], row["sound"], row["unmeasured"]) == (0.1, 2, 1)
    assert row["left_out"] == "seed 2 unmeasured"


def test_an_upper_bound_makes_the_mean_one(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2, 4])
    attack(store, 6, seed=2, flags=LOW)
    row = of(read([store.root]))
    assert (row["bound"], row["sound"]) == (True, 3)
    (table,) = seeds_section(read([store.root])).tables
    assert table.rows[0][1].text == "≤ 40.0 ± 20.0 %"


def test_one_seed_changes_nothing(run: Results, written: Path) -> None:
    assert not len(over_seeds(run))
    assert seeds_section(run).tables == ()
    assert not (written / "over_seeds.csv").exists()
    assert "±" not in (written / "report.html").read_text("utf-8")


def test_proofs_and_corruptions_over_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for seed, proven in enumerate([3, 5]):
        rows = pd.DataFrame({"index": range(10), "label": 0, "prediction": 0, "clean_ok": True, "abstained": False})
        rows["radius"] = [0.1] * proven + [0.0] * (10 - proven)
        store.add(rows, threat="proof", scenario="certification", attack="lirpa", n=10, seed=seed)
        shift: dict[str, Any] = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None}
        for corruption, wrong in (("fog", 2 + seed), ("snow", 4 + seed)):
            rows = pd.DataFrame({"index": range(10), "label": 0, "clean_ok": True})
            rows["robust"] = rows["index"] >= wrong
            store.add(rows, **shift, n=10, seed=seed, shift="scenes_c", corruption=corruption, severity=1)
    run = read([store.root])
    proof = of(run, "certified_accuracy@0.0313725", "lirpa")
    assert (proof["mean"], proof["smallest"], proof["largest"]) == (pytest.approx(0.4), 0.3, 0.5)
    assert proof["sd"] == pytest.approx(0.02**0.5)
    errors = of(run, "mean_error", "")
    assert errors["mean"] == pytest.approx((0.3 + 0.4) / 2)
    assert errors["sd"] == pytest.approx(0.005**0.5)
    said = build(run, scores(run))
    assert [answer.numbers[0][1] for answer in said.answers] == ["40.0 ± 14.1 %", "35.0 ± 7.1 %"]


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of sixteen seeds, two defenses, two models and two threats."""
    store = Store(tmp_path_factory.mktemp("sixteen") / "run")
    for seed in range(16):
        for model in ("cnn", "vit"):
            for defense in ("none", "crossmax"):
                for threat, eps in (("near", 2), ("far", 8)):
                    budget = f"linf(eps={eps}/255)"
                    attack(store, 5 + seed % 3 - eps // 8, 9, seed=seed, model=model, defense=defense, threat=threat,
                           budget=budget)  # fmt: skip
    out = store.root / "report"
    write_report([store.root], out)
    return out


def test_one_card_a_threat_and_model_and_no_two_headings_read_alike(sixteen: Path) -> None:
    page = (sixteen / "report.html").read_text("utf-8")
    cards = page[page.index('class="answers"') : page.index('<section id="')]
    assert cards.count("<article>") == 4
    assert "16 seeds" in cards
    for tag in ("h2", "h3", "figcaption", "caption"):
        said = [re.sub("<[^>]*>", "", text) for text in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, flags=re.S)]
        assert len(said) == len(set(said)), [text for text in said if said.count(text) > 1]
    for table in re.findall(r"<tbody>(.*?)</tbody>", page, flags=re.S):
        rows = [re.sub("<[^>]*>", " ", row) for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)]
        assert len(rows) == len(set(rows)), [row for row in rows if rows.count(row) > 1]


def test_every_format_has_the_means(sixteen: Path) -> None:
    table = pd.read_csv(sixteen / "over_seeds.csv")
    assert set(table["seeds"]) == {16}
    assert "±" in (sixteen / "report.md").read_text("utf-8")
    assert r"$\pm$" in (sixteen / "report.tex").read_text("utf-8")


def test_a_deviation_in_words() -> None:
    assert deviated(41.04, 1.26, "{:.1f}".format) == "41.0 ± 1.3"
    assert deviated(41.04, float("nan"), "{:.1f}".format) == "41.0"


def test_a_terminal_shows_the_means_and_how_many_seeds_are_in_them(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2, 4, 6])
    attack(store, 5, seed=3, flags=FAILED)
    grids, _ = overview([tmp_path / "run"])
    (grid,) = [grid for grid in grids if "mean ± sd over 4 seeds" in grid.title]
    assert [[entry.text for entry in row] for row in grid.rows] == [
        ["pgd", "40.0 ± 20.0 (3 of 4)"], ["all at once", "40.0 ± 20.0 (3 of 4)"]
    ]  # fmt: skip


def test_a_system_without_a_sound_seed_has_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for seed in range(2):
        attack(store, 5, seed=seed, flags=FAILED)
    page = (write_report([tmp_path / "run"], tmp_path / "out")[0].parent / "report.html").read_text(encoding="utf-8")
    assert "Over seeds" in page


def test_means_are_said_as_means_and_a_doubted_one_is_no_verdict(tmp_path: Path) -> None:
    store = made(tmp_path / "run", [2, 4, 6])
    run = read([store.root])
    said = build(run, scores(run)).said[0]
    assert "makes it wrong on 60 % of 10 images (mean of 3 seeds)" in said[0]
    for seed in range(2):
        attack(store, 9, seed=seed, flags=LOW, model="vit")
    run = read([store.root])
    (vit,) = [said[0] for said in build(run, scores(run)).said if "vit" in said[0]]
    assert vit.startswith("No verdict yet")


@pytest.mark.parametrize(("defended", "words"), [
    ([7, 8, 9], "brings that down to 20 %"),
    ([5, 6, 7], "is wrong on 40 % (0 % without an attack): its seeds and those"),
])  # fmt: skip
def test_a_defense_brings_a_mean_down_where_no_seeds_overlap(tmp_path: Path, defended: list[int], words: str) -> None:
    store = made(tmp_path / "run", [2, 4, 6])
    for seed, standing in enumerate(defended):
        attack(store, standing, seed=seed, defense="rift")
    run = read([store.root])
    assert words in " ".join(build(run, scores(run)).said[0])
