"""What a notebook shows of a run: the terminal's numbers, escaped; a tidy frame of scores."""

from pathlib import Path

import pytest
from report_store import DEFENSES, Store

from robustsuite import Run
from robustsuite.errors import BadData
from robustsuite.reports.publish.overview import overview


def test_a_run_shows_the_tables_of_the_terminal_escaped(store: Store) -> None:
    page = Run(store.root)._repr_html_()
    grids, failed = overview([store.root])
    assert page.count("<table>") == page.count("</table>") == sum(bool(grid.rows) for grid in grids)
    assert "<p>An attacker who knows the model makes it wrong on" in page, "what it comes to, in sentences"
    assert page.count('class="rate"') > 20
    assert "<script>alert" not in page
    assert "nightly &lt;b&gt;scenes" in page
    assert len(failed) == page.count("<p>failed:") == 2
    assert "--v:45.0%" in page, "adversarial_finetuning holds 45 % by construction"


def test_scores_are_tidy(store: Store) -> None:
    scores = Run(store.root).scores
    assert not scores.duplicated(["run_id", "metric"]).any()
    wide = scores[scores["metric"] == "robust_accuracy"].pivot_table(index="attack", columns="defense", values="value")
    assert set(DEFENSES) <= set(wide.columns)
    assert ((wide >= 0) & (wide <= 1) | wide.isna()).all(axis=None)


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"sweep\.json"):
        Run(tmp_path)._repr_html_()
