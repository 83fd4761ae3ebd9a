"""How a board came out: who leads, when nobody does, and what too few images cannot rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import Store

from robustsuite.reports.boards.leaderboard import Board, Standing, boards
from robustsuite.reports.boards.outcome import leaders
from robustsuite.reports.boards.site import Page, index_page
from robustsuite.reports.measure.ranked import FEWEST
from robustsuite.reports.measure.scores import rate
from robustsuite.reports.read.runs import read


def site_page(found: list[Board]) -> Page:
    links = {(i, s.name): "" for i, board in enumerate(found) for s in board.standings}
    return index_page("t", "", found, {board.threat: "x.html" for board in found}, (), links)


@pytest.mark.parametrize(
    ("stands", "said"),
    [
        ({"a": 0, "b": 0}, "no leader: the 2 ranked systems fall completely"),
        ({"a": 0}, "no leader: the only ranked system falls completely"),
        ({"a": 20, "b": 21}, "no leader: the images do not tell the 2 ranked systems apart"),
        ({"a": 0, "b": 20}, "b"),
        ({"a": 0, "b": 20, "c": 21}, "c (tied with 1 more)"),
        ({"a": 20}, "a"),
    ],
)
def test_nobody_leads_a_board_whose_systems_fall_or_are_alike(
    tmp_path: Path, stands: dict[str, int], said: str
) -> None:
    store = Store(tmp_path / "run")
    for model, k in stands.items():
        rows = pd.DataFrame({"index": range(40), "label": 1, "clean_ok": True, "robust": np.arange(40) < k})
        store.add(rows, model=model, attack="pgd", n=40)
    # Another of which an upper bound is known alone, however high.
    rows = rows.assign(robust=True)
    doubt = [{"name": "weak_alone", "detail": "pgd alone", "level": "warn"}]
    store.add(rows, model="doubted", attack="pgd", n=40, flags=doubt)
    (board,) = boards(read([store.root]))
    (first, why) = leaders(board)
    assert ("no leader" in why) == (not first)
    page = site_page([board])
    (row,) = page.sections[-1].tables[0].rows
    assert row[1].text == said
    assert (row[2].text == "–") == (not first)
    sentence = page.sections[0].lead[1]
    assert (said.removeprefix("no leader") in sentence) if not first else (first[0].name in sentence)


@pytest.mark.parametrize(
    ("scenario", "better", "k", "said"),
    [
        ("poisoning", "less", 9, "no leader: the only ranked system falls completely"),
        ("poisoning", "less", 0, ""),
        ("certification", "more", 0, "no leader: nothing is proven of the only ranked system"),
        ("certification", "more", 9, ""),
    ],
)
def test_falling_is_what_is_worst_for_the_defender(scenario: str, better: str, k: int, said: str) -> None:
    score = rate("x", np.arange(9) < k)
    sides = (None, score) if scenario == "certification" else (score, None)
    one = Standing("a", "a", "none", 0, *sides, None, (), ranks=(1, 1))
    assert leaders(Board("t", scenario, "", "", "", "", (one,), better=better))[1] == said


@pytest.mark.parametrize(("n", "ranks"), [(FEWEST - 1, (1, 2)), (FEWEST, (2, 2))])
def test_a_mean_of_few_images_ranks_nothing_and_says_so(tmp_path: Path, n: int, ranks: tuple[int, int]) -> None:
    store = Store(tmp_path / "run")
    for model, psnr in {"a": 20.0, "b": 10.0}.items():
        rows = pd.DataFrame({"index": range(n), "label": 0, "psnr": psnr + np.linspace(0, 1, n)})
        rows = rows.assign(label_ok=True, mse=0.1, ssim=0.5, label_found=True, failed=False, identified=True,
                           control_psnr=9.0, federated_accuracy=0.4)  # fmt: skip
        store.add(rows, model=model, n=n, threat="leak", scenario="inversion", budget=None, attack="geiping",
                  access="weights, update")  # fmt: skip
    (board,) = boards(read([store.root]))
    found = {s.model: s for s in board.standings}
    assert found["a"].ranks == ranks, "a is rebuilt better, and so is behind"
    assert found["a"].screening == f"{n} images"
    page = site_page([board]).sections[0]
    assert ("no test ranks it" in page.lead[1]) == (n < FEWEST)
    assert f"SOUND, screening: {n} images" in [entry.text for row in page.tables[0].rows for entry in row]
