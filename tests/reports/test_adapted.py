"""The report's section on test-time adaptation: numbers by hand, and what its tables and curves say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustsuite.records.schema import Budget
from robustsuite.reports.measure.scores import cell_scores
from robustsuite.reports.render.adversary import who
from robustsuite.reports.sections.adapted import STAGE, _counted, _curve, _line, by_stage, part, streams
from robustsuite.scenarios.adaptation.played import scenario

N = 10


def examples(
    wrong: dict[int, int], *, malicious: bool = False, uploaded: bool = False, after: int = 8
) -> pd.DataFrame:  # fmt: skip
    """Two stages of N pictures in batches of 5, so many wrong in each, then N clean ones of which `after` are right."""
    rows = []
    for stage in (0, 1, 2):
        for i in range(N):
            clean = stage == 2
            right = i < after if clean else i >= wrong[stage]
            rows.append({
                "index": i + stage * STAGE, "split": ("fog", "contrast", "clean")[stage], "stage": stage,
                "severity": 0 if clean else 5, "right": right, "clean": clean, "before": clean and i < 9,
                "counts": not clean and not (malicious and i >= 8), "batch": 2 * stage + i // 5,
            })  # fmt: skip
    frame = pd.DataFrame(rows)
    if malicious:
        frame["malicious"] = ~frame["clean"] & (frame["index"] % STAGE >= 8)
        frame["right_without"] = frame["clean"] | (frame["index"] % STAGE >= 1)
    if uploaded:
        frame["uploaded"] = frame["index"] % 2 == 0
    return frame


def run(**cells: tuple[dict[str, Any], pd.DataFrame]) -> Any:
    """A run of these cells, as far as the section reads one."""
    known = {}
    for run_id, (facts, _) in cells.items():
        terms = {"order": "continual", "batch": 5} | ({"share": 0.2} if facts["attack"] != "benign" else {})
        record = SimpleNamespace(threat=SimpleNamespace(budget=SimpleNamespace(terms=terms)), columns=scenario.columns)
        known[run_id] = {
            "run_id": run_id, "status": "done", "scenario": "adaptation", "threat": "t", "model": "m", "dataset": "d",
            "seed": 0, "budget": "b", "grade": "SOUND", "record": record, **facts,
        }  # fmt: skip
    return SimpleNamespace(known=known, examples=lambda run_id: cells[run_id][1])


def test_an_error_is_the_mean_over_stages_whatever_their_size() -> None:
    found = _counted(examples({0: 4, 1: 2}))
    assert found["error"] == pytest.approx(0.3)
    assert found["lo"] <= 0.3 <= found["hi"]
    assert (found["before"], found["after"], found["n"], found["stages"]) == (0.9, 0.8, N, 2)
    uneven = examples({0: 4, 1: 2})
    assert _counted(uneven.drop(uneven.index[6:10]))["error"] == pytest.approx((4 / 6 + 0.2) / 2)


def test_intervals_are_over_pictures_which_stand_in_every_stage() -> None:
    alike = _counted(examples({0: 5, 1: 5}))
    apart = examples({0: 5, 1: 5})
    second = apart["stage"] == 1
    apart.loc[second, "right"] = ~apart.loc[second, "right"]
    other = _counted(apart)
    assert other["error"] == alike["error"] == 0.5
    assert other["hi"] - other["lo"] < 1e-9, "each picture is wrong once: no other draw of pictures changes the mean"
    assert alike["hi"] - alike["lo"] > 0.4


def test_harm_is_counted_on_the_pictures_of_others_alone() -> None:
    found = _counted(examples({0: 4, 1: 2}, malicious=True))
    assert found["error"] == pytest.approx((4 / 8 + 2 / 8) / 2)
    assert found["without"] == pytest.approx(1 / 8)
    assert found["harm"] == pytest.approx(0.375 - 0.125)
    assert (found["malicious"], found["pictures"]) == (4, 16)
    assert np.isnan(_counted(examples({0: 4, 1: 2}))["harm"])


def test_curves_are_the_errors_of_batches_in_order() -> None:
    assert _curve(examples({0: 4, 1: 2})).tolist() == pytest.approx([0.8, 0.0, 0.4, 0.0])


def test_no_two_of_many_lines_look_alike() -> None:
    assert len({_line(i) for i in range(32)}) == 32


def test_the_section_has_methods_streams_uploads_and_what_others_lost() -> None:
    plain, loud = {"defense": "none", "attack": "benign"}, {"defense": "tent", "attack": "dia"}
    whole = run(
        a=(plain, examples({0: 8, 1: 6})), b=({**plain, "defense": "cema"}, examples({0: 1, 1: 1}, uploaded=True)),
        c=(loud, examples({0: 4, 1: 2}, malicious=True)),
    )  # fmt: skip
    found = part(whole, pd.DataFrame())
    (section,) = found.sections
    methods, invaded = section.tables
    assert [row[0].text for row in methods.rows] == ["cema", "source"], "the lowest error stands first"
    assert methods.rows[0][methods.columns.index("uploads")].text == "10 (50.0 %)"
    assert methods.rows[1][methods.columns.index("uploads")].text == "–"
    harm = invaded.rows[0][invaded.columns.index("difference, points")]
    assert harm.text.startswith("+25.0 (")
    assert len(section.figures) == 2, "a drawing a stream and attack"
    assert set(found.frames) == {"adaptation", "adaptation_stages"}
    stages = by_stage(whole, streams(whole))
    assert stages[stages["defense"] == "none"]["k"].tolist() == [8, 6]
    assert stages["corruption"].tolist() == ["fog", "contrast"] * 3


def test_several_streams_stand_side_by_side() -> None:
    cells = {
        f"{threat}{defense}": (
            {"defense": defense, "attack": "benign", "threat": threat},
            examples({0: wrong, 1: wrong}),
        )
        for threat, defense, wrong in (("one", "none", 8), ("one", "tent", 2), ("two", "none", 5))
    }
    (section,) = part(run(**cells), pd.DataFrame()).sections
    table = section.tables[0]
    assert table.columns == ("method", "one", "two")
    assert [[entry.text.split(" (")[0] for entry in row] for row in table.rows] == [
        ["tent", "20.0 %", "–"], ["source", "80.0 %", "50.0 %"],
    ]  # fmt: skip


def test_scores_are_of_the_pictures_that_count_and_what_is_not_there_has_none() -> None:
    cell = {"record": SimpleNamespace(columns=scenario.columns)}
    scores = {s.metric: s for s in cell_scores(cell, examples({0: 4, 1: 2}))}
    assert next(iter(scores)) == "accuracy"
    assert (scores["accuracy"].k, scores["accuracy"].n) == (14, 20)
    assert (scores["clean_accuracy_after"].k, scores["clean_accuracy_before"].k) == (8, 9)
    assert not {"accuracy_without", "upload_rate"} & set(scores)


def test_who_stands_in_a_stream_is_said_in_words() -> None:
    def told(**terms: Any) -> str:
        threat = SimpleNamespace(budget=Budget(terms=terms))
        return who(SimpleNamespace(scenario=SimpleNamespace(name="adaptation"), threat=threat))  # type: ignore[arg-type]

    assert told() == "a stream that nobody meddles with"
    assert told(share=0.2) == "whoever owns 20 % of each batch"
