"""The ordered top-K table against numbers made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.sections.evasion.ordered import ordered, ordered_section

FACTS = {"threat": "top5", "goal": "ordered_topk(k=5)", "budget": "l2(eps=inf)", "n": 6}
HITS = {  # five images are right when clean; the sixth never counts
    ("quadattack", 0): [1, 1, 1, 1, 0], ("quadattack", 1): [1, 1, 1, 0, 0],
    ("cw_k", 0): [1, 0, 0, 0, 0], ("cw_k", 1): [0, 1, 1, 0, 0],
}  # fmt: skip


def rows(hits: list[int], l2: float) -> pd.DataFrame:
    fooled = np.array([*hits, 1], dtype=bool)
    clean = np.array([True] * 5 + [False])
    size = l2 * np.arange(1, 7)
    return pd.DataFrame({
        "index": np.arange(6), "label": np.zeros(6, dtype=np.int64), "clean_ok": clean, "robust": clean & ~fooled,
        "l1": 10 * size, "l2": size, "linf": size / 10, "distance": size,
    })  # fmt: skip


@pytest.fixture
def lists(tmp_path: Path) -> Results:
    store = Store(tmp_path / "lists")
    for (attack, seed), hits in HITS.items():
        store.add(rows(hits, 1.0 if attack == "quadattack" else 2.0), attack=attack, seed=seed, **FACTS)
    store.add(None, attack="adversarial_distillation", status="refused", sentence="no list", **FACTS)
    return read([store.root])


def test_rates_over_draws_and_both_kinds_of_energy(lists: Results) -> None:
    table = ordered(lists).set_index("attack")
    quad, cw = table.loc["quadattack"], table.loc["cw_k"]
    assert (quad["best"], quad["mean"], quad["worst"], quad["draws"], quad["n"]) == (0.8, pytest.approx(0.7), 0.6, 2, 5)
    assert (cw["best"], cw["mean"], cw["worst"]) == (0.4, pytest.approx(0.3), 0.2)
    assert quad["l2"] == pytest.approx(np.mean([1, 2, 3, 4, 1, 2, 3]))
    assert quad["shared"] == cw["shared"] == 3
    assert quad["l2_all"] == pytest.approx(np.mean([1, 2, 3]))
    assert cw["l2_all"] == pytest.approx(np.mean([2, 4, 6]))
    assert cw["l1"] == pytest.approx(10 * cw["l2"])


def test_the_section_shows_them_and_other_runs_have_none(lists: Results, run: Results) -> None:
    section = ordered_section(lists)
    (texts,) = ([e.text for e in row] for row in section.tables[0].rows if row[0].text == "quadattack")
    assert {"80.0 %", "70.0 %", "60.0 %", "5 × 2", "3 of 7"} <= set(texts)
    assert not ordered_section(run).tables
    assert len(ordered(run)) == 0
