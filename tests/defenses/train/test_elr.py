"""Early-learning regularisation: its loss and its gradient by hand, and where it is plain training."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.defenses.train.elr import LEAST, elr, regularised, restarted
from robustsuite.errors import BadValue
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is
from robustsuite.serve.training import Batch, Recipe, fitted, untrained


class Answers(nn.Module):
    """A network whose logits are its weights."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


LOGITS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y, ROWS, X = torch.tensor([0, 3, 1, 2, 0]), torch.tensor([6, 0, 2, 5, 3]), torch.zeros(5, 1, 2, 2)
BATCH = Batch(X, Y, ROWS, torch.Generator(), 0.0)


def by_hand(t: Tensor, lam: float) -> Tensor:
    """The gradient of the loss (N, K) by the logits, from the averages t (N, K)."""
    p = LOGITS.softmax(1)
    pulled = torch.stack([p[:, c] * ((t - t[:, [c]]) * p).sum(1) for c in range(4)], 1)
    label = p - nn.functional.one_hot(Y, 4)
    return (label + lam * pulled / (1 - (t * p).sum(1, keepdim=True))) / len(p)


def test_the_gradient_is_the_papers_after_one_and_after_two_looks() -> None:
    net, objective, t = Answers(LOGITS.float()), regularised(7, 3.0, 0.7), torch.zeros(5, 4, dtype=torch.float64)
    held = LOGITS.softmax(1).clamp(LEAST, 1 - LEAST)
    for _ in range(2):
        loss = objective(net, BATCH)
        (g,) = torch.autograd.grad(loss, net.logits)
        t = 0.7 * t + 0.3 * held / held.sum(1, keepdim=True)
        inner = (t * LOGITS.softmax(1)).sum(1)
        wanted = nn.functional.cross_entropy(LOGITS, Y) + 3.0 * (1 - inner).log().mean()
        assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-5)
        assert torch.allclose(g.double(), by_hand(t, 3.0), atol=1e-6)


def test_each_example_keeps_its_own_average() -> None:
    net, objective = Answers(LOGITS.float()), regularised(7, 3.0, 0.7)
    first = float(objective(net, BATCH).detach())
    objective(Answers(-LOGITS.float()), BATCH._replace(rows=torch.tensor([1, 4, 1, 4, 1])))  # of others
    again = float(objective(net, BATCH).detach())
    fresh = regularised(7, 3.0, 0.7)
    fresh(net, BATCH)
    assert again == float(fresh(net, BATCH).detach()) != first


def test_a_memory_that_never_changes_is_plain_and_one_that_forgets_is_the_answer_itself() -> None:
    net, plain = Answers(LOGITS.float()), nn.functional.cross_entropy(LOGITS.float(), Y)
    assert float(regularised(7, 3.0, 1.0)(net, BATCH).detach()) == float(plain)
    forgetful = regularised(7, 2.0, 0.0)(net, BATCH)
    p = LOGITS.softmax(1)
    assert float(forgetful.detach()) == pytest.approx(float(plain + 2 * (1 - (p * p).sum(1)).log().mean()), rel=2e-3)


def test_an_answer_that_is_certain_stays_finite() -> None:
    net, objective = Answers(200 * nn.functional.one_hot(Y, 4).float()), regularised(7, 3.0, 0.0)
    loss = objective(net, BATCH)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(net.logits.grad.isfinite().all())


def test_without_its_term_it_is_plain_training_bit_for_bit() -> None:
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    split, net = Split.of(x, torch.arange(40) % 3), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    training = Training(split, split, 3)
    recipe = Recipe(3, restarted(0.02, 3), optimiser="heavy_ball", weight_decay=1e-3)
    plain = fitted(untrained(net, 3), training, recipe)
    ours = elr(as_it_is, lam=0.0, epochs=3, augment=False)(net, training)
    with_term = elr(as_it_is, epochs=3, augment=False)(net, training)
    assert torch.equal(plain[1].weight, ours[1].weight)  # type: ignore[index]
    assert not torch.equal(plain[1].weight, with_term[1].weight)  # type: ignore[index]


def test_the_rate_starts_anew_every_ten_epochs() -> None:
    rate = restarted(0.02, 10)
    assert [rate(e) for e in (0, 0.9, 5, 10, 25.5)] == pytest.approx([0.02, 0.02, 0.0105, 0.02, 0.0105])
    with pytest.raises(BadValue, match="beta in"):
        elr(as_it_is, beta=1.5)
