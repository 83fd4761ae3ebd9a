"""Model extraction: what a thief asks is counted to the query, and clones are held against what is known of them."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustsuite.attacks.extraction import cabage as cabage_file
from robustsuite.attacks.extraction.jbda import moved
from robustsuite.benchmarks.datasets.digits import digits
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, parse_access
from robustsuite.defenses.serve.top_k import top_k
from robustsuite.engine.plan import decide, plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadValue, QueriesSpent, UsageError
from robustsuite.integrity.checks import CHECKS
from robustsuite.maths.randomness import Rng
from robustsuite.records.cells import read_cell
from robustsuite.scenarios.extraction import thief
from robustsuite.scenarios.extraction.played import _flags, judged, scenario
from robustsuite.scenarios.extraction.prada import DELTA, least_distances, statistic, watched
from robustsuite.scenarios.extraction.thief import (
    Stolen,
    Thief,
    Victim,
    Watcher,
    checked,
    fresh_from,
    marks,
    victim,
)
from robustsuite.scenarios.record import unattacked
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Training, ready
from robustsuite.serve.oracle import Desk
from robustsuite.serve.system import System
from robustsuite.serve.training import Recipe, fitted, half_cosine

SPACE = InputSpace(1, 4, 4, 3)


def linear(seed: int, scale: float = 1.0) -> nn.Module:
    """A linear network of 16 pixels and three classes."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.copy_(scale * torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)))
        net[1].bias.copy_(-net[1].weight.sum(1) / 2)  # all classes are met among uniform pictures
    return ready(net)


def pictures(n: int, seed: int) -> Tensor:
    """Uniform pictures (n, 1, 4, 4)."""
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


POOL = Split.of(pictures(1200, 1), torch.zeros(1200, dtype=torch.int64))
VICTIM = linear(0, 3.0)


def theft(asks: int, access: str = "scores", net: nn.Module = VICTIM, width: int = 50) -> Any:
    """(desk, watcher, victim, thief) of a linear clone."""
    desk = Desk(net, parse_access(access), Rng.of(0, "q", torch.arange(asks)), width=width, queries_total=asks)
    watcher = Watcher()
    own = Thief(fresh_from(linear(5), 7), POOL, SPACE, marks(asks), 7)
    return desk, watcher, victim(desk, watcher, SPACE.classes), own


def agreement(a: nn.Module, b: nn.Module) -> float:
    """How often two networks say the same of 2,000 pictures that nobody asked about."""
    x = pictures(2000, 99)
    with torch.no_grad():
        return float((a(x).argmax(1) == b(x).argmax(1)).float().mean())


@settings(max_examples=40, deadline=None)
@given(asks=st.integers(1, 40), sizes=st.lists(st.integers(0, 30), max_size=6), hard=st.booleans())
def test_every_query_is_counted_and_no_batch_goes_beyond_the_limit(asks: int, sizes: list[int], hard: bool) -> None:
    desk, watcher, asked, _ = theft(asks, "labels" if hard else "scores", width=7)
    sent = 0
    for size in sizes:
        if size > asks - sent:
            with pytest.raises(QueriesSpent):
                asked.ask(pictures(size, 2))
        else:
            answers = asked.ask(pictures(size, 2))
            sent += size
            assert answers.shape == (size, 3)
            assert torch.allclose(answers.sum(1), torch.ones(size))
            assert not hard or set(answers.flatten().tolist()) <= {0.0, 1.0}
        assert desk.counts.totals() == (sent, 0), "a batch that is refused is not begun"
        assert asked.left() == asks - sent
    assert len(watcher.stream()[1]) == sent


def test_labels_alone_are_refused_scores() -> None:
    _, _, asked, _ = theft(10, "labels")
    assert asked.hard
    with torch.no_grad():
        said = VICTIM(pictures(10, 3)).argmax(1)
    assert torch.equal(asked.ask(pictures(10, 3)).argmax(1), said)


@pytest.mark.parametrize("name", ["knockoff", "jbda", "cabage"])
@pytest.mark.parametrize("access", ["scores", "labels"])
def test_a_thief_spends_its_queries_to_the_last_and_says_so(
    name: str, access: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thief, "STEPS", 3)
    desk, watcher, asked, own = theft(90, access)
    few = {"knockoff": {"epochs": 1}, "jbda": {"seeds": 20, "epochs": 1}, "cabage": {"batch": 16, "width": 2}}[name]
    stolen = card_of("attack", name).function(asked, own, **few)
    assert desk.counts.totals() == (90, 0)
    assert [n for n, _ in stolen.clones] == [5, 11, 22, 45, 90] == list(own.marks)
    assert checked(stolen, 90, own, card_of("attack", name)) is stolen
    again = card_of("attack", name).function(theft(90, access)[2], own, **few)
    torch.manual_seed(99)
    for (_, one), (_, other) in zip(stolen.clones, again.clones, strict=True):
        assert torch.equal(one(pictures(5, 4)), other(pictures(5, 4)))
    assert watcher.seen == 90


def test_enough_noise_free_scores_of_a_linear_victim_give_its_weights_away() -> None:
    net = linear(0)
    _, _, asked, own = theft(1200, net=net)
    clone = own.learnt(x := own.pool.images(torch.arange(1200)), asked.ask(x), epochs=60, lr=2.0)
    assert agreement(clone, net) > 0.97
    # scores tell weights but for what softmax does not see: one number for all classes, added to each
    ours, theirs = (torch.cat([net[1].weight, net[1].bias[:, None]], 1) for net in (clone, net))
    apart = (ours - ours.mean(0)) - (theirs - theirs.mean(0))
    assert float(apart.norm() / (theirs - theirs.mean(0)).norm()) < 0.1


def test_fewer_queries_are_the_first_of_more_and_the_curve_rises() -> None:
    seen = []
    for asks in (100, 400):
        _, watcher, asked, own = theft(asks)
        card_of("attack", "knockoff").function(asked, own, epochs=1)
        seen.append(watcher.stream()[0])
    assert torch.equal(seen[0], seen[1][:100])
    _, _, asked, own = theft(1000)
    found = [agreement(net, VICTIM) for _, net in card_of("attack", "knockoff").function(asked, own, lr=0.5).clones]
    assert found[0] + 0.05 < found[-1]
    assert all(b > a - 0.03 for a, b in pairwise(found))


def test_of_no_queries_nothing_is_learnt() -> None:
    own = theft(10)[3]
    clone = own.learnt(POOL.images(torch.arange(0)), torch.zeros(0, 3))
    assert torch.equal(clone[1].weight, own.fresh(0)[1].weight)
    assert agreement(clone, VICTIM) < 0.6


def test_one_class_answered_is_the_labels() -> None:
    served = top_k(VICTIM, k=1)
    _, _, by_scores, own = theft(200, "scores", served)
    _, _, by_labels, _ = theft(200, "labels")
    x = own.pool.images(torch.arange(200))
    assert torch.allclose(by_scores.ask(x), by_labels.ask(x), atol=1e-6)


def test_rejected_queries_teach_nothing() -> None:
    class Rejecting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return VICTIM(x).masked_fill(x.mean((1, 2, 3))[:, None] > 0.5, torch.nan)

    for access in ("scores", "labels"):
        _, _, asked, _ = theft(40, access, Rejecting())
        x = pictures(40, 6)
        dark = x.mean((1, 2, 3)) > 0.5
        assert bool(dark.any())
        assert torch.allclose(asked.ask(x)[dark], torch.tensor(1 / 3))


def held_against(clone: nn.Module, stranger: nn.Module, n: int = 200) -> dict[str, Tensor]:
    """The judge's columns of one clone against the linear victim, whose own answers are the labels but for a tenth."""
    x = pictures(n, 11)
    with torch.no_grad():
        y = VICTIM(x).argmax(1)
    y[::10] = (y[::10] + 1) % 3
    split, system, rng = Split.of(x, y), System(VICTIM, SPACE), Rng.of(0, "judged", torch.arange(n))
    clean = unattacked(system, split, rng, width=64)
    return judged(system, Stolen(((7, clone),)), stranger, split, clean, Linf(0.05), rng, 64)


def test_the_victim_itself_agrees_always_and_what_breaks_it_breaks_it() -> None:
    found = held_against(VICTIM, linear(3))
    assert bool(found["agree"].all())
    assert bool(found["agree_at_7"].all())
    assert torch.equal(found["clone_ok"], found["clean_ok"])
    assert int(found["clean_ok"].sum()) == 180
    assert torch.equal(found["both_ok"], found["clean_ok"])
    # an attack that never stops short breaks whatever can be broken: of a linear network it is known what that is
    with torch.no_grad():
        z = VICTIM(pictures(200, 11))
    w = VICTIM[1].weight
    first = z.argmax(1)
    reach = 0.05 * (w[first][:, None] - w[None]).abs().sum(2)
    gap = z.gather(1, first[:, None]) - z
    # half of what the ball reaches: a pixel may be near 0 or 1
    able = ((gap < 0.5 * reach) & (gap > 0)).any(1) & found["both_ok"]
    assert bool(able.any())
    assert bool(found["transferred"][able].all())
    assert not bool(found["transferred"][~found["both_ok"]].any())


def test_a_stranger_agrees_less_and_its_attacks_go_over_less() -> None:
    found = held_against(VICTIM, linear(3))
    rate = lambda name, among: float(found[name][found[among]].float().mean())  # noqa: E731
    assert rate("stranger_agree", "answered") < 0.7
    assert rate("stranger_transferred", "stranger_both_ok") < rate("transferred", "both_ok")
    assert not _flags(found)


def test_a_clone_at_chance_has_a_flag_and_nothing_answered_has_one() -> None:
    found = held_against(linear(3), VICTIM)
    found["agree"] = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.33
    assert [flag.name for flag in _flags(found)] == ["clone_at_chance"]
    found["answered"] = torch.zeros(200, dtype=torch.bool)
    assert [flag.name for flag in _flags(found)] == ["nothing_answered"]
    assert {"clone_at_chance", "nothing_answered"} <= {n for c in CHECKS for n in c.flags}


@pytest.mark.parametrize("clones", [(), ((4, VICTIM), (4, VICTIM)), ((11, VICTIM),)])
def test_what_is_no_theft_is_refused(clones: tuple[tuple[int, nn.Module], ...]) -> None:
    with pytest.raises(BadValue, match="expected clones of rising queries, at most the 10 asked, from knockoff"):
        checked(Stolen(clones), 10, theft(10)[3], card_of("attack", "knockoff"))


def test_a_step_goes_up_the_logit_of_the_answer_and_stays_in_the_box() -> None:
    x, clone = pictures(30, 8), linear(5)
    answers = torch.eye(3)[torch.arange(30) % 3]
    more = moved(clone, x, answers, 0.1)
    at = torch.arange(30) % 3
    assert torch.allclose(more, (x + 0.1 * clone[1].weight[at].sign().view(-1, 1, 4, 4)).clamp(0, 1))


def test_generators_draw_pictures_and_the_hardest_are_taken_class_by_class() -> None:
    for space in (SPACE, InputSpace(3, 9, 10, 3)):
        x = cabage_file.Generator(space, 2)(torch.randn(6, cabage_file.LATENT))
        assert x.shape == (6, *space.shape)
        assert 0 <= float(x.detach().min()) <= float(x.detach().max()) <= 1
    clones = [linear(5, 4.0), linear(6, 4.0)]
    x = pictures(300, 12)
    kept = cabage_file.hardest(x, clones, 30)
    with torch.no_grad():
        classes = torch.stack([net(kept).softmax(1) for net in clones]).mean(0).argmax(1)
    assert classes.bincount(minlength=3).tolist() == [10, 10, 10]
    assert torch.equal((kept * 255).round() / 255, kept)


def test_what_was_hard_is_replayed_more_often() -> None:
    memory = cabage_file.Replay(theft(100)[3])
    memory.add(pictures(100, 13), torch.full((100, 3), 1 / 3))
    memory.hard[:] = 0.01
    memory.hard[:10] = 10.0
    drawn = torch.cat([memory.drawn(10, torch.Generator().manual_seed(i)) for i in range(20)])
    assert float((drawn < 10).float().mean()) > 0.9


def test_w_is_shapiro_and_wilk_s_of_what_is_left() -> None:
    from scipy.stats import shapiro

    d = torch.randn(300, generator=torch.Generator().manual_seed(0)).double().numpy() + 9
    classes = torch.zeros(300, dtype=torch.int64).numpy()
    kept = d[abs(d - d.mean()) <= 3 * d.std()]
    assert statistic(d, classes) == float(shapiro(kept).statistic)
    d[0] = 1e3
    assert statistic(d, classes) > 0.98, "one far query is dropped"
    assert math.isnan(statistic(d[:100], classes[:100]))
    classes[:291] = torch.arange(291).numpy() + 1  # of each but one class a single query
    assert math.isnan(statistic(d, classes))


def test_distances_to_a_growing_set_are_counted_by_hand() -> None:
    x = torch.tensor([0.0, 3.0, 3.0, 10.0, 4.0])[:, None, None, None]
    found = least_distances(x, torch.zeros(5, dtype=torch.int64))
    # 0 joins first; 3 is 3 away and joins (threshold 3 - 0); the next 3 is 0 away; 10 is 7 away and joins; 4 is 1 away
    assert math.isnan(found[0])
    assert found[1:].tolist() == [3, 0, 7, 1]


def test_steps_from_what_was_asked_raise_an_alarm_and_natural_pictures_do_not() -> None:
    test = digits().split("test")
    x, y = test.images(torch.arange(400)), test.y[:400]
    natural = watched(x, y)
    assert math.isnan(natural.after)
    assert natural.w > 0.95
    asked, generator = x[:50], torch.Generator().manual_seed(0)
    for _ in range(3):  # doubled round by round, as Jacobian-based augmentation does
        way = torch.randn(asked.shape, generator=generator).sign()
        asked = torch.cat([asked, (asked + 0.1 * way).clamp(0, 1)])
    alarm = watched(asked, y[:50].repeat(8))
    assert 110 <= alarm.after <= 400
    assert alarm.w < DELTA
    assert math.isnan(watched(x[:20], y[:20]).w)


def asked(**more: Any) -> dict[str, Any]:
    """A sweep of one victim that is trained for a moment, stolen for a moment."""
    threat = {"scenario": "extraction", "access": ["scores", "aux_data"], "budget": {"linf": 0.1, "queries_total": 60},
              "clone": "recipe:cnn_5_relu", "attacks": [{"knockoff": {"epochs": 1}}], **more}  # fmt: skip
    return {"name": "e", "models": ["recipe:cnn_3_relu?epochs=3"], "defenses": ["none"], "threats": {"t": threat},
            "data": [{"digits": {"first": 60}}]}  # fmt: skip


def test_a_sweep_plays_it_from_queries_to_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.engine.execute import Progress, execute, ordered
    from robustsuite.engine.store import Store

    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(thief, "STEPS", 20)
    cells = [(cell, decision) for cell, decision in plan(sweep_of(asked(), "a test")) if cell.threat is not None]
    execute(list(ordered(cells)), store := Store(tmp_path / "run"), Progress())
    record = read_cell(next(store.cells.glob("*/run.json")).parent)
    assert record.status == "done", record.sentence or record.traceback
    assert record.sentence.startswith("60 of 60 queries asked")
    assert record.cost.forwards == 60
    assert {"agree", "clone_ok", "clean_ok", "transferred", "stranger_transferred", "prada_w", "benign_after"} <= {
        column.name for column in record.columns
    }
    assert sorted(column.at or 0 for column in record.columns if column.series == "agree_at") == [3, 7, 15, 30, 60]
    assert record.threat is not None
    assert (record.threat.budget.queries_total, record.threat.budget.terms) == (60, {"clone": "recipe:cnn_5_relu"})


def decided(**changed: Any) -> str:
    """Why the sweep's cell cannot be played, '' where it can."""
    cell = next(cell for cell, _ in plan(sweep_of(asked(**changed), "a test")) if cell.threat is not None)
    found = decide(cell)
    return "" if found.status == "run" else f"{found.status}: {found.sentence}"


def test_a_plan_says_what_cannot_be_stolen() -> None:
    assert decided() == ""
    assert decided(access=["scores"]).startswith("refused: knockoff needs aux_data")
    assert decided(access=["labels", "aux_data"]) == ""
    assert decided(access=["scores"], attacks=["cabage"]) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"budget": {"linf": 0.1}}, "queries_total"), ({"budget": {"linf": 0.1, "queries": 5}}, "queries_total"),
        ({"budget": {"l0": 3, "queries_total": 5}}, "linf, l2, l1"), ({"goal": "targeted"}, "no goal"),
        ({"access": "aux_data"}, "labels or scores"), ({"pool": "x"}, "pool"),
    ],
)  # fmt: skip
def test_what_is_asked_is_checked(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(sweep_of(asked(**changed), "a test"))


def test_more_queries_are_another_cell_and_so_is_another_clone() -> None:
    def run_id(**changed: Any) -> str:
        return next(c.run_id for c, _ in plan(sweep_of(asked(**changed), "a test")) if c.threat is not None)

    several = [run_id(), run_id(clone="recipe:cnn_3_relu"), run_id(access=["labels", "aux_data"]),
               run_id(budget={"linf": 0.1, "queries_total": 61})]  # fmt: skip
    assert len(set(several)) == len(several)
    assert scenario.headline == "agreement"
    assert isinstance(theft(3)[2], Victim)
    assert Access.LABELS in card_of("attack", "cabage").needs


@pytest.mark.slow
def test_digits_are_stolen_with_pictures_and_without() -> None:
    data = digits()
    train, test = data.split("train"), data.split("test")
    net = fitted(build("cnn_3_relu", data.space), Training(train, train, 0), Recipe(20, half_cosine(0.1, 20)))
    x = test.images(torch.arange(500))
    with torch.no_grad():
        said = net(x).argmax(1)
    assert float((said == test.y).float().mean()) > 0.9
    for name, asks, few, least in (("knockoff", 800, {}, 0.85), ("cabage", 8000, {"width": 16}, 0.25)):
        desk = Desk(net, parse_access("scores"), Rng.of(0, "q", torch.arange(asks)), queries_total=asks)
        pool = train.at(torch.arange(800))
        own = Thief(fresh_from(build("cnn_5_relu", data.space), 7), pool, data.space, marks(asks), 7)
        clones = card_of("attack", name).function(victim(desk, Watcher(), 10), own, **few).clones
        with torch.no_grad():
            agree = [float((clone(x).argmax(1) == said).float().mean()) for _, clone in clones]
        assert agree[-1] > least
        assert agree[-1] > agree[0] + 0.1
        assert desk.counts.totals()[0] == asks
