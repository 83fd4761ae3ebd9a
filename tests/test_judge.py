"""The judge reads the served model alone: ties are no break, lies are overturned, rounding is settled in float64."""

import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.judge import REPEATS, Judge
from robustsuite.serve.oracle import Oracle
from tests.toys import labelled, linear, pictures, system

THREAT = Threat("t", "evasion", Access.WHITE_BOX, Linf(0.1))
CARD = AttackCard("attack", "toy", lambda: None, "evasion", needs=Access.SCORES)


def rng(n: int) -> Rng:
    return Rng.of(0, "judge", torch.arange(n))


class Fixed(nn.Module):
    """Answers these logits, in the precision it is asked in."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[x[:, 0, 0, 0].long()].to(x.dtype)


def test_ties_and_margins_within_rounding() -> None:
    net = Fixed([[1.0, 1.0], [1.0, 1.0 + 1e-9], [1.0 + 1e-9, 1.0], [1.0, 2.0], [2.0, 1.0]])
    net.rows.data = net.rows.data.double()
    judge = Judge(net, stochastic=False)
    x = torch.arange(5.0).view(5, 1, 1, 1)
    found = judge(x, torch.zeros(5, dtype=torch.int64), rng(5))
    assert found.wrong.tolist() == [False, True, False, True, False]
    assert found.rechecked.tolist() == [True, True, True, False, False]


def test_nan_rows_of_what_may_reject_are_rejections_not_breaks() -> None:
    judge = Judge(Fixed([[float("nan")] * 2]), stochastic=False, under=Fixed([[1.0, 2.0]]))
    found = judge(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), rng(1))
    assert not bool(found.undefined)
    assert found.rejected.tolist() == [True]
    assert found.wrong.tolist() == [False]


class Coin(nn.Module):
    rng: Rng | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.rng is not None
        return torch.stack([torch.full((len(x),), 0.7), self.rng.uniform()], 1)


def test_a_random_system_is_asked_again_and_the_share_kept() -> None:
    found = Judge(Coin(), stochastic=True)(torch.zeros(400, 1, 1, 1), torch.zeros(400, dtype=torch.int64), rng(400))
    assert abs(float(found.share.mean()) - 0.3) < 4 * (0.21 / (400 * REPEATS)) ** 0.5
    assert torch.equal(found.wrong, found.share >= 0.5)


def play(attack: object, threat: Threat = THREAT, **facts: object) -> evasion.Record:
    net = linear()
    split = labelled(net)
    return evasion.judged(system(net), attack, split, threat, rng(len(split)), width=8, card=CARD, **facts)


def nearest_wrong(x: Tensor, y: Tensor, length: float) -> Tensor:
    """Step straight over the linear boundary, `length` in linf."""
    w = linear()[1].weight
    other = (y + 1) % 3
    return x + length * (w[other] - w[y]).sign().view_as(x)


def test_an_attack_that_does_nothing_breaks_nothing() -> None:
    columns = play(lambda model, x, y, budget, *, rng: x).columns
    assert torch.equal(columns["robust"], columns["clean_ok"])
    assert int(columns["clean_ok"].sum()) == 20


def test_over_budget_out_of_box_and_nan_do_not_count() -> None:
    def cheat(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
        x_adv = nearest_wrong(x, y, 5.0)  # far outside ball and box
        x_adv[0] = float("nan")
        x_adv[1] = nearest_wrong(x, y, 0.15)[1].clamp(0, 1)  # outside the ball alone
        return x_adv

    record = play(cheat)
    assert torch.equal(record.columns["robust"], record.columns["clean_ok"])
    assert [f.name for f in record.flags] == ["over_budget"]


def test_an_honest_break_counts_and_misclassified_stay_in_the_denominator() -> None:
    columns = play(lambda model, x, y, budget, *, rng: nearest_wrong(x, y, 0.1)).columns
    with torch.no_grad():
        net, split = linear(), labelled(linear())
        x = split.images(torch.arange(24))
        really = net(nearest_wrong(x, split.y, 0.1)).argmax(1) != split.y
    assert torch.equal(columns["robust"], columns["clean_ok"] & ~really)
    assert 0 < int(columns["robust"].sum()) < 20
    assert bool(columns["fooled"][-4:].all())
    assert columns["distance"][-4:].tolist() == [0.0] * 4


def test_a_claim_the_judge_does_not_share_is_its_own_column() -> None:
    def boast(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Found:
        return Found(x, {"claimed": torch.ones(len(x), dtype=torch.bool)})

    record = play(boast)
    assert int(record.columns["overturned"].sum()) == 20
    assert "claims 20 more" in record.note


def test_an_attack_sees_only_what_is_classified_correctly_and_cannot_change_its_input() -> None:
    seen = []

    def vandal(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
        seen.append(len(x))
        x.fill_(0.0)
        return x

    play(vandal)
    assert seen == [20]


def test_float64_pictures_are_judged_as_the_float32_they_are_served_as() -> None:
    assert pictures(3).dtype == torch.float32
    columns = play(lambda model, x, y, budget, *, rng: nearest_wrong(x, y, 0.1).double()).columns
    assert bool(columns["in_budget"].all())


def test_behind_a_stand_in_an_attack_does_not_stop_at_the_first_break_of_the_stand_in() -> None:
    """The served net is the surrogate with a handicap: barely breaking the surrogate does not break it."""
    from robustsuite.attacks.evasion.pgd import pgd

    base = linear()

    class Handicapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nearest = (x.detach()[:, None] - pictures(24)[None]).flatten(2).square().sum(2).argmin(1)
            return base(x) + 0.6 * torch.nn.functional.one_hot(base(pictures(24)).argmax(1)[nearest], 3)

    split = labelled(base)
    served = system(Handicapped(), hides=Access.GRADIENTS, surrogate=base)
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(0.15))
    record = evasion.judged(served, pgd, split, threat, rng(24), width=8, card=pgd.card)
    x = split.images(torch.arange(24))
    w = base[1].weight.detach()
    reachable = torch.zeros(24, dtype=torch.bool)
    for step in range(1, 3):  # a linear net: the corner that favours a class is the best one can do for it
        other = (split.y + step) % 3
        corner = x + 0.15 * (w[other] - w[split.y]).sign().view_as(x)
        with torch.no_grad():
            reachable |= Handicapped()(corner).argmax(1) != split.y
    assert torch.equal(record.columns["robust"], record.columns["clean_ok"] & ~reachable)
    assert "surrogate" in record.note
