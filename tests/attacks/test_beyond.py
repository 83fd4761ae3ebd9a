"""Attacks in sets beyond a norm's ball: a grid against brute force, what is judged, what stays in its region."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.beyond.adversarial_patch import adversarial_patch
from robustsuite.attacks.evasion.beyond.grid import grid
from robustsuite.attacks.evasion.beyond.region_pgd import region_pgd
from robustsuite.attacks.evasion.beyond.transform_pgd import transform_pgd
from robustsuite.attacks.evasion.beyond.universal import universal
from robustsuite.attacks.evasion.beyond.worst_of import worst_of
from robustsuite.config.registry import AttackCard
from robustsuite.config.sets import RENDERED, parse_set
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.config.transforms import Spatial
from robustsuite.errors import BadValue
from robustsuite.integrity.witness import searched
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Aux, Found
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.oracle import Oracle
from tests.toys import labelled, linear, system

CARD = AttackCard("attack", "toy", lambda: None, "evasion", needs=Access.SCORES, norms=("spatial",))
NET = linear()
SPLIT = labelled(NET, wrong=0)
X, Y = SPLIT.images(torch.arange(24)), SPLIT.y
RNG = Rng.of(0, "beyond", torch.arange(24))


def played(attack: Any, budget: Any, *, rng: Rng = RNG, net: nn.Module = NET, **given: Any) -> Any:
    model = Oracle.over(net, Access.WHITE_BOX, rng.fold("oracle"), width=16)
    return attack(model, X.clone(), Y.clone(), budget, rng=rng, **given)


def judged(attack: Any, budget: Any) -> evasion.Record:
    threat = Threat("t", "evasion", Access.WHITE_BOX, budget)
    return evasion.judged(system(NET), attack, SPLIT, threat, RNG, width=8, card=CARD)


def wrong(x: Tensor) -> Tensor:
    with torch.no_grad():
        return NET(x).argmax(1) != Y


@pytest.mark.parametrize(("angles", "shifts"), [(5, 3), (7, 1), (1, 5)])
def test_a_grid_breaks_what_brute_force_does(angles: int, shifts: int) -> None:
    budget = Spatial(18.0)
    shift = 18 / 300
    fell = torch.zeros(24, dtype=torch.bool)
    for angle in torch.linspace(-18, 18, angles) if angles > 1 else [torch.tensor(0.0)]:
        for down in torch.linspace(-shift, shift, shifts) if shifts > 1 else [torch.tensor(0.0)]:
            for right in torch.linspace(-shift, shift, shifts) if shifts > 1 else [torch.tensor(0.0)]:
                fell |= wrong(budget.apply(X, torch.stack([angle, down, right]).expand(24, 3)))
    found = played(grid, budget, angles=angles, shifts=shifts)
    assert torch.equal(found.columns["claimed"], fell)
    assert torch.equal(wrong(found.x_adv), fell)
    assert 0 < int(fell.sum()) < 24
    assert torch.equal(budget.apply(X, found.theta), found.x_adv)


def test_a_grid_asks_about_every_point_of_what_stands() -> None:
    model = Oracle.over(NET, Access.LABELS, RNG.fold("oracle"), width=16)
    found = grid(model, X, Y, Spatial(1.0), rng=RNG, angles=3, shifts=3)
    assert model.counts.forwards[~found.columns["claimed"]].unique().tolist() == [27]


@pytest.mark.parametrize("name", RENDERED)
def test_steps_along_the_gradient_break_what_random_members_leave(name: str) -> None:
    eps = {"spatial": 20, "flow": 0.6, "elastic": 1, "colour": 0.05, "fog": 0.2, "snow": 0.3, "jpeg": 0.3}[name]
    strong = played(transform_pgd, parse_set(name, eps), steps=20, restarts=2, loss="margin")
    weak = played(worst_of, parse_set(name, eps), draws=3)
    assert int(wrong(strong.x_adv).sum()) >= int(wrong(weak.x_adv).sum())
    assert int(wrong(strong.x_adv).sum()) > 0


def test_a_targeted_one_reaches_its_class() -> None:
    targets = ((Y + 1) % 3)[:, None]
    found = played(transform_pgd, parse_set("colour", 0.4), targets=targets, steps=20)
    with torch.no_grad():
        there = NET(found.x_adv).argmax(1) == targets[:, 0]
    assert torch.equal(there, found.columns["claimed"])
    assert int(there.sum()) > 12


def test_the_judge_renders_itself_and_listens_to_theta_alone() -> None:
    budget = Spatial(30.0)
    honest = played(grid, budget, angles=5, shifts=3)

    def boasts(model: Oracle, x: Tensor, y: Tensor, budget: Spatial, *, rng: Rng) -> Found:
        return Found(torch.rand_like(x), {}, budget.identity(x))  # pictures that are no rendering at all

    def tells(model: Oracle, x: Tensor, y: Tensor, budget: Spatial, *, rng: Rng) -> Found:
        return Found(x, {}, honest.theta.clone().requires_grad_())  # as an optimiser leaves it

    assert bool(judged(boasts, budget).columns["robust"].all())
    columns = judged(tells, budget).columns
    assert torch.equal(~columns["robust"], wrong(honest.x_adv))
    torch.testing.assert_close(columns["distance"], budget.size(honest.theta))


def test_a_theta_outside_the_set_breaks_nothing_and_is_said() -> None:
    def far(model: Oracle, x: Tensor, y: Tensor, budget: Spatial, *, rng: Rng) -> Found:
        return Found(x, {}, torch.tensor([180.0, 0, 0]).expand(len(x), 3))

    assert bool(wrong(Spatial(180.0).apply(X, torch.tensor([180.0, 0, 0]).expand(24, 3))).any())
    record = judged(far, Spatial(30.0))
    assert bool(record.columns["robust"].all())
    assert not bool(record.columns["in_budget"].any())
    assert record.columns["distance"].unique().tolist() == [180.0]
    assert [flag.name for flag in record.flags] == ["over_budget"]


def test_an_attack_that_says_nothing_of_theta_fails_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"expected Found.*theta.* from toy in spatial"):
        judged(lambda model, x, y, budget, *, rng: x, Spatial(30.0))


def test_random_members_are_asked_about_beside_what_an_attack_left() -> None:
    budget, judge = Spatial(60.0), Judge(NET, stochastic=False)
    rows, draws = torch.arange(24), torch.full((24,), 20)
    found = searched(judge, X, Y, rows, RNG, budget, draws)
    assert bool(found.any())
    assert not bool(searched(judge, X, Y, rows, RNG, Spatial(0.0), draws).any())


@pytest.mark.parametrize(("name", "eps"), [("patch", 0.26), ("frame", 1)])
def test_what_a_region_holds_breaks_and_nothing_else_is_touched(name: str, eps: float) -> None:
    budget: Any = parse_set(name, eps)
    found = played(region_pgd, budget, steps=20, restarts=3)
    assert bool(budget.allows(X, found.x_adv).all())
    assert torch.equal(wrong(found.x_adv), found.columns["claimed"])
    assert int(found.columns["claimed"].sum()) > int(wrong(played(worst_of, budget, draws=3).x_adv).sum())


def test_the_first_square_lies_where_the_loss_reacts_most() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, 0, 2:, 2:].flatten(1).sum(1, keepdim=True) - 1, 0 * x[:, :1, 0, 0]], 1)

    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    model = Oracle.over(Corner(), Access.WHITE_BOX, Rng.of(0, "corner", torch.arange(8)))
    budget: Any = parse_set("patch", 0.25)
    found = region_pgd(model, x, y, budget, rng=Rng.of(0, "corner", torch.arange(8)), steps=20, restarts=1)
    assert bool(found.columns["claimed"].all())
    assert bool((found.x_adv != x)[:, :, 2:, 2:].any())
    assert not bool((found.x_adv != x)[:, :, :2].any())


def owned() -> Aux:
    other = labelled(NET, n=32, wrong=0)
    return Aux(Split.of(other.images(torch.arange(32)).flip(0), other.y.flip(0)), lambda spec: NET)


@pytest.mark.parametrize(("name", "eps"), [("linf", 0.1), ("l2", 0.4)])
def test_one_change_for_all_pictures(name: str, eps: float) -> None:
    budget: Any = parse_set(name, eps)
    x_adv = played(universal, budget, aux=owned(), steps=30, batch=16)
    assert bool(budget.allows(X, x_adv).all())
    changes = (x_adv - X)[(x_adv > 0).flatten(1).all(1) & (x_adv < 1).flatten(1).all(1)]
    torch.testing.assert_close(changes, changes[:1].expand_as(changes), atol=1e-6, rtol=0)
    noisy = int(wrong((X + (changes[:1].abs() * (RNG.uniform(1, 4, 4) - 0.5).sign())).clamp(0, 1)).sum())
    assert int(wrong(x_adv).sum()) > noisy, "more than the same sizes with signs at random"


def test_one_patch_for_all_pictures_beats_a_grey_one() -> None:
    budget: Any = parse_set("patch", 0.6)
    x_adv = played(adversarial_patch, budget, aux=owned(), steps=40, batch=16)
    assert bool(budget.allows(X, x_adv).all())
    grey = torch.where(x_adv != X, 0.5, X)
    assert int(wrong(x_adv).sum()) > int(wrong(grey).sum())


def test_a_learnt_change_is_the_same_whatever_is_attacked() -> None:
    few = torch.tensor([3, 7])
    every = played(universal, Linf(0.1), aux=owned(), steps=5, batch=8)
    model = Oracle.over(NET, Access.WHITE_BOX, RNG[few].fold("oracle"), width=16)
    some = universal(model, X[few], Y[few], Linf(0.1), rng=RNG[few], aux=owned(), steps=5, batch=8)
    assert torch.equal(every[few], some)
    assert model.counts.totals() == (40, 40)


@pytest.mark.parametrize(
    ("attack", "budget", "given"),
    [
        (grid, Spatial(1.0), {"angles": 0}), (worst_of, Spatial(1.0), {"draws": 0}),
        (transform_pgd, Spatial(1.0), {"steps": 0}), (region_pgd, parse_set("frame", 1), {"rel_step": 0.0}),
        (partial(universal, aux=owned()), Linf(0.1), {"batch": 0}),
    ],
)  # fmt: skip
def test_bad_values_are_refused(attack: Any, budget: Any, given: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        played(attack, budget, **given)
