"""The smoothed network as it is served: votes, abstention, streams, and its differentiable stand-in."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from robustsuite.config.threats import Access
from robustsuite.defenses.serve.randomized_smoothing import DRAWS, Voting, randomized_smoothing, soft
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import Oracle, answer, feed
from robustsuite.serve.task import TASK


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()


def pictures(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def streams(n: int, seed: int = 0) -> Rng:
    return Rng.of(seed, "served", torch.arange(n))


def test_scores_are_shares_of_votes_or_an_abstention() -> None:
    net, x = randomized_smoothing(base(), sigma=1.0, n=100), pictures(20)
    feed(net, streams(20))
    scores = net(x)
    abstains = scores.isnan().all(1)
    assert scores.shape == (20, 4)
    assert scores.dtype == torch.float32
    assert torch.equal(abstains, scores.isnan().any(1))
    assert (scores[~abstains].sum(1) - 1).abs().max() < 1e-6
    assert ((scores[~abstains] * 100).round() / 100 - scores[~abstains]).abs().max() < 1e-6
    assert torch.equal(TASK.predicted(scores) == -1, abstains)


def test_it_abstains_on_a_tie_and_answers_where_it_is_clear() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    net[1].weight.copy_(torch.stack([torch.ones(48), -torch.ones(48)]))
    net[1].bias.zero_()
    served = randomized_smoothing(net, sigma=0.5, n=200)
    scores = served(torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)]))
    assert TASK.predicted(scores).tolist() == [-1, 0]
    assert float(scores[1, 0]) == 1


def test_an_answer_does_not_depend_on_the_batch() -> None:
    net, x, rng = randomized_smoothing(base(), sigma=0.5, n=50), pictures(11), streams(11)
    whole = answer(net, x, rng)
    rows = torch.tensor([7, 3, 9])
    torch.testing.assert_close(answer(net, x[rows], rng[rows]), whole[rows], rtol=0, atol=0, equal_nan=True)
    again = answer(net, x, rng.fold(1))
    assert not torch.equal(again.nan_to_num(nan=-1), whole.nan_to_num(nan=-1))


def test_without_streams_every_picture_gets_the_same_noise() -> None:
    net, x = randomized_smoothing(base(), sigma=0.5, n=50), pictures(3)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=0, atol=0, equal_nan=True)


def test_the_oracle_feeds_it_and_it_hides_its_gradient() -> None:
    net = randomized_smoothing(base(), sigma=0.5, n=50)
    model = Oracle.over(net, Access.SCORES, streams(3))
    first, second = model(pictures(3)), model(pictures(3))
    assert not torch.equal(first.nan_to_num(nan=-1), second.nan_to_num(nan=-1))
    assert not net(pictures(3).requires_grad_()).requires_grad
    card = randomized_smoothing.card  # type: ignore[attr-defined]
    assert card.hides == Access.GRADIENTS
    assert card.stochastic
    assert card.surrogate is soft


def test_the_surrogate_is_the_mean_softmax_over_its_noise() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    w = torch.ones(48)
    net[1].weight.copy_(torch.stack([200 * w, -200 * w]))  # so steep that the softmax is a vote
    net[1].bias.zero_()
    x = torch.full((400, 3, 4, 4), 0.3 / math.sqrt(48))
    stand_in = soft(net, randomized_smoothing(net, sigma=0.6))
    feed(stand_in, streams(400))
    p = stand_in(x).exp()
    assert (p.sum(1) - 1).abs().max() < 1e-5
    assert float(p[:, 0].mean()) == pytest.approx(norm.cdf(0.5), abs=5 * 0.5 / math.sqrt(400 * DRAWS))


def test_the_surrogate_has_the_right_gradient() -> None:
    net = base().double()
    stand_in, x = soft(net, randomized_smoothing(net, sigma=0.3)), pictures(2).double().requires_grad_()
    feed(stand_in, streams(2))
    assert torch.autograd.gradcheck(stand_in, (x,), atol=1e-4, fast_mode=True)


def test_the_surrogate_leads_pgd_to_the_votes() -> None:
    """Ascending the stand-in's loss lowers the true share of votes for the class more than random noise does."""
    net, x = base(), pictures(16)
    served = randomized_smoothing(net, sigma=0.1, n=500, alpha=0.999)
    stand_in = soft(net, served)
    rng = streams(16)
    y = TASK.predicted(answer(served, x, rng))
    model = Oracle.over(stand_in, Access.GRADIENTS, rng)
    grad = model.gradient(x, lambda z: nn.functional.cross_entropy(z, y, reduction="none")).grad
    moved = answer(served, x + 0.03 * grad.sign(), rng).nan_to_num(nan=0.5)
    random = answer(served, x + 0.03 * streams(16, 5).normal(3, 8, 8).sign(), rng).nan_to_num(nan=0.5)
    share = [float(z.gather(1, y[:, None]).mean()) for z in (moved, random)]
    assert share[0] < share[1] - 0.05


def test_sigma_may_be_a_text_and_errors() -> None:
    net = randomized_smoothing(base(), sigma="1/4")
    assert isinstance(net, Voting)
    assert net.sigma == 0.25
    for bad in ({"sigma": 0}, {"n": 0}, {"alpha": 1.0}, {"sigma": "wide"}):
        with pytest.raises(BadValue):
            randomized_smoothing(base(), **bad)  # type: ignore[arg-type]
