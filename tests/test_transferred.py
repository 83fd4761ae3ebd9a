"""Kept pictures put to the other systems: a masked one falls to them, the report says so, and the run stays sealed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustsuite.app.api import run
from robustsuite.app.transferred import _judged
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.config.goals import Targeted, Untargeted
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.engine.merge import merge
from robustsuite.engine.pack import pack
from robustsuite.integrity.strength import foreign_wins
from robustsuite.maths.randomness import Rng
from robustsuite.maths.stats import clopper_pearson
from robustsuite.records.findings import TRANSFERS, Transfer, Transfers
from robustsuite.records.pictures import Kept, both
from robustsuite.reports.boards.leaderboard import boards
from robustsuite.reports.boards.unions import union_rows
from robustsuite.reports.measure.worst import worst_case
from robustsuite.reports.read.runs import Results, read
from robustsuite.reports.read.verified import verify
from robustsuite.scenarios.cell import Cell
from robustsuite.serve import stages
from robustsuite.serve.data import Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, weights_sha256
from robustsuite.serve.stages import Applied
from tests.nets import linear, masked

PLAIN, MASKED = "python:tests.nets:linear", "python:tests.nets:masked"
SWEEP: dict[str, Any] = {
    "name": "transfers", "models": [PLAIN, MASKED], "data": ["digits"],
    "threats": {"linf": {"scenario": "evasion", "budget": {"linf": 0.1}, "keep": "all",
                         "attacks": ["fgsm", {"pgd": {"steps": 5}}]}},
}  # fmt: skip
N = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfers") / "run"
    run(SWEEP, out=folder, first=N, audited=True).report()
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return read([folder])


def cell(results: Results, model: str, attack: str) -> dict[str, Any]:
    return next(c for c in results.known.values() if model in c["record"].model.name and attack in c["attack"])


def union(results: Results, model: str) -> dict[str, Any]:
    rows = worst_case(results).to_dict("records")
    return next(row for row in rows if model in row["model"])


def test_every_picture_at_hand_was_put_to_the_other_system_and_judged(results: Results) -> None:
    assert len(results.transfers) == 4, "two attacks each way"
    net, source = masked(), cell(results, "linear", "pgd")
    pair = next(p for p in results.transfers if p.source == source["run_id"])
    target = results.examples(pair.target)
    kept = both(results.pictures(source["run_id"]))
    assert kept is not None
    right = target.set_index("index")["clean_ok"]
    assert set(pair.asked) == {int(i) for i in kept.ids if right[int(i)]}
    answers = net(torch.tensor(kept.adversarial)).argmax(1).numpy()
    labels = target.set_index("index")["label"]
    wrong = {int(i) for i, answer in zip(kept.ids, answers, strict=True) if right[int(i)] and answer != labels[int(i)]}
    assert set(pair.broken) == wrong
    assert len(wrong) > 10


def test_what_falls_to_foreign_pictures_is_broken_in_the_union(results: Results) -> None:
    row, own = union(results, "masked"), [cell(results, "masked", name) for name in ("fgsm", "pgd")]
    stands = np.logical_and.reduce([results.columns(c["run_id"])["robust"] for c in own])
    index = results.columns(own[0]["run_id"])["index"]
    fell = {i for p in results.transfers if p.target in {c["run_id"] for c in own} for i in p.broken}
    assert row["robust_accuracy"] == pytest.approx((stands & ~np.isin(index, list(fell))).mean())
    assert row["foreign"] == int((stands & np.isin(index, list(fell))).sum()) > 10
    assert union(results, "linear")["foreign"] == 0, "its own attacks are exact on it"


def test_the_flag_fails_the_masked_system_alone_with_its_number(results: Results) -> None:
    for name in ("fgsm", "pgd"):
        flags = {flag["name"]: flag for flag in cell(results, "masked", name)["flags"]}
        assert flags["foreign_wins"]["level"] == "fail"
        fell = union(results, "masked")["foreign"]
        assert flags["foreign_wins"]["detail"].startswith(f"{fell} of {N} images that its own attacks leave fall to")
        assert "made against" in flags["foreign_wins"]["detail"]
        assert "foreign_wins" not in {flag["name"] for flag in cell(results, "linear", name)["flags"]}


def test_the_report_has_the_matrix_and_says_that_the_union_has_foreign_pictures(
    folder: Path, results: Results
) -> None:  # fmt: skip
    text = (folder / "report" / "report.md").read_text()
    matrix = text[text.index("whose pictures break whom") :].split("\n\n")[1]
    pairs = [p for p in results.transfers if p.target in {c["run_id"] for c in results.known.values()
                                                          if "masked" in c["record"].model.name}]  # fmt: skip
    asked, broken = ({i for p in pairs for i in getattr(p, name)} for name in ("asked", "broken"))
    low, high = clopper_pearson(len(broken), len(asked))
    assert f"{100 * len(broken) / len(asked):.1f} % ({100 * low:.1f}–{100 * high:.1f}), n {len(asked)}" in matrix
    assert "left by its own attacks" in matrix
    assert "with foreign pictures" in matrix
    assert "all at once, with foreign pictures" in text
    assert "fell to foreign pictures alone" in text


def test_a_boards_page_has_the_images_that_its_number_is_of(results: Results) -> None:
    board = next(board for board in boards(results) if board.standings)
    for standing in board.standings:
        rows = union_rows(results, standing)
        assert standing.upper is not None
        assert int(rows["all at once"].sum()) == standing.upper.k
        assert "foreign pictures" in rows


def test_a_run_that_goes_on_asks_only_what_is_new_and_stays_sealed(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert verify(copy).found == []
    before = sorted((copy / "artefacts").glob(f"{TRANSFERS}-*"))
    assert len(before) == 1
    bytes_before = before[0].read_bytes()
    assert run(SWEEP, out=copy, first=N, audited=True).computed == 0
    assert sorted((copy / "artefacts").glob(f"{TRANSFERS}-*")) == before
    assert before[0].read_bytes() == bytes_before
    more = {**SWEEP, "models": [PLAIN, MASKED, "python:tests.nets:another"]}
    run(more, out=copy, first=N, audited=True).report()
    assert len(list((copy / "artefacts").glob(f"{TRANSFERS}-*"))) == 1
    assert len(read([copy]).transfers) == 12, "three systems, two attacks, each to two others"
    assert verify(copy).found == []


def test_an_edit_of_what_was_found_is_found(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = next((copy / "artefacts").glob(f"{TRANSFERS}-*"))
    value = json.loads(file.read_text())
    value["pairs"][0]["broken"] = []
    file.write_text(json.dumps(value))
    assert [finding.where for finding in verify(copy).found].count(f"artefacts/{file.name}") == 2, "seal and digest"


def test_packs_and_merges_keep_it(folder: Path, tmp_path: Path, results: Results) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    pack(copy)
    assert read([copy]).transfers == results.transfers
    merge([copy], tmp_path / "merged")
    assert read([tmp_path / "merged"]).transfers == results.transfers
    assert worst_case(read([tmp_path / "merged"]))["foreign"].sum() == worst_case(results)["foreign"].sum()


@pytest.mark.slow
def test_the_same_sweep_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(SWEEP, out=tmp_path / "again", first=N, audited=True)
    one, two = (next((f / "artefacts").glob(f"{TRANSFERS}-*")) for f in (folder, tmp_path / "again"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


def test_without_an_audit_nothing_is_asked_and_the_union_is_of_its_own(tmp_path: Path) -> None:
    run(SWEEP, out=tmp_path / "run", first=8)
    results = read([tmp_path / "run"])
    assert results.transfers == ()
    assert worst_case(results)["foreign"].tolist() == [0, 0]


def test_one_image_of_many_warns_and_more_than_two_per_cent_fail() -> None:
    rows = [{"run_id": "own", "model": "a", "defense": "none"}]
    known = {"other": {"run_id": "other", "model": "b", "defense": "crossmax"}}

    def level(broken: tuple[int, ...], n: int) -> list[str]:
        pair = Transfer(target="own", source="other", pictures_sha256="", asked=tuple(range(n)), broken=broken)
        return [flag.level for _, flag in foreign_wins(rows, [pair], known, range(n // 2), n)]

    assert level((0,), 1000) == ["warn"]
    assert level(tuple(range(20)), 1000) == ["warn"]
    assert level(tuple(range(21)), 1000) == ["fail"]
    assert level((0, 1), 20) == ["warn"]
    assert level((0, 1, 2), 20) == ["fail"]
    assert level((600,), 1000) == [], "that one its own attacks broke"


def test_a_file_that_contradicts_itself_is_left_out() -> None:
    with pytest.raises(ValueError, match="nothing broken that was not asked"):
        Transfers.model_validate_json(
            '{"pairs": [{"target": "a", "source": "b", "pictures_sha256": "", "asked": [1], "broken": [2]}]}'
        )


TEST = digits().split("test").first(40)
X, Y = TEST.images(torch.arange(40)), TEST.y


def target(net: nn.Module, eps: float, *defenses: Applied, goal: Any = None, grid: bool = False) -> Cell:
    """A cell of this system, whatever was played."""
    model = Model("net", net.eval(), digits().space, weights_sha256(net), grid=grid)
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(eps), goal=goal or Untargeted())
    cycle = Lifecycle(model, digits(), defenses)
    return Cell("transfers", cycle, Subjects(TEST), threat, card_of("attack", "pgd"))


def judged(one: Cell, x_adv: Tensor) -> tuple[set[int], set[int]]:
    """The positions that were put to the system, and those that fell."""
    kept = Kept(TEST.ids.numpy(), X.numpy(), x_adv.numpy())
    put, fell = _judged(one, one.lifecycle.served(), kept)
    place = {int(example): i for i, example in enumerate(TEST.ids)}
    return {place[i] for i in put}, {place[i] for i in fell}


def test_a_picture_beyond_the_budget_around_the_systems_own_is_not_counted() -> None:
    near, far = (X + 0.1).clamp(0, 1), (X + 0.3).clamp(0, 1)
    mixed = torch.where((torch.arange(40) % 2 == 0)[:, None, None, None], near, far)
    put, _ = judged(target(linear(), 0.1), mixed)
    assert put == set(range(0, 40, 2))


class Seen(nn.Module):
    """`linear`, which keeps what any copy of it was asked."""

    asked: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.net(x)  # type: ignore[no-any-return]


def test_a_system_of_eight_bits_is_shown_levels_within_the_budget() -> None:
    net, eps = Seen(), 0.1
    signs = torch.randn(X.shape, generator=torch.Generator().manual_seed(0)).sign()
    put, _ = judged(target(net, eps, grid=True), (X + 0.0999 * signs).clamp(0, 1))
    assert put == set(range(40))
    x = torch.cat([x for x in net.asked if len(x) >= 40])[:40]
    torch.testing.assert_close(x * 255, (x * 255).round())
    assert bool(Linf(eps).allows((X * 255).round() / 255, x).all())


def test_the_class_to_reach_is_the_cells_own() -> None:
    one = target(linear(), 1.0, goal=Targeted())
    kept = torch.rand(X.shape, generator=torch.Generator().manual_seed(0))
    put, fell = judged(one, kept)
    rng = Rng.of(0, one.name, TEST.ids)
    targets = Targeted().targets(Y, 10, rng.fold("targets"))[:, 0]
    assert put == set(range(40))
    reached = (linear()(kept).argmax(1) == targets).nonzero().flatten().tolist()
    assert fell == set(reached) & put


class Coin(nn.Module):
    """`net`, whose answer is another one with this chance, by the streams it is handed."""

    rng: Rng | None = None

    def __init__(self, net: nn.Module, chance: float) -> None:
        super().__init__()
        self.net, self.chance = net, chance

    def forward(self, x: Tensor) -> Tensor:
        rng = self.rng or Rng.of(0, "coin", torch.zeros(len(x), dtype=torch.int64))
        z = self.net(x)
        return torch.where(rng.uniform(1) < self.chance, z.roll(1, 1), z)


@stages.serve(stochastic=True)
def coin(net: nn.Module, *, chance: float = 0.5) -> nn.Module:
    """Wrong at random."""
    return Coin(net, chance)


def test_a_random_system_falls_only_where_eight_of_ten_answers_are_wrong() -> None:
    card = coin.card  # type: ignore[attr-defined]
    right = int((linear()(X).argmax(1) == Y).sum())
    share = {chance: len(judged(target(linear(), 0.1, Applied(card, (("chance", chance),))), X)[1]) / right
             for chance in (0.55, 1.0)}  # fmt: skip
    assert share[0.55] < 0.4, "by majority it would be more than half"
    assert share[1.0] >= 1
