"""The nearest features of an order: against scipy's nnls, finite differences, and what cannot be reached."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from robustsuite.methods.evasion import quadratic


def instance(n: int, classes: int, d: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (n, d), a head's weight and bias, lists (n, k)."""
    generator = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(n, d, generator=generator, dtype=torch.float64).relu()
    weight = torch.randn(classes, d, generator=generator, dtype=torch.float64) / d**0.5
    bias = 0.1 * torch.randn(classes, generator=generator, dtype=torch.float64)
    lists = torch.stack([torch.randperm(classes, generator=generator)[:k] for _ in range(n)])
    return features, weight, bias, lists


def solved(f: Tensor, weight: Tensor, bias: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:
    """z* - f (n, d) and the multipliers."""
    to, gram = quadratic.order(lists, len(weight)), quadratic.gram(weight)
    found = quadratic.multipliers(f @ weight.T + bias, to, gram, torch.zeros(len(f), len(weight), dtype=torch.float64))
    return quadratic.combined(found, to) @ weight, found


def rows(lists: list[int], classes: int) -> list[tuple[int, int]]:
    """The constraints one by one: (class that leads, class that follows)."""
    chain = list(pairwise(lists))
    return chain + [(lists[-1], j) for j in range(classes) if j not in lists]


def reference(f: np.ndarray, weight: np.ndarray, bias: np.ndarray, lists: list[int]) -> np.ndarray:
    """z* - f (d,) as a least distance problem (Lawson and Hanson, 1974, chapter 23)."""
    pairs = rows(lists, len(weight))
    g = np.stack([weight[a] - weight[b] for a, b in pairs])
    h = np.array([quadratic.MARGIN - (bias[a] - bias[b]) for a, b in pairs]) - g @ f
    goal = np.zeros(len(f) + 1)
    goal[-1] = 1
    u, _ = nnls(np.vstack([g.T, h]), goal, maxiter=20_000)
    residual = np.vstack([g.T, h]) @ u - goal
    return -residual[:-1] / residual[-1]


@pytest.mark.parametrize(("classes", "d", "k"), [(3, 8, 1), (3, 8, 2), (40, 60, 5), (200, 96, 10), (1000, 512, 5)])
def test_agrees_with_nnls_and_keeps_every_constraint(classes: int, d: int, k: int) -> None:
    f, weight, bias, lists = instance(3, classes, d, k)
    change, _ = solved(f, weight, bias, lists)
    logits = (f + change) @ weight.T + bias
    for i in range(len(f)):
        worst = min(float(logits[i, a] - logits[i, b]) for a, b in rows(lists[i].tolist(), classes))
        assert worst >= quadratic.MARGIN - 1e-5
        expected = reference(f[i].numpy(), weight.numpy(), bias.numpy(), lists[i].tolist())
        assert np.linalg.norm(change[i].numpy() - expected) <= 1e-4 * np.linalg.norm(expected)


def test_features_in_order_stay_where_they_are() -> None:
    f, weight, bias, lists = instance(4, 30, 50, 4)
    change, _ = solved(f, weight, bias, lists)
    again, multipliers = solved(f + 1.001 * change, weight, bias, lists)
    assert float(change.norm(dim=1).min()) > 0.1
    assert float(again.norm(dim=1).max()) < 1e-2
    assert bool((multipliers >= 0).all())


def test_the_gradient_of_the_squared_distance_is_twice_the_distance() -> None:
    f, weight, bias, lists = instance(1, 60, 80, 5)
    change, _ = solved(f, weight, bias, lists)
    direction = torch.randn(80, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step = 1e-4
    ahead, behind = (solved(f + s * direction, weight, bias, lists)[0].square().sum() for s in (step, -step))
    numeric = float(ahead - behind) / (2 * step)
    assert numeric == pytest.approx(float(-2 * (change @ direction)), rel=1e-5)


def test_the_start_changes_the_work_but_not_the_answer() -> None:
    f, weight, bias, lists = instance(6, 120, 100, 8)
    near = f + 0.05 * torch.randn(f.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    to, gram = quadratic.order(lists, 120), quadratic.gram(weight)
    _, start = solved(f, weight, bias, lists)
    cold, _ = solved(near, weight, bias, lists)
    warm = quadratic.multipliers(near @ weight.T + bias, to, gram, start)
    assert torch.allclose(quadratic.combined(warm, to) @ weight, cold, atol=1e-6)


def test_a_row_is_the_same_bits_whatever_stands_beside_it() -> None:
    f, weight, bias, lists = instance(12, 1000, 128, 10)
    to, gram = quadratic.order(lists, 1000), quadratic.gram(weight)
    logits, zero = (f @ weight.T + bias).float(), torch.zeros(12, 1000, dtype=torch.float64)
    together = quadratic.multipliers(logits, to, gram, zero)
    for i in (0, 5, 11):
        one = quadratic.Order(to.targets[i : i + 1], to.above[i : i + 1])
        assert torch.equal(quadratic.multipliers(logits[i : i + 1], one, gram, zero[:1])[0], together[i])


def test_an_order_out_of_reach_stays_finite() -> None:
    f, weight, bias, lists = instance(5, 20, 10, 3)
    weight[lists[0, 0]] = weight[lists[0, 1]]  # two classes with one and the same logit cannot be ordered
    bias[lists[0, 0]] = bias[lists[0, 1]]
    change, multipliers = solved(f, weight, bias, lists)
    assert bool(torch.isfinite(change).all())
    assert bool(torch.isfinite(multipliers).all())
    broken = torch.full((1, 20), torch.nan)
    to = quadratic.order(lists[:1], 20)
    answer = quadratic.multipliers(broken, to, quadratic.gram(weight), torch.zeros(1, 20, dtype=torch.float64))
    assert bool(torch.isfinite(answer).all())
