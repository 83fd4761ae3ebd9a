"""Projections land inside, change nothing inside, never enlarge, and agree with independent solvers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar
from torch import Tensor

from robustsuite.config.threats import parse_ball
from robustsuite.maths import projections

NORMS = ("linf", "l2", "l1", "l0")


def pictures(seed: int, n: int = 3, d: int = 12, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pictures (some entries at the ends of the box) and points about them, outside the box as well."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 1, 2, d // 2, generator=g) * 1.4 - 0.2).clamp(0, 1)
    return x, x + spread * torch.randn(x.shape, generator=g)


cases = st.tuples(st.integers(0, 10**6), st.floats(0, 4), st.floats(0.01, 3))


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=40)
@given(cases)
def test_lands_inside_is_idempotent_and_never_enlarges(norm: str, case: tuple[int, float, float]) -> None:
    seed, eps, spread = case
    x, point = pictures(seed, spread=spread)
    ball = parse_ball(norm, eps)
    once = projections.project(x, point, eps, norm)
    assert ball.allows(x, once).all()
    torch.testing.assert_close(projections.project(x, once, eps, norm), once, atol=2e-6, rtol=0)
    before, after = (projections.norm((p - x).flatten(1).double(), norm) for p in (point, once))
    assert (after <= before + 1e-6).all()
    assert ((once - x).abs() <= (point - x).abs() + 1e-6).all()  # no entry grows: what is inside stays


@pytest.mark.parametrize("norm", NORMS)
def test_points_inside_stay(norm: str) -> None:
    x, point = pictures(3, spread=1e-3)
    inside = point.clamp(0, 1)
    torch.testing.assert_close(projections.project(x, inside, 12.0, norm), inside, atol=1e-7, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_a_row_is_the_rows_one_by_one(norm: str) -> None:
    x, point = pictures(5)
    eps = torch.tensor([0.0, 0.3, 1.7])
    together = projections.project(x, point, eps, norm)
    alone = [projections.project(x[i : i + 1], point[i : i + 1], float(eps[i]), norm) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-7, rtol=0)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_l1_is_the_nearest_point_found_by_scipy(case: tuple[int, float, float]) -> None:
    """The dual of the problem has one variable, the multiplier of the length; scipy maximises it in float64."""
    seed, eps, spread = case
    x, point = pictures(seed, n=1, spread=spread)
    ours = projections.l1(x, point, eps).double().numpy().ravel()
    x64, p64 = x.double().numpy().ravel(), point.double().numpy().ravel()

    def best(lam: float) -> np.ndarray:
        delta = p64 - x64
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - lam, 0), -x64, 1 - x64)

    def dual(lam: float) -> float:
        d = best(lam)
        return -float(((d - (p64 - x64)) ** 2).sum() / 2 + lam * (np.abs(d).sum() - eps))

    lam = minimize_scalar(dual, bounds=(0, np.abs(p64 - x64).max() + 1), method="bounded", options={"xatol": 1e-12}).x
    ours_cost = ((ours - p64) ** 2).sum()
    bound = -2 * dual(lam)  # weak duality: no feasible point is nearer
    assert ours_cost <= bound + 1e-4 * (1 + bound)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0, 6))
def test_steepest_in_l1_solves_the_linear_programme(seed: int, eps: float) -> None:
    x, grad = pictures(seed, n=1)
    grad = grad - x
    x64, g = x.double().numpy().ravel(), grad.double().numpy().ravel()
    ours = projections.steepest(x, grad, eps, "l1").double().numpy().ravel() - x64
    n = len(g)
    bounds = [(0, 1 - v) for v in x64] + [(0, v) for v in x64]  # d = up - down
    optimum = linprog(np.r_[-g, g], A_ub=np.ones((1, 2 * n)), b_ub=[eps], bounds=bounds)
    assert np.abs(ours).sum() <= eps + 1e-5
    assert g @ ours == pytest.approx(-optimum.fun, abs=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(-8, 8))
def test_onto_a_plane_is_the_least_change_that_a_solver_finds(norm: str, seed: int, gap: float) -> None:
    x, way = pictures(seed, n=1)
    way = (way - x).where(torch.arange(6) > 0, 0)  # some entries do not matter
    x64, w = x.double().numpy().ravel(), way.double().numpy().ravel()
    ours = projections.onto_plane(x, way, torch.tensor([gap]), norm).double().numpy().ravel()
    n, room = len(w), np.where(w * gap > 0, 1 - x64, x64)
    most = np.abs(w) @ room
    assert ((x64 + ours > -1e-6) & (x64 + ours < 1 + 1e-6)).all()
    assert w @ ours == pytest.approx(np.sign(gap) * min(abs(gap), most), abs=1e-5)
    if abs(gap) > 0.99 * most:
        return
    if norm == "l2":  # no feasible change is shorter than the dual's value: max_t t gap - min over the box
        dual = lambda t: -(t * abs(gap) + (lambda d: d @ d / 2 - t * np.abs(w) @ d)(np.minimum(t * np.abs(w), room)))
        best = -minimize_scalar(dual, bounds=(0, 1e3), method="bounded", options={"xatol": 1e-9}).fun
        assert ours @ ours / 2 == pytest.approx(best, abs=1e-3)
        return
    cost = np.ones(n) if norm == "l1" else np.r_[np.zeros(n), 1]
    rows = np.abs(w)[None] if norm == "l1" else np.r_[np.abs(w), 0][None]
    below = {} if norm == "l1" else {"A_ub": np.c_[np.eye(n), -np.ones(n)], "b_ub": np.zeros(n)}
    bounds = [(0, r) for r in room] + ([] if norm == "l1" else [(0, 1)])
    optimum = linprog(cost, A_eq=rows, b_eq=[abs(gap)], bounds=bounds, **below)
    assert np.linalg.norm(ours, 1 if norm == "l1" else np.inf) == pytest.approx(optimum.fun, abs=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_beats_random_points_of_the_ball(norm: str) -> None:
    x, grad = pictures(11, n=1)
    grad, eps = grad - x, 0.2
    x = torch.full_like(x, 0.5)
    best = (projections.steepest(x, grad, eps, norm) - x).flatten() @ grad.flatten()
    g = torch.Generator().manual_seed(0)
    points = projections.project(x.expand(500, -1, -1, -1), x + torch.randn(500, *x.shape[1:], generator=g), eps, norm)
    assert best >= ((points - x).flatten(1) @ grad.flatten()).max() - 1e-6


def test_l0_keeps_the_largest_changes() -> None:
    x = torch.full((1, 1, 1, 5), 0.5)
    point = torch.tensor([[[[0.6, 0.1, 0.5, 3.0, 0.45]]]])
    assert projections.l0(x, point, 2).flatten().tolist() == pytest.approx([0.5, 0.1, 0.5, 1.0, 0.5])


def test_top_signs_keeps_k_a_row() -> None:
    grad = torch.tensor([[3.0, -2.0, 1.0, 0.0], [1.0, 2.0, -3.0, -4.0]])
    signs = projections.top_signs(grad, torch.tensor([1, 3]))
    assert signs.tolist() == [[1, 0, 0, 0], [0, 1, -1, -1]]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_unit_has_length_one_and_keeps_zero(norm: str) -> None:
    rows = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert projections.norm(projections.unit(rows, norm), norm).tolist() == pytest.approx([1.0, 0.0])


def test_chosen_and_kept_rows_are_bits_of_what_they_were() -> None:
    """An interpolation by 0 or 1 loses no bit, whatever the sizes of the two."""
    g = torch.Generator().manual_seed(0)
    old, new = (torch.randn(64, 3, 5, 7, generator=g) * 10.0 ** torch.randint(-30, 30, (64, 1, 1, 1), generator=g)
                for _ in range(2))  # fmt: skip
    rows, pixels = torch.rand(64, generator=g) > 0.5, torch.rand(64, 1, 5, 7, generator=g) > 0.5
    expected = torch.where(rows[:, None, None, None], new, old)
    assert torch.equal(projections.chosen(rows, new, old), expected)
    assert torch.equal(projections.chosen(pixels, new, old), torch.where(pixels, new, old))
    kept = old.clone()
    assert projections.keep(kept, new, rows) is kept
    assert torch.equal(kept, expected)


def test_clamping_to_the_walls_is_the_projection() -> None:
    x, point = pictures(12, n=8)
    low, high = projections.walls(x, 0.07)
    assert torch.equal(point.clamp(low, high), projections.linf(x, point, 0.07))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_takes_a_radius_a_row(norm: str) -> None:
    x, other = pictures(11, n=3)
    grad, x = other - x, x.clamp(0, 1)
    eps = torch.tensor([0.05, 0.3, 2.0])
    rows = [projections.steepest(x[i : i + 1], grad[i : i + 1], float(e), norm) for i, e in enumerate(eps)]
    assert torch.equal(projections.steepest(x, grad, eps, norm), torch.cat(rows))
