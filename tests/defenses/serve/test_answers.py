"""Defenses that change scores: what is left of them, what is not, and that the class stays where it is said to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustsuite.defenses.serve.reverse_sigmoid import reverse_sigmoid
from robustsuite.defenses.serve.rounding import rounding
from robustsuite.defenses.serve.score_noise import score_noise
from robustsuite.defenses.serve.top_k import top_k
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.answers import as_logits, onto_simplex
from robustsuite.serve.oracle import answer


class Fixed(nn.Module):
    """Logits (N, 5) that are the picture's five pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def asked(z: Tensor) -> Tensor:
    """Logits (N, 5) as pictures (N, 1, 1, 5)."""
    return z[:, None, None]


Z = 3 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
P = Z.softmax(1)


def test_rounding_to_many_decimals_is_none_and_to_one_is_in_tenths() -> None:
    assert torch.allclose(rounding(Fixed(), decimals=9)(asked(Z)).softmax(1), P, atol=1e-6)
    coarse = rounding(Fixed(), decimals=1)(asked(Z)).softmax(1)
    wanted = (10 * P).round() / 10
    assert torch.allclose(coarse, wanted / wanted.sum(1, keepdim=True), atol=1e-3)
    assert torch.equal(coarse.argmax(1), Z.argmax(1)), "the class stays, where it ties as well"
    flat = torch.tensor([[0.301, 0.3, 0.299, 0.05, 0.05]]).log().flip(1)
    assert rounding(Fixed(), decimals=1)(asked(flat)).argmax(1).tolist() == [4]


def test_the_first_classes_are_kept_and_of_one_its_class_alone() -> None:
    served = top_k(Fixed(), k=2)(asked(Z)).softmax(1)
    first = P.topk(2, 1)
    assert torch.allclose(served.gather(1, first.indices), first.values / first.values.sum(1, keepdim=True), atol=1e-5)
    assert torch.allclose(served.sum(1), torch.ones(400))
    one = top_k(Fixed())(asked(Z)).softmax(1)
    assert torch.allclose(one, torch.eye(5)[Z.argmax(1)], atol=1e-6)
    assert torch.allclose(top_k(Fixed(), k=5)(asked(Z)).softmax(1), P, atol=1e-6)


@pytest.mark.parametrize("defense", [rounding, top_k, score_noise, reverse_sigmoid])
def test_a_rejection_below_stays_one(defense: Callable[[nn.Module], nn.Module]) -> None:
    z = Z[:4].clone()
    z[2] = torch.nan
    found = defense(Fixed())(asked(z))
    assert found.isnan().all(1).tolist() == [False, False, True, False]
    assert bool(found[[0, 1, 3]].isfinite().all())


def test_one_class_ties_in_the_rest_and_the_served_class_leads() -> None:
    tied = as_logits(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]), torch.tensor([1, 2]))
    assert tied.argmax(1).tolist() == [1, 2]
    assert bool(tied.isfinite().all())


@settings(max_examples=60, deadline=None)
@given(v=st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_nearest_point_of_the_simplex(v: list[list[float]]) -> None:
    x = torch.tensor(v, dtype=torch.float64)
    found = onto_simplex(x)
    assert bool((found >= 0).all())
    assert torch.allclose(found.sum(1), torch.ones(len(v), dtype=torch.float64))
    corners = torch.eye(4, dtype=torch.float64)
    # of the nearest point no corner lies on the side of x: (x - found) . (corner - found) <= 0
    for corner in corners:
        assert float(((x - found) * (corner - found)).sum(1).max()) <= 1e-9


def test_noise_differs_by_question_and_not_by_batch() -> None:
    served, rng = score_noise(Fixed(), sigma=0.1), Rng.of(0, "noise", torch.arange(400))
    first = answer(served, asked(Z), rng).softmax(1)
    assert torch.equal(first, answer(served, asked(Z), rng).softmax(1))
    assert torch.equal(first[:7], answer(served, asked(Z)[:7], rng[:7]).softmax(1))
    again = answer(served, asked(Z), rng.fold(1)).softmax(1)
    assert float((first - again).abs().max()) > 0.1
    inner = (P > 0.35).sum(1) == 2  # far from the edge two noises are not cut, and their size is told
    spread = (first - P)[inner].gather(1, P[inner].topk(2, 1).indices)
    assert 0.05 < float(spread.std()) < 0.15
    assert torch.allclose(score_noise(Fixed(), sigma=0.0)(asked(Z)).softmax(1), P, atol=1e-6)


def test_reverse_sigmoid_is_its_formula_and_answers_one_score_to_two_pictures() -> None:
    served = reverse_sigmoid(Fixed(), beta=0.7, gamma=0.2)(asked(Z)).softmax(1)
    y = P.double()
    wanted = y - 0.7 * ((0.2 * (y / (1 - y)).log()).sigmoid() - 0.5)
    assert torch.allclose(served, (wanted / wanted.sum(1, keepdim=True)).float(), atol=1e-4)
    assert torch.allclose(reverse_sigmoid(Fixed(), beta=0.0)(asked(Z)).softmax(1), P, atol=1e-6)
    # beta = gamma = 1 undoes every score
    flat = reverse_sigmoid(Fixed(), beta=1.0, gamma=1.0)(asked(Z)).softmax(1)
    assert torch.allclose(flat, torch.full((400, 5), 0.2), atol=1e-3)
    sure = torch.tensor([[3.0, 0, 0, 0, 0], [60.0, 0, 0, 0, 0]])
    less, more = reverse_sigmoid(Fixed())(asked(sure)).softmax(1)[:, 0].tolist()
    assert more < less, "who is surer is answered with less"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: rounding(Fixed(), decimals=-1), "decimals >= 0"), (lambda: top_k(Fixed(), k=0), "k >= 1"),
        (lambda: score_noise(Fixed(), sigma=-1.0), "sigma >= 0"),
        (lambda: reverse_sigmoid(Fixed(), beta=3.0), r"beta in \[0, 2\]"),
    ],
)  # fmt: skip
def test_what_is_no_parameter_is_refused(made: object, said: str) -> None:
    with pytest.raises(BadValue, match=said):
        made()  # type: ignore[operator]
