"""Streams of the scenario adaptation: what is asked when, that nothing is asked again, and who is harmed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of, cards
from robustsuite.config.threats import Access
from robustsuite.engine.plan import decide, plan
from robustsuite.engine.runner import play
from robustsuite.engine.sweep import parse_sweep, sweep_of
from robustsuite.errors import AccessRefused, BadValue, Unsupported
from robustsuite.scenarios.adaptation.asked import ORDERS, AdaptationSpec, View
from robustsuite.scenarios.adaptation.played import standing
from robustsuite.scenarios.adaptation.streams import Stages, batches
from robustsuite.scenarios.context import Context
from robustsuite.serve.data import ShiftSet, Split, Variant
from robustsuite.serve.system import Session, System
from tests.streams import SPACE, N, cell, net, pictures, played

METHODS = {"bn_adapt": {}, "tent": {"lr": 0.05}, "cotta": {"views": 2, "lr": 0.05}, "sar": {"lr": 0.5, "limit": 1.0},
           "rotta": {"size": 8, "every": 8, "lr": 0.05}}  # fmt: skip


def same(a: dict[str, Tensor], b: dict[str, Tensor], rows: Tensor, others: Tensor) -> None:
    """Both say the same of these rows."""
    for name in ("right", "prediction"):
        assert torch.equal(a[name][rows], b[name][others])


@pytest.mark.parametrize("name", METHODS)
def test_episodic_is_each_corruption_played_alone_bit_for_bit(name: str) -> None:
    both = cell(name, METHODS[name], order="episodic")
    seen: list[Tensor] = []
    record = noted(both, seen)
    alone: list[Tensor] = []
    for corruption in ("contrast", "pixelate"):
        found: list[Tensor] = []
        single = noted(cell(name, METHODS[name], corruptions=(corruption,)), found)
        alone += found[:3]  # the stream's batches; then come the clean ones
        rows = torch.arange(N) + (N if corruption == "pixelate" else 0)
        same(record.columns, single.columns, rows, torch.arange(N))
    assert len(seen) == 6 + 3 + 3, "the stream, the clean pictures after it, and before"
    for a, b in zip(seen[:6], alone, strict=True):
        assert torch.equal(a, b)


def noted(one, logits: list[Tensor]):  # type: ignore[no-untyped-def]
    """The record of a cell, its sessions' answers put into the list."""
    answer = Session.answer

    def listening(self: Session, x: Tensor, rng):  # type: ignore[no-untyped-def]
        logits.append(answer(self, x, rng))
        return logits[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "answer", listening)
        return play(one, one.lifecycle.served())


def test_nothing_is_asked_again_and_every_batch_once() -> None:
    asked: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            logits: Tensor = self.net(x)
            return logits

    one = cell()
    system = System(Counting(), SPACE)
    record = play(one, system)
    assert sum(asked) == record.forwards == 2 * N + N + N, "the stream, clean after it, clean before"
    assert set(asked) == {8}


def test_order_changes_the_answers_of_what_adapts_and_of_nothing_else() -> None:
    for name, changes in (("none", False), ("bn_adapt", True)):
        first, other = (played(name, METHODS.get(name), order=order).columns for order in ("continual", "correlated"))
        assert torch.equal(first["prediction"], other["prediction"]) != changes
        assert not torch.equal(first["position"], other["position"])


@pytest.mark.parametrize("order", ["episodic", "continual", "gradual", "mixed", "correlated"])
def test_each_order_asks_every_picture_once(order: str) -> None:
    one = cell(order=order, severity=3)
    assert isinstance(one.subjects, Stages)
    stream, clean = batches(one.subjects, one.threat, 0)
    stages = len(one.subjects.variants) - 1
    assert stages == (10 if order == "gradual" else 2)
    rows = torch.cat([b.positions for b in stream])
    assert torch.equal(rows.sort().values, torch.arange(stages * N))
    assert torch.equal(
        torch.cat([b.positions for b in clean]).sort().values, torch.arange(stages * N, (stages + 1) * N)
    )
    assert [b.anew for b in stream] == [i == 0 or (order == "episodic" and i == 3) for i in range(len(stream))]
    member = one.subjects.member
    assert member is not None
    mixed = [len(member[b.positions].unique()) > 1 for b in stream]
    assert any(mixed) == (order == "mixed")
    if order == "correlated":
        y = one.split.y[torch.cat([b.positions for b in stream[:3]])]
        assert torch.equal(y, y.sort().values)
    if order == "gradual":
        levels = [v.severity for v in one.subjects.variants]
        assert levels == [1, 2, 3, 2, 1] * 2 + [None]
    other, _ = batches(one.subjects, one.threat, 1)
    assert not torch.equal(rows, torch.cat([b.positions for b in other])), "another seed is another order"


def test_a_dirichlet_stream_has_runs_of_a_class_and_all_pictures() -> None:
    def runs(**how: object) -> int:
        one = cell(n=200, corruptions=("contrast",), **how)
        stream, _ = batches(one.subjects, one.threat, 0)
        rows = torch.cat([b.positions for b in stream])
        assert torch.equal(rows.sort().values, torch.arange(200))
        return int((one.split.y[rows].diff() != 0).sum())

    sorted_, drawn, shuffled = runs(order="correlated"), runs(order="correlated", dirichlet=0.3), runs()
    assert sorted_ == 3 < drawn < shuffled / 3


def test_before_is_a_session_that_saw_nothing_else_and_a_fixed_system_loses_nothing() -> None:
    found = played("none").columns
    clean = found["clean"]
    assert torch.equal(found["right"][clean], found["before"][clean])
    adapted = played("tent", {"lr": 0.5}).columns
    alone = played("bn_adapt").columns
    first = adapted["position"] < 8
    assert torch.equal(adapted["prediction"][first], alone["prediction"][first]), "its first answer precedes any step"
    assert not torch.equal(adapted["prediction"], alone["prediction"])
    assert not torch.equal(adapted["right"][clean], adapted["before"][clean])


def test_a_session_leaves_the_system_as_it_was_to_the_last_byte() -> None:
    one = cell("tent", {"lr": 0.5})
    system = one.lifecycle.served()
    before = copy.deepcopy(system.net.state_dict())
    first = play(one, system)
    assert all(torch.equal(before[name], value) for name, value in system.net.state_dict().items())
    assert torch.equal(play(one, system).columns["prediction"], first.columns["prediction"])


INVADED = {"budget": {"linf": 0.2, "share": 0.25}, "access": "white_box"}


@pytest.mark.parametrize("sees", ["snapshot", "live"])
def test_malicious_pictures_harm_others_through_the_batch_alone(sees: str) -> None:
    for name, attack in (("none", "dia"), ("bn_adapt", "dia"), ("bn_adapt", "batch_noise")):
        found = played(name, attack=attack, sees=sees, n=40, **INVADED).columns
        assert int(found["malicious"].sum()) == 2 * 5 * 2, "a quarter of each batch of the stream"
        assert not bool((found["malicious"] & (found["counts"] | found["clean"])).any())
        counts = found["counts"]
        harm = int(found["right_without"][counts].sum()) - int(found["right"][counts].sum())
        assert (harm == 0) if name == "none" else harm > 0 if attack == "dia" else True


def test_an_attack_that_moves_others_or_leaves_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cell("bn_adapt", attack="batch_noise", **INVADED)
    mirrored = lambda x, own: torch.where(own[:, None, None, None], 1 - x, x)  # noqa: E731
    for moved, said in ((lambda x, own: x + 0.01, "others that moved"), (mirrored, "pictures outside")):
        bad = lambda view, x, y, own, ball, *, rng, moved=moved: moved(x, own)  # noqa: E731
        monkeypatch.setattr(Context, "attack", property(lambda self, bad=bad: bad))
        with pytest.raises(BadValue, match=said):
            play(one, one.lifecycle.served())


def test_gradients_are_for_those_who_were_granted_them() -> None:
    view = View(net(), Access.SCORES | Access.LABELS)
    assert view.logits(pictures(8)).shape == (8, 4)
    with pytest.raises(AccessRefused, match="asks for gradients"):
        view.gradient(pictures(8), lambda z: z.sum())
    one = cell("bn_adapt", attack="dia", budget=INVADED["budget"], access="scores")
    assert (decide(one).status, decide(one).code) == ("refused", "access")


def test_what_adapts_and_cannot_say_how_it_stands_is_unsupported() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :4]

    system = System(Silent(), SPACE, adapts=True)
    with pytest.raises(Unsupported, match="expected a system that says what it would answer"):
        standing(system, Session.of(system))
    assert standing(System(Silent(), SPACE), Session(Silent()))(pictures(2)).shape == (2, 4)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"dirichlet": 0.1}, "expected dirichlet with order: correlated"),
        ({"budget": {"linf": "8/255"}}, "expected a set and a share between 0 and 1"),
        ({"budget": {"share": 0.2}}, "expected a set and a share between 0 and 1"),
        ({"budget": {"linf": 0.1, "share": 0.2}}, "expected no budget in 't', whose attack is benign"),
        ({"attacks": ["dia"]}, "expected a set and a share as the budget of 't', got none"),
        ({"budget": {"spatial": 30, "share": 0.2}, "attacks": ["dia"]}, "expected a norm's ball"),
    ],
)  # fmt: skip
def test_a_threat_that_makes_no_sense_is_refused(spec: dict[str, object], said: str) -> None:
    with pytest.raises(BadValue, match=said):
        AdaptationSpec.model_validate({"scenario": "adaptation", **spec}).threat("t")


def test_a_severity_that_the_set_does_not_have_is_refused() -> None:
    with pytest.raises(
        BadValue, match=r"expected variants of imagenet_c at the severities of 't' \(up to 5, continual\)"
    ):
        cell(shift={"imagenet_c": {"corruptions": ["fog"], "severities": [1, 2]}})


def test_the_same_in_a_plan_with_the_stream_of_its_threat_and_not_of_the_sweep() -> None:
    base = {"name": "s", "models": ["recipe:lenet5"], "data": [{"scenes": {"test": 8, "train": 8, "val": 8}}],
            "defenses": ["none", "bn_adapt"], "stream": {"order": "shuffled", "batch": 3}}  # fmt: skip
    threats = {name: {"scenario": "adaptation", "batch": batch, "shift": {"imagenet_c": {"corruptions": ["fog"]}}}
               for name, batch in (("a", 4), ("b", 8))}  # fmt: skip
    cells = [c for c, _ in plan(sweep_of({**base, "threats": threats}, "t")) if c.threat]
    assert len({c.run_id for c in cells}) == 4
    streams = [c.subjects.stream and c.subjects.stream.batch for c in cells]
    assert sorted(map(str, streams)) == ["4", "8", "None", "None"], "the source does not depend on it"


def test_a_set_of_other_pictures_is_refused_and_one_of_more_is_cut_to_the_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(extra: int, offset: int) -> Callable[..., ShiftSet]:
        """The judged pictures under ids moved by `offset`, with so many more before them."""

        def shift(clean: Split, data: object, *, seed: int, **_: object) -> ShiftSet:
            x = torch.cat([torch.zeros(extra, 3, 16, 16), clean.images(torch.arange(len(clean)))])
            ids = torch.cat([torch.arange(1000, 1000 + extra), clean.ids + offset])
            return ShiftSet(
                "s", {Variant("same", 5): Split.of(x, torch.cat([torch.zeros(extra).long(), clean.y]), ids)}
            )

        return shift

    card = card_of("shift", "imagenet_c")
    monkeypatch.setitem(cards(), ("shift", "imagenet_c"), replace(card, function=made(5, 0)))
    one = cell("none", shift="imagenet_c")
    rows = torch.arange(N)
    assert torch.equal(one.split.images(rows), one.split.images(rows + N)), "the stream is the clean pictures here"
    assert torch.equal(one.split.y[:N], one.split.y[N:])
    monkeypatch.setitem(cards(), ("shift", "imagenet_c"), replace(card, function=made(5, 1)))
    with pytest.raises(BadValue, match="expected a shift set made from the judged pictures, got imagenet_c"):
        cell("none", shift="imagenet_c")


def test_the_sweep_of_the_documentation_reads() -> None:
    sweep = parse_sweep((files("robustsuite.benchmarks.sweeps") / "adaptation.yaml").read_text("utf-8"), "the sweep")
    threats = {name: spec.threat(name) for name, spec in sweep.threats.items()}
    assert {t.order for t in threats.values()} == set(ORDERS)  # type: ignore[attr-defined]
    assert threats["a fifth of each batch, live"].share == 0.2  # type: ignore[attr-defined]


def test_who_asks_for_nothing_holds_nothing_of_the_system_and_needs_none_that_says_how_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = cell("bn_adapt", attack="batch_noise", **INVADED)
    views: list[View] = []

    def keeping(view: View, x: Tensor, y: Tensor, own: Tensor, ball: object, *, rng: object) -> Tensor:
        views.append(view)
        return x

    monkeypatch.setattr(Context, "attack", property(lambda self: keeping))
    play(one, one.lifecycle.served())
    assert views
    with pytest.raises(AccessRefused):
        views[0].stands(pictures(8))
