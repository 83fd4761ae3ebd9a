"""Unions and denominators: what is missing, refused or measured on fewer images makes nobody look better.

Every number here is worked out by hand beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.errors import BadValue
from robustsuite.maths import stats
from robustsuite.reports import write_report
from robustsuite.reports.boards.board_files import write_leaderboard
from robustsuite.reports.boards.leaderboard import boards
from robustsuite.reports.measure.kinds import auc
from robustsuite.reports.measure.mce import ALEXNET, mce
from robustsuite.reports.measure.scores import scores
from robustsuite.reports.measure.seeds import TOGETHER, over_seeds
from robustsuite.reports.measure.tables import corruption_errors
from robustsuite.reports.measure.worst import worst_case
from robustsuite.reports.publish.overview import overview
from robustsuite.reports.read.runs import read
from robustsuite.reports.sections.evasion.attacked import worst_section

WHITE = "labels, scores, gradients, weights"
FAMILY = {"noise": ("noise",), "square": ("score",), "fmn": ("minimum norm",)}


def attack(store: Store, name: str, stands: Any, n: int = 20, first: int = 0, **facts: Any) -> str:
    """Images `first` to first + n, all right; those of `stands` stand."""
    rows = pd.DataFrame({"index": range(first, first + n), "label": 0, "clean_ok": True})
    rows["robust"] = rows["index"].isin(list(stands))
    about = {"access": WHITE, "family": FAMILY.get(name, ("gradient",)), "data_sha256": f"{first}-{n}"}
    return store.add(rows, n=n, attack=name, **{**about, **facts})


def missing(store: Store, name: str, status: str, **facts: Any) -> None:
    store.add(None, n=20, attack=name, status=status, sentence="by hand", **{"access": WHITE, **facts})


def worst(store: Store) -> dict[str, dict[str, Any]]:
    return {row["defense"]: row for row in worst_case(read([store.root])).to_dict("records")}


def test_noise_alone_ranks_nobody_where_gradients_failed_or_were_refused(tmp_path: Path) -> None:
    """16 of 20 stand under noise: 80 %, which used to be SOUND and rank 1."""
    store = Store(tmp_path / "run")
    for defense in ("none", "crossmax"):
        attack(store, "noise", range(16), defense=defense)
        missing(store, "fgsm", "failed", defense=defense)
        missing(store, "pgd", "refused", defense=defense)
    for row in worst(store).values():
        assert (row["robust_accuracy"], row["grade"]) == (0.8, "PROVISIONAL")
        assert (row["rank_first"], row["flags"]) == (0, "noise: weak_alone")
    (board,) = (b for b in boards(read([store.root])) if b.threat == "linf")
    assert [s.ranks for s in board.standings] == [(0, 0), (0, 0)]


def test_a_strong_union_of_two_families_is_ranked(tmp_path: Path) -> None:
    """Under PGD stand 0 to 9, under Square 0 to 7 and 18, 19: together 8 of 20."""
    store = Store(tmp_path / "run")
    attack(store, "pgd", range(10))
    attack(store, "square", [*range(8)])
    row = worst(store)["none"]
    assert (row["robust_accuracy"], row["k"], row["n"], row["rank_first"]) == (0.4, 8, 20, 1)


def test_a_union_over_different_images_is_over_the_shared_ones_and_says_so(tmp_path: Path) -> None:
    """PGD met 0 to 9 and leaves 5 of them, Square met 0 to 19 and leaves 0 to 5: on the shared ten, 5 under both.

    By its own images Square leaves 6 of 20, fewer than PGD's half; on the shared ones 6 of 10, and PGD decides.
    """
    store = Store(tmp_path / "run")
    attack(store, "pgd", range(5), n=10)
    attack(store, "square", range(6), n=20)
    row = worst(store)["none"]
    assert (row["robust_accuracy"], row["n"], row["of"]) == (0.5, 10, 20)
    assert row["strongest"] == "pgd"
    run = read([store.root])
    section = worst_section(run, worst_case(run))
    assert "on the 10 of 20 images that every attack met" in section.tables[0].rows[0][-1].text
    write_leaderboard([store.root], tmp_path / "site")
    assert "on the 10 of 20 images that every attack met" in (tmp_path / "site" / "linf.html").read_text("utf-8")


def test_attacks_without_a_common_image_have_no_union(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    attack(store, "pgd", range(10), n=10)
    attack(store, "square", range(10, 20), n=10, first=10)
    attack(store, "pgd", range(3), defense="crossmax")
    found = worst(store)
    assert set(found) == {"crossmax"}, "no number, rather than one over nothing"
    write_report([store.root], tmp_path / "report")
    write_leaderboard([store.root], tmp_path / "site")


def test_a_system_whose_attack_failed_is_not_ranked_beside_one_that_met_it(tmp_path: Path) -> None:
    """crossmax keeps 18 of 20 under what it met; PGD, which broke all but 4 of its rival, failed on it."""
    store = Store(tmp_path / "run")
    attack(store, "fmn", range(12))
    attack(store, "pgd", range(4))
    attack(store, "square", range(15))
    attack(store, "fmn", range(18), defense="crossmax")
    attack(store, "square", range(18), defense="crossmax")
    missing(store, "pgd", "failed", defense="crossmax")
    found = worst(store)
    assert (found["none"]["robust_accuracy"], found["none"]["rank_first"], found["none"]["rank_last"]) == (0.2, 1, 1)
    assert (found["crossmax"]["robust_accuracy"], found["crossmax"]["rank_first"]) == (0.9, 0)
    assert found["crossmax"]["unranked"] == "not ranked: failed pgd"


def test_a_rival_on_fewer_images_ties_by_the_shared_ones(tmp_path: Path) -> None:
    """none: 9 of 20, all among the first ten. crossmax met these ten alone and leaves the same 9: 90 %, a tie."""
    store = Store(tmp_path / "run")
    for name in ("pgd", "square"):
        attack(store, name, range(9))
        attack(store, name, range(9), n=10, defense="crossmax")
    found = worst(store)
    assert [found[d]["robust_accuracy"] for d in ("none", "crossmax")] == [0.45, 0.9]
    assert {(row["rank_first"], row["rank_last"]) for row in found.values()} == {(1, 2)}
    assert (found["crossmax"]["n"], found["crossmax"]["of"]) == (10, 20)


def test_seeds_repeat_the_same_images(tmp_path: Path) -> None:
    """Three seeds of 10 images with 2, 4 and 6 standing: intervals of 10 images each, a deviation of 0.2 over seeds."""
    store = Store(tmp_path / "run")
    for seed, standing in enumerate((2, 4, 6)):
        for name in ("pgd", "square"):
            attack(store, name, range(standing), n=10, seed=seed)
    run = read([store.root])
    for row, standing in zip(worst_case(run).to_dict("records"), (2, 4, 6), strict=True):
        assert (row["n"], row["lo"], row["hi"]) == (10, *stats.clopper_pearson(standing, 10))
    mean = over_seeds(run)
    (row,) = mean[(mean["attack"] == TOGETHER) & (mean["metric"] == "robust_accuracy")].to_dict("records")
    assert (row["n"], row["sound"]) == (10, 3), "10 images three times, not 30"
    assert (row["mean"], row["sd"]) == (pytest.approx(0.4), pytest.approx(0.2))


def test_auroc_counts_ties_half() -> None:
    """Positives 3, 2, 1 against negatives 2, 1, 0: of 9 pairs 3 beats 3, 2 beats 2 and ties 1, 1 beats 1 and ties 1.

    (3 + 2.5 + 1.5) / 9.
    """
    score, positive = np.array([3, 2, 1, 2, 1, 0.0]), np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    assert auc(score, positive) == pytest.approx(7 / 9)
    assert auc(np.zeros(6), positive) == 0.5, "one score for all tells nothing"


def test_ranks_where_ties_are_not_transitive() -> None:
    """a is better than c; b is tied with both: a is 1st or 2nd, b anything, c 2nd or 3rd."""
    better = [[False, False, True], [False, False, False], [False, False, False]]
    assert stats.rank_ranges(better) == [(1, 2), (1, 3), (2, 3)]


def corrupted(store: Store, corruption: str, wrong: int, **facts: Any) -> None:
    """10 images, of which the first `wrong` are wrong; None as status for those that failed."""
    rows = pd.DataFrame({"index": range(10), "label": 0, "clean_ok": True})
    shift = {"threat": "shift", "scenario": "shift", "access": "none", "budget": None, "goal": None, "severity": 1}
    about = {**shift, "shift": "scenes_c", "corruption": corruption, "n": 10, **facts}
    done = facts.get("status", "done") == "done"
    store.add(rows.assign(robust=rows["index"] >= wrong) if done else None, **about)


def test_a_mean_over_corruptions_is_over_all_that_were_asked_for(tmp_path: Path) -> None:
    """none: (1 + 8) / 20 = 0.45. crossmax's fog failed: 0.1 over the other alone would look best of all."""
    store = Store(tmp_path / "run")
    corrupted(store, "contrast", 1)
    corrupted(store, "fog", 8)
    corrupted(store, "contrast", 1, defense="crossmax")
    corrupted(store, "fog", 0, defense="crossmax", status="failed", sentence="by hand")
    table = corruption_errors(read([store.root])).set_index(["defense", "corruption"])["error"]
    assert table["none", "mean"] == pytest.approx(0.45)
    assert ("crossmax", "mean") not in table.index
    assert table["crossmax", "contrast"] == pytest.approx(0.1)
    write_report([store.root], tmp_path / "report")
    overview([store.root])


def test_a_part_of_the_fifteen_has_no_mce() -> None:
    """AlexNet's own errors are 100 %; fourteen of them are refused."""
    errors = {name: [mean] * 5 for name, mean in ALEXNET.items()}
    assert mce(errors) == pytest.approx(100)
    del errors["fog"]
    with pytest.raises(BadValue, match="got no fog; a part has no mCE"):
        mce(errors)


def test_a_mean_is_over_the_corruptions_and_severities_of_its_rivals(tmp_path: Path) -> None:
    """Two sweeps in one report: what was only asked about the mild severity has no mean beside one of both."""
    store = Store(tmp_path / "run")
    for severity, wrong in ((1, 2), (5, 6)):
        corrupted(store, "fog", wrong, severity=severity)
    corrupted(store, "fog", 2, defense="crossmax")
    table = corruption_errors(read([store.root])).set_index(["defense", "corruption"])["error"]
    assert table["none", "mean"] == pytest.approx(0.4)
    assert ("crossmax", "mean") not in table.index


def test_a_screening_stands_beside_every_grade(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    attack(store, "pgd", range(10), least={"steps": 100})
    attack(store, "square", range(12))
    attack(store, "apgd", range(11))
    run = read([store.root])
    rows = scores(run)
    found = rows[rows["metric"] == "robust_accuracy"].set_index("attack")["screening"].to_dict()
    assert found == {"pgd": "20 images; steps 50 of 100", "square": "20 images", "apgd": "20 images"}
    assert worst_case(run)["screening"].tolist() == ["20 images"]
    write_report([store.root], tmp_path / "report")
    for name in ("report.html", "report.md"):
        assert "SOUND, screening: 20 images" in (tmp_path / "report" / name).read_text("utf-8"), name
    write_leaderboard([store.root], tmp_path / "site")
    assert "SOUND, screening: 20 images" in (tmp_path / "site" / "linf.html").read_text("utf-8")
    grids, _ = overview([store.root])
    assert any("screening: 20 images" in grid.title for grid in grids)
