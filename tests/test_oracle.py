"""The oracle hands over what the threat grants, counts every question, and leaves no trace."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from robustsuite.config.threats import Access, parse_access
from robustsuite.errors import AccessRefused, QueriesSpent
from robustsuite.maths.losses import margin
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle, answer, preserved
from robustsuite.serve.task import TASK
from tests.toys import linear, pictures

X = pictures(10)
Y = torch.zeros(10, dtype=torch.int64)


def oracle(access: Access = Access.WHITE_BOX, **limits: object) -> Oracle:
    return Oracle.over(linear(), access, Rng.of(0, "oracle", torch.arange(10)), **limits)


def test_access_is_enforced() -> None:
    labels_only = oracle(parse_access("labels"), threat="the threat 'labels'")
    assert labels_only.labels(X).shape == (10,)
    for forbidden in (
        lambda: labels_only(X),
        lambda: labels_only.gradient(X, lambda z: margin(z, Y)),
        lambda: labels_only.network(),
    ):
        with pytest.raises(AccessRefused, match="the threat 'labels'"):
            forbidden()
    with pytest.raises(AccessRefused):
        oracle(parse_access("scores")).gradient(X, lambda z: margin(z, Y))


def test_every_question_is_counted_for_its_example() -> None:
    model = oracle()
    model(X)
    model[torch.tensor([2, 2, 5])](X[[2, 2, 5]])
    model[torch.tensor([5])].gradient(X[5:6], lambda z: margin(z, Y[5:6]))
    assert model.counts.forwards.tolist() == [1, 1, 3, 1, 1, 3, 1, 1, 1, 1]
    assert model.counts.backwards.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert model.counts.totals() == (14, 1)


def test_query_budget_is_a_hard_stop() -> None:
    model = oracle(parse_access("scores"), queries=2)
    model(X)
    model(X)
    assert model.left().tolist() == [0] * 10
    with pytest.raises(QueriesSpent, match="2 queries"):
        model[torch.tensor([3])](X[3:4])
    assert model.counts.forwards.tolist() == [2] * 10


def test_gradient_is_the_loss_gradient_and_eot_of_a_deterministic_net_changes_nothing() -> None:
    ask = oracle().gradient(X, lambda z: margin(z, Y))
    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(margin(linear()(leaf), Y).sum(), leaf)
    torch.testing.assert_close(ask.grad, expected)
    torch.testing.assert_close(oracle(eot=4).gradient(X, lambda z: margin(z, Y)).grad, expected)


def test_an_answer_is_the_same_bits_in_any_batch() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    with torch.no_grad():
        whole = answer(net, X)
        for size in (1, 3, 7):
            assert torch.equal(torch.cat([answer(net, part) for part in X.split(size)]), whole)
        assert torch.equal(answer(net, X.flip(0)), whole.flip(0))
        assert answer(net, X[:0]).shape == (0, 3)


class Noisy(nn.Module):
    rng: Rng | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.rng is not None
        return x.flatten(1)[:, :3] + self.rng.normal(3)


def test_a_noisy_net_draws_anew_at_each_question_and_alike_for_each_example() -> None:
    rng = Rng.of(0, "noisy", torch.arange(10))
    a = Oracle.over(Noisy(), Access.WHITE_BOX, rng)
    first, second = a(X), a(X)
    assert not torch.equal(first, second)
    b = Oracle.over(Noisy(), Access.WHITE_BOX, rng)
    assert torch.equal(torch.cat([b[torch.tensor([i])](X[i : i + 1]) for i in range(10)]), first)


@pytest.mark.parametrize("ask", [
    lambda o: o(X), lambda o: o.labels(X), lambda o: o.gradient(X, lambda z: z[:, 0]), lambda o: o.metered()(X),
])  # fmt: skip
def test_no_question_leaves_streams_behind(ask: Callable[[Oracle], object]) -> None:
    """A probe of as many pictures as were asked about last would answer by these."""
    net = Noisy()
    ask(Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "noisy", torch.arange(10))))
    assert net.rng is None


def test_a_row_of_nan_is_a_rejection() -> None:
    logits = torch.tensor([[0.0, 2.0], [float("nan"), float("nan")]])
    assert TASK.predicted(logits).tolist() == [1, -1]


def test_preserved_restores_everything_even_when_the_attack_raises() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    def vandalise() -> None:
        net.train()
        net.requires_grad_(False)
        net[0].register_forward_hook(lambda *a: None)
        net(torch.rand(4, 1, 5, 5))
        with torch.no_grad():
            net[0].weight += 1
        net[0].weight.grad = None
        torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
        raise RuntimeError

    with pytest.raises(RuntimeError), preserved(net):
        vandalise()
    assert not net.training
    assert not net[1].training
    assert all(p.requires_grad for p in net.parameters())
    assert not net[0]._forward_hooks
    assert net[0].weight.grad is not None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
