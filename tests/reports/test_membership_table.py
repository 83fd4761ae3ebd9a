"""What is told of members: thresholds by hand, intervals that know their n, and what cannot be measured."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from robustsuite.maths import stats
from robustsuite.maths.privacy import one_run
from robustsuite.records.schema import Budget
from robustsuite.reports.measure.kinds import best_threshold, operating_point, tpr_at
from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.render.adversary import who
from robustsuite.reports.render.draw import draw
from robustsuite.reports.sections.membership import _at, _counted, _roc, curve, unlike
from robustsuite.scenarios.membership.played import scenario


def rows(score: np.ndarray, member: np.ndarray) -> pd.DataFrame:
    """A cell's examples."""
    return pd.DataFrame({"score": score, "member": member, "other": ~member, "clean_ok": member})


def scored(score: np.ndarray, member: np.ndarray) -> dict[str, object]:
    """Its scores by name."""
    cell = {"record": SimpleNamespace(columns=scenario.columns)}
    return {found.metric: found for found in cell_scores(cell, rows(score, member))}


def test_equal_scores_stay_together_at_a_rate() -> None:
    score = np.array([9, 8, 8, 7, 5, 5, 5, 4, 3, 2, 1, 0.0])
    member = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0], bool)
    assert operating_point(score, member, 0.25) == 5, "two of eight may be let through; two at 5 would be three"
    assert tpr_at(score, member, 0.25) == 3 / 4
    assert tpr_at(score, member, 0.125) == 3 / 4
    assert tpr_at(score, member, 0.0) == 1 / 4


def test_a_rate_that_so_few_others_cannot_show_is_no_number() -> None:
    generator = np.random.default_rng(0)
    member = np.arange(800) % 2 == 0
    found = scored(generator.normal(size=800) + member, member)
    assert 0 < found["tpr_at_fpr_1_percent"].value < 1  # type: ignore[attr-defined]
    assert np.isnan(found["tpr_at_fpr_0.1_percent"].value)  # type: ignore[attr-defined]
    few = scored(generator.normal(size=400) + member[:400], member[:400])
    assert np.isnan(few["tpr_at_fpr_1_percent"].value)  # type: ignore[attr-defined]
    many = scored(np.arange(8000.0), np.arange(8000) >= 4000)
    assert many["tpr_at_fpr_0.1_percent"].value == 1  # type: ignore[attr-defined]
    row = {"others": 400, "tpr_at_fpr_0.1_percent": np.nan, "grade": "SOUND"}
    entry = _at(row, "tpr_at_fpr_0.1_percent")
    assert entry.text == "could not be measured"
    assert entry.note == "none of 400 others says no more than an FPR of 0.75 %"


def test_members_found_have_their_exact_interval_and_the_rate_that_was_seen_stands_beside() -> None:
    generator = np.random.default_rng(1)
    member = np.arange(2000) % 2 == 0
    examples = rows(generator.normal(size=2000) + 2 * member, member)
    found = scored(examples["score"].to_numpy(), member)["tpr_at_fpr_1_percent"]
    assert (found.n, found.k) == (1000, round(found.value * 1000))  # type: ignore[attr-defined]
    assert (found.lo, found.hi) == stats.clopper_pearson(found.k, 1000)  # type: ignore[attr-defined]
    counted = _counted(examples)
    assert counted["tpr_at_fpr_1_percent_false"] == 10
    row = {**counted, "tpr_at_fpr_1_percent": found.value, "tpr_at_fpr_1_percent_lo": found.lo,  # type: ignore[attr-defined]
           "tpr_at_fpr_1_percent_hi": found.hi, "grade": "SOUND"}  # type: ignore[attr-defined]  # fmt: skip
    assert _at(row, "tpr_at_fpr_1_percent").text.endswith(", 1 % (0.48–1.8)")


def test_the_threshold_of_balanced_accuracy_is_of_other_examples() -> None:
    assert best_threshold(np.array([3.0, 2, 1, 0]), np.array([1, 1, 0, 0], bool)) == 1.5
    generator = np.random.default_rng(2)
    member = generator.random(2000) < 0.5
    assert abs(scored(generator.random(2000), member)["balanced_accuracy"].value - 0.5) < 0.05  # type: ignore[attr-defined]
    assert scored(member + 0.1 * generator.random(2000), member)["balanced_accuracy"].value == 1  # type: ignore[attr-defined]
    assert scored(np.where(member, np.inf, -np.inf), member)["balanced_accuracy"].value == 1  # type: ignore[attr-defined]


def test_epsilon_is_that_of_the_guesses_at_both_ends() -> None:
    found = scored(np.arange(1000.0), np.arange(1000) >= 500)
    assert found["epsilon_at_least"].value == one_run(1000, 100, 100, delta=1e-5)  # type: ignore[attr-defined]
    assert found["membership_auc"].value == 1  # type: ignore[attr-defined]
    assert found["train_accuracy"].n == 500  # type: ignore[attr-defined]
    assert scored(-np.arange(1000.0), np.arange(1000) >= 500)["epsilon_at_least"].value == 0  # type: ignore[attr-defined]


def test_a_curve_ends_at_one_and_rises() -> None:
    generator = np.random.default_rng(3)
    member = generator.random(3000) < 0.5
    false, true = curve(rows(np.round(generator.normal(size=3000) + member, 1), member))
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert (false[-1], true[-1]) == (1, 1)
    assert len(false) <= 121


def test_curves_of_several_defenses_are_drawn_the_same_twice() -> None:
    member = np.arange(400) % 2 == 0
    curves = {"lira": curve(rows(np.arange(400.0) + 300 * member, member)), "ratio": curve(rows(np.zeros(400), member))}
    panels = {"none": curves, "dp_sgd": {"lira": curves["lira"]}, "jpeg": {}}
    one, other = (draw("roc", "curves", (8.0, 5.0), partial(_roc, panels=panels, wide=2)) for _ in range(2))
    assert one == other
    assert all(word in one.svg for word in ("undefended", "dp_sgd", "lira", "ratio"))


@pytest.mark.parametrize(("shadow", "said"), [
    (0.895, ""), (np.nan, ""), (0.80, "shadows differ from the victim by -10.0 points on members"),
])  # fmt: skip
def test_shadows_that_are_right_elsewhere_are_told(shadow: float, said: str) -> None:
    row = {"train_accuracy": 0.9, "test_accuracy": 0.5, "shadow_train_accuracy": shadow, "shadow_test_accuracy": 0.5}
    assert unlike(row) == said


def test_whoever_it_is_is_told_by_what_is_granted() -> None:
    def told(*access: str) -> str:
        threat, shown = SimpleNamespace(access=access, budget=Budget()), SimpleNamespace(shows=None)
        membership = SimpleNamespace(name="membership")
        return who(SimpleNamespace(scenario=membership, threat=threat, model=shown))  # type: ignore[arg-type]

    assert told("labels") == "whoever sees only the model's answers"
    assert told("labels", "scores", "aux_data") == "whoever sees the model's scores and trains networks alike"
