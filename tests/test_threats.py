"""Budgets: what they allow, how they are written, and what they refuse to be."""

import pytest
import torch

from robustsuite.config.threats import BALLS, L0, L1, L2, Access, Linf, parse_access, parse_ball, parse_number
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths.randomness import Rng

X = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))
BUDGETS = [Linf(8 / 255), Linf(0.7), L2(0.5), L2(20.0), L1(5.0), L1(300.0), L0(4), L0(500)]


@pytest.mark.parametrize("ball", BUDGETS, ids=str)
def test_samples_are_allowed_and_differ_by_stream(ball: Linf) -> None:
    rng = Rng.of(0, "ball", torch.arange(20))
    sample = ball.sample(X, rng)
    assert bool(ball.allows(X, sample).all())
    assert not torch.equal(sample, ball.sample(X, rng.fold(1)))


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(3.0), L0(4)], ids=str)
def test_a_batch_of_none_has_a_sample_of_none(ball: Linf) -> None:
    assert ball.sample(X[:0], Rng.of(0, "ball", torch.arange(0))).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(3.0), L0(4)], ids=str)
def test_just_outside_is_not_allowed(ball: Linf) -> None:
    inside = torch.full((1, 1, 4, 4), 0.5)
    d = torch.zeros_like(inside)
    if ball.norm == "l0":
        d.view(-1)[: int(ball.eps)] = 0.1
        more = d.clone().view(-1)
        more[int(ball.eps)] = 0.01
        more = more.view_as(d)
    else:
        d.view(-1)[0] = min(ball.eps, 0.5)
        if ball.norm == "l1":
            d.view(-1)[:6] = 0.5
        more = d * 1.001 if ball.norm != "l1" else d + torch.eye(4)[3] * 0.01
    assert bool(ball.allows(inside, inside + d).all())
    assert not bool(ball.allows(inside, inside + more).any())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.0001, -0.0001])
def test_no_budget_allows_what_is_outside_the_box_or_not_a_number(bad: float) -> None:
    x_adv = X.clone()
    x_adv[0, 0, 0, 0] = bad
    for ball in (Linf(10.0), L2(1e9), L1(1e9), L0(10**6)):
        allowed = ball.allows(X, x_adv)
        assert not bool(allowed[0])
        assert bool(allowed[1:].all())


def test_eps_zero_allows_only_the_picture_itself() -> None:
    for kind in BALLS.values():
        ball = kind(0)
        assert bool(ball.allows(X, X).all())
        assert not bool(ball.allows(X, (X + 0.01).clamp(0, 1)).any())
        assert torch.equal(ball.project(X, X + 0.3), X)


def test_canonical_form_is_read_back() -> None:
    assert str(Linf(8 / 255)) == "linf(eps=8/255)"
    assert str(Linf(0.5 / 255)) == "linf(eps=0.5/255)"
    assert str(L2(0.5)) == "l2(eps=0.5)"
    assert parse_ball("linf", "8/255") == Linf(8 / 255)
    assert parse_number("1e-2") == 0.01


@pytest.mark.parametrize("text", ["8/0", "", "eight", "1/2/3", "nan", None, [1], True])
def test_a_bad_eps_says_what_it_was(text: object) -> None:
    with pytest.raises(BadValue, match="8/255"):
        parse_number(text)


def test_negative_eps_and_unknown_norm() -> None:
    with pytest.raises(BadValue, match=r"-0\.1"):
        Linf(-0.1)
    with pytest.raises(UnknownName, match="linf"):
        parse_ball("lin", 1)


def test_access_words_and_implications() -> None:
    assert parse_access("white_box") == Access.WHITE_BOX
    assert parse_access("gradients") == Access.GRADIENTS | Access.SCORES | Access.LABELS
    assert parse_access("labels") == Access.LABELS
    with pytest.raises(UnknownName, match="did you mean 'scores'"):
        parse_access("score")
