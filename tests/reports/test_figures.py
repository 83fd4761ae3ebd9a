"""Figures against the tables beside them: what a line says, who has one, and what it looks like."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.measure.scores import scores
from robustsuite.reports.measure.tables import empirical_curves
from robustsuite.reports.read.runs import read
from robustsuite.reports.render.draw import HATCH, PAPER
from robustsuite.reports.sections.evasion.attacked import attack_section, no_answer
from robustsuite.reports.sections.figures import curves, heatmaps

E = 8 / 255


def nearest() -> pd.DataFrame:
    """A minimum-norm attack on eight images of which four stand at the budget.

    0 wrong before; 1 broken at E/2; 2 its answer gone at E/4; 3 broken outside the budget, which rounds to its edge;
    4 broken at 1.5 E; 5 its answer gone there; 6 never broken; 7 broken within the budget, which rounds to more.
    """
    rows = pd.DataFrame({
        "index": np.arange(8), "label": 0, "clean_ok": np.arange(8) > 0,
        "distance": [0, E / 2, E / 4, E, 1.5 * E, 1.5 * E, E / 8, E * (1 + 1e-12)],
        "in_budget": [True, True, True, False, False, False, True, True],
        "fooled": [True, True, False, True, True, False, False, True],
        "rejected": [False, False, True, False, False, True, False, False], "queries": 7,
    })  # fmt: skip
    return rows.assign(robust=[False, False, False, True, True, True, True, False])


def test_a_line_is_the_tables_number_at_the_budget_and_no_answer_does_not_stand(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    store.add(nearest(), attack="fmn", n=8)
    run = read([store.root])
    table = empirical_curves(run)
    line = table[table["kind"] == "curve"].set_index("radius")["value"]
    robust = scores(run).set_index("metric").loc["robust_accuracy", "value"]
    assert line.loc[E] == robust == 4 / 8
    assert line.iloc[0] == 7 / 8
    assert line.iloc[[6, 11]].to_list() == [6 / 8, 5 / 8], "the answer that is gone falls where it went"
    assert line.iloc[-1] == 1 / 8, "only the image that nothing was found for stands beyond"


def test_a_picture_without_a_distance_stands_as_it_does_in_the_table(tmp_path: Path) -> None:
    """What an attack returns as NaN is outside the budget, has no answer and was brought nowhere."""
    store = Store(tmp_path / "r")
    rows = nearest()
    rows.loc[5, "distance"] = np.nan
    store.add(rows, attack="fmn", n=8)
    line = empirical_curves(read([store.root])).query("kind == 'curve'").set_index("radius")["value"]
    assert (line.iloc[0], line.loc[E], line.iloc[-1]) == (7 / 8, 4 / 8, 2 / 8)


def test_an_attack_that_breaks_everything_inside_the_budget_has_a_line(tmp_path: Path) -> None:
    rows = nearest().assign(clean_ok=True, in_budget=True, fooled=True, robust=False, rejected=False, distance=E / 2)
    store = Store(tmp_path / "r")
    store.add(rows.assign(l1=1.0, l2=1.0, linf=E / 2), attack="fmn", n=8)
    store.add(rows, attack="pgd", n=8)
    line = empirical_curves(read([store.root])).query("kind == 'curve'")
    assert line["value"].to_list() == pytest.approx([1.0] * 10 + [0.0] * 31)


def test_a_figure_names_the_systems_that_have_a_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    for defense in ("none", "crossmax"):
        store.add(nearest(), attack="fmn", defense=defense, n=8)
    store.add(nearest().assign(in_budget=True), attack="pgd", defense="adversarial_finetuning", n=8)
    (figure,) = curves(read([store.root]))
    assert "crossmax" in figure.svg
    assert "finetuning" not in figure.svg


def test_an_upper_bound_is_hatched_behind_a_plain_box_in_either_theme_and_the_lead_says_so(tmp_path: Path) -> None:
    rows = nearest().assign(in_budget=True, fooled=True)
    store = Store(tmp_path / "r")
    store.add(rows, attack="pgd", n=8)
    plain = heatmaps(run := read([store.root]), scores(run))[0].svg
    assert "<pattern" not in plain
    store = Store(tmp_path / "b")
    store.add(rows, attack="pgd", n=8, flags=[{"name": "not_converged", "detail": "31 %"}])
    store.add(None, attack="apgd", n=8, status="failed", sentence="stopped")
    run = read([store.root])
    section = attack_section(run, scores(run), heatmaps(run, scores(run)))
    svg = section.figures[0].svg
    stripes = [part.split("</pattern>")[0] for part in svg.split("<pattern")[1:]]
    assert stripes
    assert all(f"stroke: {HATCH}" in part for part in stripes), "one colour, which no theme swaps"
    assert "var(--page)" in svg
    assert PAPER not in svg
    assert "hatched: an upper bound, no verdict; cells without a number say why" in section.lead[0]


def test_a_figure_shrinks_on_a_phone_to_what_is_read_and_no_width_is_set_on_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    store.add(nearest(), attack="fmn", n=8)
    head = curves(read([store.root]))[0].svg.partition(">")[0]
    assert 'style="--own:' in head, "the style sheet alone says how wide it is, or it could not shrink it"


def test_the_note_on_answers_that_are_gone_has_the_numbers_of_its_row() -> None:
    row = {"robust_accuracy": 0.1, "or_no_answer": 0.35}
    assert no_answer(row) == "10.0 % right; 25.0 % get no answer, counted as wrong; 35.0 % if that were counted as safe"
    assert no_answer({"robust_accuracy": 0.1, "or_no_answer": 0.1}) == ""


def test_a_single_attack_that_searches_too_little_is_weak_alone_and_the_others_are_sound(tmp_path: Path) -> None:
    store, rows = Store(tmp_path / "r"), nearest().assign(in_budget=True)
    store.add(rows, attack="pgd", n=8)
    store.add(rows, attack="noise", n=8, family=("noise",))
    store.add(rows, attack="fgsm", n=8, family=("gradient",), least={"steps": 20})
    store.add(rows, attack="flagged", n=8, family=("noise",), flags=[{"name": "not_converged", "detail": "31 %"}])
    run = read([store.root])
    section = attack_section(run, table := scores(run), ())
    columns = section.tables[0].columns
    said = {row[columns.index("attack")].text: row[columns.index("status")].text for row in section.tables[0].rows}
    assert said == {
        "pgd": "SOUND, screening: 8 images", "noise": "weak alone, screening: 8 images",
        "fgsm": "weak alone, screening: 8 images; steps none of 20", "flagged": "PROVISIONAL, screening: 8 images",
    }  # fmt: skip
    assert "weak alone" in section.lead[1]
    assert table.drop_duplicates("run_id")["grade"].value_counts().to_dict() == {"SOUND": 3, "PROVISIONAL": 1}
