"""FMN against closed forms, and its balls."""

import pytest
import torch

from robustsuite.attacks.evasion.fmn import fmn
from robustsuite.config.threats import parse_ball
from robustsuite.errors import BadValue
from tests.attacks.linear import Linear, centre, distance, linear, oracle, streams


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("norm", "b"), [("linf", 1.0), ("l2", 1.0), ("l1", 1.0), ("l0", 10.0)])
def test_finds_the_distance_of_a_linear_model(norm: str, b: float, seed: int) -> None:
    net, (x, y) = linear(seed, b), centre(2)
    x_adv = fmn(oracle(net, 2), x, y, parse_ball(norm, 0.001), rng=streams(2))
    assert (net(x_adv).argmax(1) != y).all()
    lengths = parse_ball(norm, 1).distance(x, x_adv)
    assert lengths.tolist() == pytest.approx([distance(net, norm)] * 2, rel=0.02)
    assert (lengths >= distance(net, norm) * (1 - 1e-5)).all()


def test_an_unbreakable_picture_comes_back_inside_the_budget() -> None:
    net = Linear(torch.full((3, 8, 6), 0.01), b=50.0)
    x, y = centre(1)
    ball = parse_ball("l2", 0.1)
    x_adv = fmn(oracle(net, 1), x, y, ball, rng=streams(1), steps=20)
    assert net(x_adv).argmax(1) == y
    assert ball.allows(x, x_adv).all()


def test_no_steps_is_refused() -> None:
    x, y = centre(1)
    with pytest.raises(BadValue, match="steps >= 1"):
        fmn(oracle(linear(), 1), x, y, parse_ball("l2", 1), rng=streams(1), steps=0)
