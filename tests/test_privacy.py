"""Bounds of epsilon: against published and computed numbers, and by how often they hold where epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustsuite.errors import BadValue
from robustsuite.maths.privacy import (
    highest_rate,
    one_run,
    one_run_p,
    renyi,
    resolves,
    right_guesses,
    several_runs,
    spent,
)


@pytest.mark.parametrize(
    ("m", "guesses", "right", "delta", "epsilon"),
    [
        (100, 100, 100, 0, 3.49), (100, 100, 90, 0, 1.63), (200, 200, 180, 0, 1.80), (500, 500, 450, 0, 1.95),
        (1000, 1000, 1000, 0, 5.81), (100_000, 1500, 1429, 0, 2.80), (100_000, 1500, 1429, 1e-5, 2.67),
    ],
)  # fmt: skip
def test_one_training_proves_what_is_published(m: int, guesses: int, right: int, delta: float, epsilon: float) -> None:
    assert one_run(m, guesses, right, delta=delta) == pytest.approx(epsilon, abs=0.005)


def test_one_training_proves_nothing_by_guessing_and_less_of_fewer_right_guesses() -> None:
    assert one_run(1000, 100, 50) == 0
    assert one_run(1000, 0, 0) == 0
    bounds = [one_run(1000, 100, right, delta=1e-5) for right in range(50, 101, 10)]
    assert bounds == sorted(bounds)
    for wrong in ((10, 20, 5), (10, 5, 6), (0, 0, 0)):
        with pytest.raises(BadValue, match="expected 0 <= right <= guesses <= m"):
            one_run(*wrong)


def test_the_p_value_of_a_guesser_is_no_smaller_than_uniform() -> None:
    draws = np.random.default_rng(0).binomial(100, 0.5, size=4000)
    known = {right: one_run_p(500, 100, right, 0.0) for right in range(101)}
    p = np.array([known[int(right)] for right in draws])
    for level in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9):
        share = (p <= level).mean()
        assert share <= level + 4 * math.sqrt(level * (1 - level) / len(p))
        assert share >= level - 0.09  # as fine as 100 coins are


def test_a_guesser_s_scores_prove_something_once_in_twenty_times_at_most() -> None:
    generator, proven = np.random.default_rng(1), 0
    for _ in range(400):
        member = generator.random(500) < 0.5
        proven += one_run(500, *right_guesses(generator.random(500), member, 0.1)) > 0
    assert proven <= 0.05 * 400 + 4 * math.sqrt(400 * 0.05 * 0.95)
    assert one_run(500, *right_guesses(np.arange(500), np.arange(500) >= 250, 0.1)) > 2


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_keeps_what_several_trainings_prove(epsilon: float) -> None:
    """Each answer is the truth with probability e^epsilon / (1 + e^epsilon): exactly epsilon-private."""
    truth, generator, covered, chosen = 1 / (1 + math.exp(-epsilon)), np.random.default_rng(2), 0, 0
    for _ in range(400):
        members = (generator.random(300) < truth).astype(float)
        others = (generator.random(300) >= truth).astype(float)
        covered += several_runs(members, others, thresholds=[0.5]) <= epsilon
        chosen += several_runs(members + generator.random(300), others + generator.random(300)) <= epsilon
    assert covered >= 0.95 * 400
    assert chosen >= 0.95 * 400


def test_several_trainings_prove_as_much_as_counts_can_and_more_thresholds_cost() -> None:
    for n, most in ((50, 2.57), (100, 3.28), (250, 4.21), (500, 4.91), (1000, 5.60), (5000, 7.21)):
        assert several_runs(np.ones(n), np.zeros(n), thresholds=[0.5]) == pytest.approx(most, abs=0.005)
    one = several_runs(np.ones(50), np.zeros(50), thresholds=[0.5])
    assert several_runs(np.ones(50), np.zeros(50), thresholds=np.linspace(0.1, 0.9, 9)) < one
    assert several_runs(np.ones(50), np.zeros(50), thresholds=[0.5], delta=0.1) < one
    with pytest.raises(BadValue, match="expected two scores of each side"):
        several_runs([1.0], [0.0, 0.0])


@pytest.mark.parametrize(("rate", "noise", "steps", "epsilon"), [
    (0.01, 1.1, 1000, 1.725290818), (0.25, 1.0, 160, 26.447952), (0.1, 2.0, 300, 4.573818884),
    (1.0, 4.0, 10, 3.627851873),
])  # fmt: skip
def test_accounting_is_that_of_opacus(rate: float, noise: float, steps: int, epsilon: float) -> None:
    """Of Opacus 1.6.0, analysis.rdp, over whole orders of 2 to 64 and more."""
    assert spent(rate, noise, steps, 1e-5) == pytest.approx(epsilon, rel=1e-6)
    assert renyi(1.0, noise, 1)[:2] == pytest.approx([2 / (2 * noise**2), 3 / (2 * noise**2)])
    assert spent(rate, noise, steps, 1e-5) > spent(rate, 2 * noise, steps, 1e-5)
    with pytest.raises(BadValue, match="expected 0 < rate"):
        renyi(0.0, noise, steps)


def test_none_of_n_tells_a_rate_of_three_nths_and_no_smaller() -> None:
    assert highest_rate(0, 1000, 0.05) == pytest.approx(3e-3, rel=0.01)
    assert not resolves(2900, 0.001)
    assert resolves(3000, 0.001)
    assert not resolves(0, 0.5)
