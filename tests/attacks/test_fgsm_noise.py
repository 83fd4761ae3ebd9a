"""FGSM is exact on a linear model; noise is the floor it says it is."""

import pytest
import torch

from robustsuite.attacks.evasion.fgsm import fgsm
from robustsuite.attacks.evasion.noise import noise
from robustsuite.config.threats import parse_ball
from robustsuite.errors import BadValue
from tests.attacks.linear import centre, distance, linear, oracle, streams


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fgsm_is_exact_on_a_linear_model(norm: str) -> None:
    net, (x, y) = linear(), centre(3)
    for factor, breaks in ((0.999, False), (1.001, True)):
        x_adv = fgsm(oracle(net, 3, width=2), x, y, parse_ball(norm, factor * distance(net, norm)), rng=streams(3))
        assert (net(x_adv).argmax(1) != y).tolist() == [breaks] * 3


def test_noise_keeps_the_best_of_its_draws_and_stops_at_a_break() -> None:
    net, (x, y) = linear(b=0.5), centre(4)
    ball = parse_ball("linf", 0.5)  # half of all draws cross
    model = oracle(net, 4)
    found = noise(model, x, y, ball, rng=streams(4), draws=200)
    assert found.columns["claimed"].all()
    assert (net(found.x_adv).argmax(1) != y).all()
    assert (model.counts.forwards < 50).all()

    small = parse_ball("linf", 1e-3)
    margins = [net(noise(oracle(net, 4), x, y, small, rng=streams(4), draws=draws).x_adv)[:, 0] for draws in (1, 5, 50)]
    assert (margins[0] >= margins[1]).all()
    assert (margins[1] >= margins[2]).all()
    assert (margins[2] < margins[0]).any()


def test_noise_needs_a_draw() -> None:
    x, y = centre(1)
    with pytest.raises(BadValue, match="draws"):
        noise(oracle(linear(), 1), x, y, parse_ball("linf", 0.1), rng=streams(1), draws=0)


def test_draws_differ_between_examples() -> None:
    net, (x, y) = linear(), centre(2)
    found = noise(oracle(net, 2), x, y, parse_ball("linf", 1e-3), rng=streams(2), draws=1)
    assert not torch.equal(found.x_adv[0], found.x_adv[1])
