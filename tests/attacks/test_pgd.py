"""PGD against closed forms; what leaves early, what cycles, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.config.threats import Access, parse_ball
from robustsuite.errors import AccessRefused, BadValue, UnknownName
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import centre, distance, linear, oracle, streams


@pytest.mark.parametrize("given", [{}, {"n_targets": 4}, {"loss": "margin"}, {"loss": "dlr"}, {"loss": "pma"}])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_breaks_a_linear_model_just_beyond_its_distance(norm: str, given: dict[str, Any]) -> None:
    net, (x, y) = linear(), centre(2)
    for factor, breaks in ((0.98, False), (1.02, True)):
        found = pgd(
            oracle(net, 2), x, y, parse_ball(norm, factor * distance(net, norm)), rng=streams(2), steps=100, **given
        )
        assert found.columns["claimed"].tolist() == [breaks] * 2
        assert (net(found.x_adv).argmax(1) != y).tolist() == [breaks] * 2


def test_a_broken_picture_costs_nothing_more() -> None:
    net, (x, y) = linear(), centre(3)
    model = oracle(net, 3)
    pgd(model, x, y, parse_ball("linf", 20 * distance(net, "linf")), rng=streams(3), steps=50)
    assert (model.counts.forwards <= 12).all()  # eps / 4 a step: across the ball in eight


def test_a_run_that_cycles_ends_with_the_result_of_the_whole_run() -> None:
    """On a linear model the corner is reached and kept: the run must stop, with the best point of the long one."""
    net, (x, y) = linear(), centre(2)
    ball = parse_ball("linf", 0.9 * distance(net, "linf"))
    model = oracle(net, 2)
    found = pgd(model, x, y, ball, rng=streams(2), steps=300)
    assert (model.counts.forwards < 40).all()
    corner = x - ball.eps * net.w.sign()
    torch.testing.assert_close(found.x_adv, corner.expand_as(x), atol=1e-7, rtol=0)


class Noisy(nn.Module):
    """A model whose answers differ at the same point: equal iterates are no cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = linear(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) * (1 + 0.01 * self.calls)


def test_a_random_model_is_asked_to_the_end() -> None:
    x, y = centre(1)
    model = oracle(Noisy(), 1)
    pgd(model, x, y, parse_ball("linf", 0.5 * distance(linear(), "linf")), rng=streams(1), steps=60)
    assert model.counts.forwards.tolist() == [61]


@pytest.mark.parametrize("given", [{"steps": 0}, {"restarts": 0}, {"n_targets": -1}, {"rel_step": 0.0}])
def test_bad_values_are_refused(given: dict[str, Any]) -> None:
    x, y = centre(1)
    with pytest.raises(BadValue):
        pgd(oracle(linear(), 1), x, y, parse_ball("linf", 0.1), rng=streams(1), **given)


def test_unknown_loss_names_the_nearest() -> None:
    x, y = centre(1)
    with pytest.raises(UnknownName, match="margin"):
        pgd(oracle(linear(), 1), x, y, parse_ball("linf", 0.1), rng=streams(1), loss="margins")


def test_needs_gradients() -> None:
    x, y = centre(1)
    model = Oracle.over(linear(), Access.SCORES | Access.LABELS, streams(1))
    with pytest.raises(AccessRefused):
        pgd(model, x, y, parse_ball("linf", 0.1), rng=streams(1))
