"""Target halving: what it asks, whom it goes on with, and from where."""

import torch
from torch import Tensor, nn

from robustsuite.config.threats import L1, L2, Access, Ball, Linf
from robustsuite.maths import losses
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.apgd import ascend
from robustsuite.methods.evasion.halving import Halved, halve
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle
from tests.attacks.test_composition import linear_net, oracle, pictures, radius

N = 24
STAGES = [(4, 3), (2, 6), (1, 12)]


def wrong_classes(net: nn.Module, x: Tensor, y: Tensor, count: int = 4) -> Tensor:
    """The likeliest wrong classes (N, count)."""
    return net(x).scatter(1, y[:, None], -torch.inf).topk(count, 1).indices


def played(net: nn.Module, budget: Ball, model: Oracle, rows: Tensor | None = None) -> Halved:
    x, y = pictures(net, N)
    rows = torch.arange(N) if rows is None else rows
    goals = wrong_classes(net, x, y)[rows]
    return halve(model, x[rows], y[rows], budget, rng=Rng.of(0, "h", torch.arange(N))[rows], stages=STAGES,
                 objective=losses.targeted_dlr, goals=goals)  # fmt: skip


def test_who_stands_is_asked_once_a_point_of_each_stage() -> None:
    net = linear_net()
    model = oracle(net, N)
    broken = played(net, Linf(1e-6), model).broken
    assert not broken.any()
    assert model.counts.backwards.tolist() == [sum(count * (steps + 1) for count, steps in STAGES)] * N


def test_a_broken_image_is_asked_no_more() -> None:
    net = linear_net()
    model = oracle(net, N)
    broken = played(net, Linf(0.4), model).broken
    assert broken.all()
    assert int(model.counts.backwards.max()) <= STAGES[0][1] + 1


class Bent(nn.Module):
    """Class 1 seems nearest at the clean picture and never wins inside the ball; class 2 does, at its edge."""

    def forward(self, x: Tensor) -> Tensor:
        v = x.flatten(1)[:, 0] - 0.5
        z = torch.stack([torch.ones_like(v), 0.9 - v.square(), 0.5 + 6 * v, 0.2 * v, 0.1 * v], 1)
        return torch.cat([z, z.new_full((len(z), 1), -3.0)], 1)


def test_the_class_that_comes_nearest_is_gone_on_with_not_the_likeliest() -> None:
    net = ready(Bent())
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    model = oracle(net, 4)
    goals = wrong_classes(net, x, y)
    assert goals[0].tolist()[:2] == [1, 2]
    aimed_at: list[Tensor] = []

    def gap(z: Tensor, label: Tensor, goal: Tensor) -> Tensor:
        aimed_at.append(goal)
        return losses.own(z, goal) - losses.own(z, label)

    found = halve(model, x, y, Linf(0.08), rng=Rng.of(0, "h", torch.arange(4)), stages=[(4, 1), (1, 3)], objective=gap,
                  goals=goals)  # fmt: skip
    assert not found.broken.any()  # 0.5 + 6 * 0.08 < 1
    assert all((goal == 2).all() for goal in aimed_at[-4:])
    assert torch.allclose(found.x_adv[:, 0, 0, 0], torch.tensor(0.58))  # the edge toward class 2
    assert torch.allclose(found.loss, torch.tensor(-0.02), atol=1e-6)
    assert found.goals[:, 0].tolist() == [2] * 4


def test_neither_width_nor_order_changes_a_bit() -> None:
    net = linear_net()
    for ball in (Linf, L2, L1):
        budget = ball(float(radius(net, ball.norm).median()))
        straight = played(net, budget, oracle(net, N))
        turned = torch.randperm(N, generator=torch.Generator().manual_seed(1))
        model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", torch.arange(N))[turned], width=16)
        other = played(net, budget, model, turned)
        assert 0 < int(straight[1].sum()) < N
        assert torch.equal(straight[0][turned], other[0])
        assert torch.equal(straight[1][turned], other[1])


def test_it_looks_less_often_and_finds_the_same() -> None:
    net = linear_net()
    for ball in (Linf, L1):
        budget = ball(float(radius(net, ball.norm).median()))
        often, seldom = (
            played(net, budget, Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", torch.arange(N)), look=look))
            for look in (1, 4)
        )
        assert torch.equal(often[0], seldom[0])
        assert torch.equal(often[1], seldom[1])


def test_on_a_linear_network_it_breaks_what_a_hundred_steps_break() -> None:
    net = linear_net()
    x, y = pictures(net, N)
    for ball in (Linf, L2, L1):
        budget = ball(float(radius(net, ball.norm).median()) * 1.02)
        rng, goals = Rng.of(0, "a", torch.arange(N)), wrong_classes(net, x, y)
        _, long = ascend(oracle(net, N), x, y, budget, rng=rng, steps=100, objective=losses.targeted_dlr, goals=goals)
        found = played(net, budget, oracle(net, N))
        assert torch.equal(found.broken, long)
        assert budget.allows(x, found.x_adv).all()
