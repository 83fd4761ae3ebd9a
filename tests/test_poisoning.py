"""The lifecycle under a poisoning adversary: what is trained on, what is counted, who is allowed how much."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.goals import ToClass
from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, PoisonRate, Threat
from robustsuite.engine.plan import decide
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import inversion, poisoning, unlearnable
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.adversary import Poisoned, Poisoner, changed, chosen, overlay
from robustsuite.serve.data import Dataset, Split, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training
from robustsuite.serve.training import Recipe, accuracy, fitted
from tests.toys import SPACE, linear, pictures, system

THREAT = Threat("bd", "poisoning", Access.TRAIN_SET, goal=ToClass(2), poison=PoisonRate(0.25), target=2)


def split(n: int = 40, seed: int = 3) -> Split:
    y = torch.arange(n) % 3
    return Split.of((pictures(n, seed) * 255).round().to(torch.uint8), y)


def stamp(x: Tensor, ids: Tensor, rng: Rng) -> Tensor:
    x = x.clone()
    x[:, :, -1, -1] = 1.0
    return x


def corner(train: Split, rate: PoisonRate, *, target: int, rng: Rng, extra: int = 0) -> Poisoned:
    """A white pixel in the corner."""
    rows = chosen(rng, (train.y != target).nonzero().flatten(), rate.most(len(train)) + extra)
    y = torch.full((len(rows),), target)
    return Poisoned(overlay(train, rows, stamp(train.images(rows), train.ids[rows], rng[rows]), y), rows, stamp)


def poisoner(**given: int) -> Poisoner:
    card = AttackCard("attack", "corner", corner, "poisoning", needs=Access.TRAIN_SET)
    return Poisoner(card, tuple(given.items()), THREAT)


def test_the_recorded_indices_are_the_changed_examples() -> None:
    train = split()
    found = poisoner()(train, 0, lambda: None)  # type: ignore[arg-type, return-value]
    assert torch.equal(changed(train, found.train).nonzero().flatten(), found.indices)
    assert len(found.indices) == 10
    assert bool((found.train.y[found.indices] == 2).all())
    assert torch.equal(found.train.images(found.indices)[:, 0, -1, -1], torch.ones(10))
    assert found.train.sha256 != train.sha256


def test_labels_that_are_moved_in_place_are_seen() -> None:
    def moves(train: Split, rate: PoisonRate, *, target: int, rng: Rng) -> Poisoned:
        """Says that it changed nothing."""
        train.y.fill_(target)
        return Poisoned(train, torch.zeros(0, dtype=torch.int64), stamp)

    train = split()
    with pytest.raises(BadValue, match="to name every example it changes, got 27 more"):
        replace(poisoner(), card=replace(poisoner().card, function=moves))(train, 0, lambda: None)  # type: ignore[arg-type, return-value]
    assert torch.equal(train.y, split().y)


def test_more_than_the_rate_allows_is_refused() -> None:
    with pytest.raises(BadValue, match="at most 10 poisoned examples from corner, got 11"):
        poisoner(extra=1)(split(), 0, lambda: None)  # type: ignore[arg-type, return-value]


def test_an_overlay_is_read_in_any_order_and_leaves_its_base_alone() -> None:
    train = split()
    rows = torch.tensor([7, 3])
    new = overlay(train, rows, torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]), torch.tensor([1, 2]))
    asked = torch.tensor([3, 0, 7, 3])
    x = new.images(asked)
    assert torch.equal(x.mean((1, 2, 3))[[0, 2, 3]], torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(x[1], train.images(torch.tensor([0]))[0])
    assert new.y[[7, 3]].tolist() == [1, 2]
    assert int(changed(train, train).sum()) == 0


def test_what_is_chosen_depends_on_the_example_alone() -> None:
    rng, all_rows = Rng.of(0, "p", torch.arange(50)), torch.arange(50)
    rows = chosen(rng, all_rows, 12)
    assert len(rows.unique()) == 12
    kept = all_rows[~torch.isin(all_rows, rows)][:20]
    assert torch.equal(chosen(rng, torch.cat([rows, kept]), 12), rows)
    with pytest.raises(BadValue, match="lower the rate"):
        chosen(rng, all_rows[:3], 4)


class Corner(nn.Module):
    """Answers class 2 wherever the corner is white, the linear toy elsewhere; rejects pictures darker than 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: Tensor) -> Tensor:
        z = torch.where(x[:, :, -1, -1] > 0.99, 100.0 * torch.eye(3)[2], self.net(x))
        return torch.where(x.mean((1, 2, 3))[:, None] < 0.3, torch.nan, z)


def test_success_is_counted_on_other_classes_and_never_on_what_is_rejected() -> None:
    x = pictures(30)
    x[:4] *= 0.2  # rejected
    y = torch.arange(30) % 3
    found = Poisoned(split(), torch.arange(4), stamp)
    served = system(Corner().eval(), under=linear())
    record = poisoning.judged(served, found, Split.of(x, y), THREAT, Rng.of(0, "t", y), width=7)
    c = record.columns
    assert torch.equal(c["eligible"], y != 2)
    assert torch.equal(c["triggered_as_target"], (y != 2) & ~c["flagged"])
    assert c["flagged"].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert not bool((c["clean_ok"] & c["flagged_clean"]).any())
    drop = (1 - x[:, 0, -1, -1]).square() / 16
    assert torch.allclose(c["psnr"], -10 * drop.log10(), atol=1e-3)
    only = poisoning.judged(served, found._replace(source=1), Split.of(x, y), THREAT, Rng.of(0, "t", y), width=7)
    assert torch.equal(only.columns["eligible"], y == 1)


def test_unlearnable_is_clean_accuracy() -> None:
    test = split()
    context = SimpleNamespace(served=lambda: system(linear()), split=test, rng=Rng.of(0, "t", test.ids), width=8)
    record = unlearnable.play(context)  # type: ignore[arg-type]
    with torch.no_grad():
        right = linear()(test.images(torch.arange(40))).argmax(1) == test.y
    assert torch.equal(record.columns["clean_ok"], right)


def cycle(fit: object) -> Lifecycle:
    data = Dataset("toy", SPACE, ("a", "b", "c"), {"train": split(), "val": split(12, 4), "test": split(12, 5)})
    return Lifecycle(Model("toy", linear(), SPACE, "0" * 64, fit), data, poison=poisoner())  # type: ignore[arg-type]


def test_the_victim_trains_on_the_poisoned_set_and_selects_on_a_clean_one(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    seen: list[Training] = []

    def fit(net: nn.Module, training: Training) -> nn.Module:
        seen.append(training)
        return net

    once = cycle(fit)
    once.trained()
    assert seen[0].train.sha256 == once.poisoned.train.sha256
    assert seen[0].val.sha256 == once.data.split("val").sha256
    cycle(fit).served()
    assert len(seen) == 1  # kept by content: another process, another defense at the serve stage


def test_a_pretrained_model_cannot_be_poisoned() -> None:
    from robustsuite.serve.models import as_it_is

    lifecycle = cycle(as_it_is)
    cell = Cell("s", lifecycle, Subjects(split(12, 5)), THREAT, poisoner().card)
    assert decide(cell).code == "recipe"


def test_yaml_names_rate_and_target() -> None:
    asked = {"scenario": "poisoning", "access": "train_set", "budget": {"poison_rate": 0.003}, "attacks": ["x"]}
    spec = poisoning.PoisoningSpec(**asked, target=1)
    threat = spec.threat("bd")
    assert threat.facts().budget.words() == "poison_rate(0.003)"
    assert str(threat.goal) == "to_class(1)"
    with pytest.raises(BadValue, match="above 0"):
        unlearnable.UnlearnableSpec(scenario="unlearnable", budget={"poison_rate": 0}, attacks=["x"]).threat("u")
    spec = inversion.InversionSpec(
        scenario="inversion", access=["weights", "update"], budget={"batch": 4, "mode": "train"}, attacks=["x"]
    )
    assert spec.threat("leak").facts().budget.words() == "update(batch=4, mode=train)"


def test_a_watched_training_tells_its_best_and_last_epoch(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    card = AttackCard("attack", "nothing", lambda train, rate, *, rng: Poisoned(train, torch.arange(1)), "unlearnable")
    threat = Threat("u", "unlearnable", Access.TRAIN_SET, poison=PoisonRate(0.1))

    def fit(net: nn.Module, training: Training) -> nn.Module:
        return fitted(net, training, Recipe(3, lambda epoch: 0.1, batch=8))

    for _ in range(2):  # the second time from the cache
        once = replace(cycle(fit), poison=Poisoner(card, (), threat), findings={})
        net = once.trained()
        seen = [row[1] for row in once.findings["epochs"]["table"]["rows"]]
        assert len(seen) == 3
        assert seen[-1] == accuracy(net, once.data.split("val"))
    assert f"{max(seen):.1%} at best" in unlearnable.told(once.poisoned, seen)
    assert replace(cycle(fit)).findings == {}
