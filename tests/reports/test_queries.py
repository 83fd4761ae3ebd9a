"""Distance against queries: medians, what counts as none, and the section a run without such attacks does not get."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.sections.evasion.queries import distances, figures, query_section

REACHED = {"cgba": (0.9, 0.4), "foolbox:hopskipjump": (2.0, 0.8)}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two attacks at 1000 and 2500 queries; ten images, one wrong when clean, two never reached at 1000."""
    store = Store(tmp_path_factory.mktemp("queries") / "run")
    clean = np.arange(10) != 3
    for attack, medians in REACHED.items():
        rows = pd.DataFrame({"index": np.arange(10), "label": 0, "clean_ok": clean, "robust": False, "fooled": True,
                             "in_budget": True, "distance": 0.1, "queries": 2500})  # fmt: skip
        for mark, median in zip((1000, 2500), medians, strict=True):
            values = np.linspace(0.5, 1.5, 9) * median
            values[-2:] = np.nan if mark == 1000 else values[-2:]
            rows.loc[clean, f"l2_at_{mark}"] = values.astype(np.float32)
        rows["l2_at_5000"] = np.float32(np.nan)
        store.add(rows, threat="labels", attack=attack, budget="l2(eps=inf)", access="labels", n=10)
    return read([store.root])


def test_the_median_counts_what_is_not_reached_as_far_and_leaves_out_what_was_wrong(asked: Results) -> None:
    table = distances(asked)
    assert set(table["queries"]) == {1000, 2500}  # nobody has a distance at 5000
    assert set(table["n"]) == {9}
    for attack, medians in REACHED.items():
        part = table[table["attack"] == attack].set_index("queries")
        assert part["median"].tolist() == pytest.approx(list(medians), rel=1e-6)
        assert np.isinf(part.loc[1000, "reached"]).sum() == 2


def test_the_section_has_medians_successes_and_a_curve(asked: Results) -> None:
    section = query_section(asked)
    medians, successes = section.tables
    assert medians.columns == ("attack", "1\u202f000 queries", "2\u202f500 queries", "n")
    assert {row[0].text: row[2].text for row in medians.rows} == {"cgba": "0.4", "foolbox:hopskipjump": "0.8"}
    assert successes.columns[:2] == ("attack", "within 0.25")
    (cgba,) = (row for row in successes.rows if row[0].text == "cgba")
    assert cgba[1].key == pytest.approx(2 / 9)  # of 0.2, 0.25, 0.3 ...
    assert [f.name.split("-")[0] for f in section.figures] == ["queries"]


def test_where_most_images_have_none_no_number_is_made_up(asked: Results) -> None:
    table = distances(asked)
    table.loc[0, "median"] = np.inf
    assert figures(table)[0].png.startswith(b"\x89PNG")


def test_a_run_without_such_attacks_has_no_such_section(run: Results) -> None:
    section = query_section(run)
    assert not section.tables
    assert not section.figures


def test_the_curve_is_drawn_the_same_twice(asked: Results, tmp_path: Path) -> None:
    first, second = figures(distances(asked))[0], figures(distances(asked))[0]
    assert first.png == second.png
    (tmp_path / "curve.png").write_bytes(first.png)
