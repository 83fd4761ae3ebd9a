"""What is drawn of votes under noise: shares by hand, and one line a system."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from robustsuite.reports.render.draw import draw
from robustsuite.reports.sections.votes import _by_votes, _more, _most, _spread, survival


def line(defense: str, votes: int, p: list[float]) -> tuple[dict[str, object], pd.DataFrame]:
    """A certificate of four pictures, radius 1 where p > 0.9."""
    cell = {"defense": defense, "threat": "proof", "attack": f"smoothing(n={votes})", "norm": "l2", "eps": 0.5,
            "grade": "INVALID" if defense == "b" else ""}  # fmt: skip
    likely = np.array(p)
    return cell, pd.DataFrame({
        "p_correct": likely, "votes": votes, "clean_ok": likely > 0, "abstained": False,
        "radius": np.where(likely > 0.9, 1.0, 0.0),
    })  # fmt: skip


def test_a_share_is_of_all_pictures_that_are_at_least_as_likely() -> None:
    values, share = survival(np.array([0.9, 0.0, 0.6, 0.9]))
    assert values.tolist() == [0.0, 0.6, 0.9, 0.9]
    assert share.tolist() == [1.0, 0.75, 0.5, 0.5]


def test_a_system_is_drawn_by_its_most_votes_and_compared_where_it_has_several() -> None:
    lines = [line("a", 100, [0.8, 0.0, 0.7, 0.0]), line("a", 1000, [0.95, 0.0, 0.8, 0.6]), line("b", 100, [0.6] * 4)]
    assert [cell["attack"] for cell, _ in _most(lines)] == ["smoothing(n=1000)", "smoothing(n=100)"]
    rows = _by_votes(lines)
    assert set(rows["defense"]) == {"a"}
    asked = rows[rows["radius"] == 0.5]
    assert asked["votes"].tolist() == [100, 1000]
    assert asked["value"].tolist() == [0.0, 0.25]
    figure = draw("spread", "said", (6, 3), partial(_spread, lines=_most(lines), names=["one", "two"]))
    assert "one, n = 4" in figure.svg
    assert "two, n = 4" in figure.svg
    drawn = draw("more", "said", (6, 3), partial(_more, rows=rows, defenses={"a": "a"})).svg
    assert "a radius 0.5, n = 4" in drawn
    assert "INVALID" not in drawn
    doubted = _by_votes([line("b", votes, [0.6] * 4) for votes in (100, 1000)])
    assert "INVALID: b radius 0.5" in draw("m", "said", (6, 3), partial(_more, rows=doubted, defenses={"b": "b"})).svg
