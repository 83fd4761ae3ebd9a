"""The ensemble against the exact answer of linear networks, and the rule of its audits."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion import composition
from robustsuite.attacks.evasion.composition import ensemble
from robustsuite.config.registry import card_of
from robustsuite.config.threats import L1, L2, Access, Ball, Linf
from robustsuite.errors import BadValue
from robustsuite.maths import losses, projections
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle

N = 40


def linear_net(classes: int = 10, seed: int = 0) -> nn.Module:
    """Random weights; all logits are 0 at mid-grey, so that boundaries are near and no wall of the box binds."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, classes))
    weight = Rng.of(seed, "weights", torch.arange(classes)).uniform(3 * 6 * 6, low=-1, high=1)
    net.load_state_dict({"1.weight": weight, "1.bias": -weight.sum(1) / 2})
    return ready(net)


def pictures(net: nn.Module, n: int = N) -> tuple[Tensor, Tensor]:
    """Away from the box's walls, so that the ball alone binds; labels are the net's own."""
    x = Rng.of(0, "pictures", torch.arange(n)).uniform(3, 6, 6, low=0.4, high=0.6)
    return x, net(x).argmax(1)


def oracle(net: nn.Module, n: int, **limits: object) -> Oracle:
    return Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", torch.arange(n)), **limits)


def played(net: nn.Module, budget: Ball, n: int = N, **given: object) -> tuple[Found, Oracle]:
    x, y = pictures(net, n)
    model = oracle(net, n)
    return ensemble(model, x, y, budget, rng=Rng.of(0, "ensemble", torch.arange(n)), **given), model


def radius(net: nn.Module, norm: str) -> Tensor:
    """Distance (N,) to the nearest other class of a linear net: min_j (z_y - z_j) / ||w_y - w_j|| in the dual norm."""
    x, y = pictures(net)
    w, z = net[1].weight, net(x)
    dual = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]
    apart = (w[y][:, None] - w[None]).flatten(0, 1)
    length = projections.norm(apart, dual).view(len(x), -1)
    gap = losses.own(z, y)[:, None] - z
    return torch.where(torch.arange(z.shape[1]) == y[:, None], torch.inf, gap / length).amin(1)


@pytest.mark.parametrize("ball", [Linf, L2, L1])
@pytest.mark.parametrize("classes", [10, 3])
def test_exact_on_linear_networks(ball: type, classes: int) -> None:
    net = linear_net(classes)
    distance = radius(net, ball.norm)
    budget = ball(float(distance.median()))
    found, _ = played(net, budget, steps=40, queries=20)
    away = (distance - budget.eps).abs() > 0.01 * budget.eps
    assert int(away.sum()) > N // 2
    assert torch.equal(found.columns["claimed"][away], (distance < budget.eps)[away])


@pytest.mark.parametrize("ball", [Linf, L2, L1])
def test_claims_are_breaks_inside_the_budget_and_stages_shrink(ball: type) -> None:
    net = linear_net()
    x, y = pictures(net)
    budget = ball(float(radius(net, ball.norm).median()))
    found, _ = played(net, budget, steps=20, queries=30)
    assert budget.allows(x, found.x_adv).all()
    claimed = found.columns["claimed"]
    assert 0 < int(claimed.sum()) < N
    assert torch.equal(claimed, losses.margin(net(found.x_adv), y) > losses.CONFIDENCE_MARGIN)
    stages = [column for name, column in found.columns.items() if name.startswith("after_")]
    for before, after in pairwise(stages):
        assert not (after & ~before).any()
    assert torch.equal(stages[-1], ~claimed)


def fake_audit(breaks: set[int]) -> tuple[composition.Audit, list[Tensor]]:
    """An audit that breaks these examples (told by their first pixel) and writes down whom it was given."""
    net = linear_net()
    x, _ = pictures(net)
    calls: list[Tensor] = []

    def audit(
        model: Oracle, xs: Tensor, ys: Tensor, target: Tensor | None, budget: Ball, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        rows = (xs.flatten(1)[:, None] == x.flatten(1)[None]).all(2).to(torch.int8).argmax(1)
        calls.append(rows)
        return xs, torch.tensor([int(row) in breaks for row in rows])

    return audit, calls


def test_an_audit_stops_at_its_sample_where_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    audit, calls = fake_audit(set())
    monkeypatch.setattr(composition, "_audits", lambda *_: {"fake": audit})
    found, _ = played(linear_net(), Linf(1e-6), steps=2)
    assert [len(rows) for rows in calls] == [composition.enough(N)]
    assert set(found.columns["audited"].nonzero().flatten().tolist()) == set(calls[0].tolist())
    assert not found.columns["claimed"].any()


def test_one_break_in_the_sample_sends_the_audit_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    audit, calls = fake_audit(set(range(0, N, 2)))
    monkeypatch.setattr(composition, "_audits", lambda *_: {"fake": audit})
    found, _ = played(linear_net(), Linf(1e-6), steps=2)
    sample, everybody = calls
    assert len(sample) == composition.enough(N)
    assert set(everybody.tolist()) == set(range(N)) - {row for row in sample.tolist() if row % 2 == 0}
    assert found.columns["audited"].all()
    assert torch.equal(found.columns["claimed"], torch.arange(N) % 2 == 0)


@pytest.mark.parametrize("standing", [1, 2, 7, 40, 1000])
def test_an_audit_that_finds_nothing_says_with_which_probability(standing: int) -> None:
    """At most one sample in twenty holds none of a weak quarter; one fewer would hold none too often."""
    k, weak = composition.enough(standing), -(-standing // 4)
    missed = [math.prod((standing - weak - i) / (standing - i) for i in range(n)) for n in (k - 1, k)]
    assert missed[1] <= 0.05 < missed[0]
    rng = Rng.of(0, "sample", torch.arange(standing))
    rows = composition._sample(torch.ones(standing, dtype=torch.bool), rng)
    assert len(set(rows.tolist())) == len(rows) == k
    assert composition.enough(0) == 0


def test_order_and_width_change_nothing() -> None:
    net = linear_net()
    budget = Linf(float(radius(net, "linf").median()))
    x, y = pictures(net)
    streams, asked = Rng.of(0, "ensemble", torch.arange(N)), Rng.of(0, "oracle", torch.arange(N))
    turned = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    found = []
    for rows, width in ((torch.arange(N), 256), (turned, 16)):
        model = Oracle.over(net, Access.WHITE_BOX, asked[rows], width=width)
        found.append(ensemble(model, x[rows], y[rows], budget, rng=streams[rows], steps=15, queries=20))
    straight, other = found
    assert torch.equal(straight.x_adv[turned], other.x_adv)
    for name, column in straight.columns.items():
        assert torch.equal(column[turned], other.columns[name])


def test_no_more_than_the_card_s_cost_which_is_that_of_long_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    audits = composition._audits

    def misled(steps: int, n_targets: int, queries: int, budget: Ball) -> dict[str, composition.Audit]:
        """The audits, and the first sample's first falls, so that the long ones follow."""

        def one_falls(audit: composition.Audit) -> composition.Audit:
            def tried(model: Oracle, x: Tensor, *others: object) -> tuple[Tensor, Tensor]:
                x_adv, broken = audit(model, x, *others)
                return x_adv, broken | (torch.arange(len(x)) == 0) & (len(x) == composition.enough(N))

            return tried

        return {name: one_falls(audit) for name, audit in audits(steps, n_targets, queries, budget).items()}

    cost = card_of("attack", "ensemble").priced(10, steps=10, queries=30)
    _, model = played(linear_net(), Linf(1e-6), steps=10, queries=30)
    short = model.counts.totals()
    monkeypatch.setattr(composition, "_audits", misled)
    _, model = played(linear_net(), Linf(1e-6), steps=10, queries=30)
    long = model.counts.totals()
    assert 3 * short[1] < long[1] <= N * cost.backwards <= 1.5 * long[1]
    assert 2 * short[0] < long[0] <= N * cost.forwards <= 1.5 * long[0]


def test_nobody_and_bad_values() -> None:
    found, _ = played(linear_net(), Linf(0.01), n=0)
    assert found.x_adv.shape == (0, 3, 6, 6)
    assert all(len(column) == 0 for column in found.columns.values())
    with pytest.raises(BadValue, match="queries >= 1"):
        played(linear_net(), Linf(0.01), queries=0)
