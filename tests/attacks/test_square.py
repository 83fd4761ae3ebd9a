"""Square: never inside the distance, past it with enough queries, within its queries, windows as the paper has them."""

from typing import Any

import pytest
import torch

from robustsuite.attacks.evasion.noise import noise
from robustsuite.config.threats import Access, parse_ball
from robustsuite.errors import BadValue
from robustsuite.methods.evasion.square import eta, side, square
from robustsuite.serve.oracle import Desk
from tests.attacks.linear import centre, distance, linear, oracle, streams


def test_breaks_a_linear_model_just_beyond_its_distance_linf() -> None:
    net, (x, y) = linear(), centre(2)
    for factor, breaks, steps in ((0.98, False, 400), (1.02, True, 2000)):
        ball = parse_ball("linf", factor * distance(net, "linf"))
        x_adv, broken = square(oracle(net, 2), x, y, ball, rng=streams(2), steps=steps, p=0.05)
        assert broken.tolist() == [breaks] * 2
        assert (net(x_adv).argmax(1) != y).tolist() == [breaks] * 2


def test_l2_breaks_where_noise_cannot_and_never_inside_the_distance() -> None:
    net, (x, y) = linear(), centre(2)
    near, far = (parse_ball("l2", factor * distance(net, "l2")) for factor in (0.98, 2.5))
    assert not square(oracle(net, 2), x, y, near, rng=streams(2), steps=100)[1].any()
    assert square(oracle(net, 2), x, y, far, rng=streams(2), steps=600)[1].all()
    assert not noise(oracle(net, 2), x, y, far, rng=streams(2), draws=300).columns["claimed"].any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_asks_for_scores_alone_and_stays_within_its_queries(norm: str) -> None:
    net, (x, y) = linear(), centre(3)
    ball = parse_ball(norm, 0.5 * distance(net, norm))
    desk = Desk(net, Access.SCORES | Access.LABELS, streams(3), queries=10)
    desk.counts.forwards += torch.tensor([0, 4, 10])  # some, or all, spent before
    x_adv, _ = square(desk.oracle(), x, y, ball, rng=streams(3))
    assert desk.counts.forwards.tolist() == [10, 10, 10]
    assert torch.equal(x_adv[2], x[2])


def test_windows_shrink_on_schedule() -> None:
    i = torch.tensor([0, 10, 11, 50, 51, 200, 201, 8001])
    x = torch.zeros(1, 3, 32, 32)
    shares = [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.8 / 512]
    assert side(i, 0.8, x).tolist() == [max(round((share * 1024) ** 0.5), 1) for share in shares]


@pytest.mark.parametrize("s", [1, 2, 3, 5, 8])
def test_eta_is_a_pair_of_opposite_pyramids_of_length_one(s: int) -> None:
    row, column = torch.meshgrid(torch.arange(-1, s + 2), torch.arange(-1, s + 2), indexing="ij")
    both = eta(row.expand(2, -1, -1), column.expand(2, -1, -1), torch.tensor([s, s]), torch.tensor([False, True]))
    inside = (row >= 0) & (row < s) & (column >= 0) & (column < s)
    assert both.square().sum((1, 2)).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (both[:, ~inside] == 0).all()
    torch.testing.assert_close(both[0].T, both[1])
    assert (both[0][(row < s // 2) & inside] > 0).all()
    assert (both[0][(row >= s // 2) & inside] < 0).all()


def test_eta_by_the_papers_double_sum() -> None:
    """Eq. 2 written out for one rectangle pair of side 6: rows 3, columns 6 each."""
    s, h1, h2 = 6, 3, 6
    n = max(h1, h2) // 2
    table = torch.zeros(s, s)
    for half, sign in ((0, 1.0), (h1, -1.0)):
        part = torch.zeros(h1, h2)
        for r in range(h1):
            for c in range(h2):
                reach = n - max(abs(r - h1 // 2), abs(c - h2 // 2))
                part[r, c] = sum(1 / (n + 1 - k) ** 2 for k in range(reach + 1))
        table[half : half + h1] = sign * part / part.norm()
    row, column = torch.meshgrid(torch.arange(s), torch.arange(s), indexing="ij")
    ours = eta(row[None], column[None], torch.tensor([s]), torch.tensor([False]))[0]
    torch.testing.assert_close(ours, table / table.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("given", [{"steps": -1}, {"p": 0.0}, {"p": 1.5}])
def test_bad_values_are_refused(given: dict[str, Any]) -> None:
    x, y = centre(1)
    with pytest.raises(BadValue):
        square(oracle(linear(), 1), x, y, parse_ball("linf", 0.1), rng=streams(1), **given)
