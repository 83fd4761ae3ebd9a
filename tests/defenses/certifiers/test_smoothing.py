"""Smoothing certificates against closed forms: a linear two-class net has p_A = Phi(distance / sigma) exactly."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor, nn

from robustsuite.config.threats import L2, Access, Linf, Threat
from robustsuite.defenses.certifiers.smoothing import certify, decide, log_wealth, smoothing
from robustsuite.defenses.serve.randomized_smoothing import Voting
from robustsuite.errors import BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.smoothing import copies, lower_bound, predict, soft_vote, votes
from robustsuite.scenarios import certification
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import ready
from robustsuite.serve.system import System

SIGMA = 0.5


class Served(nn.Module):
    """What the certifier looks for in a served network."""

    def __init__(self, base: nn.Module, sigma: float = SIGMA) -> None:
        super().__init__()
        self.base, self.sigma = base, sigma

    def under_noise(self) -> tuple[nn.Module, float]:
        return self.base, self.sigma


def line() -> tuple[nn.Module, Tensor]:
    """A linear two-class net on 3x2x2 pictures, and its unit normal."""
    w = torch.randn(12, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    net[1].weight.copy_(torch.stack([w, -w]))
    net[1].bias.zero_()
    return net, w / w.norm()


def at_distance(normal: Tensor, distances: Tensor) -> Tensor:
    return (distances[:, None] * normal).view(-1, 3, 2, 2)


def streams(n: int, seed: int = 0) -> Rng:
    return Rng.of(seed, "smoothing", torch.arange(n))


@pytest.mark.parametrize(
    ("n", "cap"), [(100, 1.501), (1_000, 2.463), (10_000, 3.199), (100_000, 3.812), (1_000_000, 4.347)]
)
def test_radius_when_every_vote_agrees(n: int, cap: float) -> None:
    p_lo = float(lower_bound(torch.tensor([n]), n, 0.001))
    assert norm.ppf(p_lo) == pytest.approx(cap, abs=6e-4)
    assert p_lo == pytest.approx(0.001 ** (1 / n), rel=1e-12)


def test_lower_bound_is_the_one_sided_clopper_pearson() -> None:
    k = torch.tensor([0, 1, 50, 73, 99, 100])
    expected = [proportion_confint(int(i), 100, alpha=0.002, method="beta")[0] for i in k]
    np.testing.assert_allclose(lower_bound(k, 100, 0.001).numpy(), expected, rtol=1e-12)


def test_predict_is_the_two_sided_binomial_test() -> None:
    g = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 60, (200, 4), generator=g)
    counts[0] = torch.tensor([7, 7, 0, 0])
    counts[1] = 0
    for row, answer in zip(counts, predict(counts, 0.01).tolist(), strict=True):
        second, first = row.sort().values[-2:].tolist()
        sure = first + second > 0 and binomtest(first, first + second, 0.5).pvalue <= 0.01
        assert answer == (int(row.argmax()) if sure else -1)


def test_votes_agree_with_the_closed_form() -> None:
    net, normal = line()
    distances = torch.tensor([0.0, 0.1, 0.4, 1.0])
    counts = votes(net, at_distance(normal, distances), streams(4).generators(), sigma=SIGMA, n=20_000)
    expected = norm.cdf(distances.numpy() / SIGMA) * 20_000
    assert (counts.sum(1) == 20_000).all()
    assert counts.dtype == torch.int64
    np.testing.assert_allclose(counts[:, 0].numpy(), expected, atol=4.5 * math.sqrt(20_000 / 4))


def test_votes_do_not_depend_on_the_batch() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    x = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = streams(7)
    whole = votes(net, x, rng.generators(), sigma=0.3, n=150, batch_size=1024)
    for size in (32, 96, 320):
        assert torch.equal(votes(net, x, rng.generators(), sigma=0.3, n=150, batch_size=size), whole)
    rows = torch.tensor([5, 2])
    assert torch.equal(votes(net, x[rows], rng[rows].generators(), sigma=0.3, n=150), whole[rows])
    assert votes(net, x[:0], [], sigma=0.3, n=150).shape == (0, 5)


def test_a_copy_that_the_base_rejects_is_nobodys_vote() -> None:
    class Rejecting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1)[:, :2]
            return score.masked_fill(score[:, :1] < 0.5, torch.nan)

    counts = votes(Rejecting(), torch.full((1, 3, 2, 2), 0.5), streams(1).generators(), sigma=1.0, n=2000)
    assert 900 < int(counts.sum()) < 1100


def test_certified_radius_is_below_the_true_distance_and_tends_to_it() -> None:
    net, normal = line()
    distances = torch.tensor([0.05, 0.2, -0.4, 0.7, -1.0])
    x, gaps = at_distance(normal, distances), []
    for n in (1_000, 10_000, 100_000):
        prediction, radius, *_ = certify(net, x, sigma=SIGMA, rng=streams(5), n=n, batch_size=4096)
        sure = prediction >= 0
        assert (radius <= distances.abs()).all()
        assert (radius[~sure] == 0).all()
        assert torch.equal(prediction[sure], (distances < 0).long()[sure])
        gaps.append(float((distances.abs() - radius).max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


def test_certify_abstains_on_the_boundary_and_does_not_depend_on_the_batch() -> None:
    net, normal = line()
    x, rng = at_distance(normal, torch.tensor([0.0, 0.5, 0.001, 0.3])), streams(4)
    prediction, radius, *_ = certify(net, x, sigma=SIGMA, rng=rng, n=1000)
    assert prediction.tolist() == [-1, 0, -1, 0]
    for i in range(4):
        row = torch.tensor([i])
        alone = certify(net, x[row], sigma=SIGMA, rng=rng[row], n=1000, batch_size=64)
        assert alone[0] == prediction[i]
        assert alone[1] == radius[i]


def test_wealth_is_the_bettors_product() -> None:
    p0, wealth, a = 0.8, 0.0, 0
    hits = (torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.9).long()
    for t, hit in enumerate(hits.tolist()):
        q = (a + 0.5) / (t + 1)
        wealth += math.log(q / p0 if hit else (1 - q) / (1 - p0))
        a += hit
        assert float(log_wealth(torch.tensor(a), torch.tensor(t + 1), p0)) == pytest.approx(wealth, abs=1e-9)


@pytest.mark.parametrize("p0", [0.69, 0.95])
def test_sequential_errors_stay_below_alpha(p0: float) -> None:
    """On the boundary itself, p_A = p0, either verdict is an error of its side: at most alpha of runs have it."""
    alpha, runs, most = 0.05, 4000, 2000
    hits = torch.rand(runs, most, generator=torch.Generator().manual_seed(1)) < p0
    a, t = hits.cumsum(1), torch.arange(1, most + 1).expand(runs, -1)
    over = log_wealth(a, t, p0) >= math.log(1 / alpha)
    share = a.double() / t
    for wrong in (over & (share > p0), over & (share < p0)):
        assert 0 < int(wrong.any(1).sum()) < runs * alpha


@pytest.mark.parametrize("side", [1, -1])
def test_decide_is_rarely_wrong_next_to_the_boundary(side: int) -> None:
    net, normal = line()
    n = 300
    x = at_distance(normal, torch.full((n,), 0.3 - 0.002 * side))  # the radius asked is 0.002 beyond, or within
    top = torch.zeros(n, dtype=torch.int64)
    found = decide(net, x, top, sigma=SIGMA, radius=0.3, rng=streams(n), n=1000, alpha=0.1, batch_size=8192)
    wrong = found.certified if side == 1 else found.refused
    assert int(wrong.sum()) <= binomial_limit(n, 0.1)
    assert not (found.certified & found.refused).any()


def binomial_limit(n: int, alpha: float) -> float:
    """More errors than this have a chance of 1e-6 where the error rate is alpha."""
    from scipy.stats import binom

    return float(binom.ppf(1 - 1e-6, n, alpha))


def test_decide_is_right_far_from_the_boundary_with_few_votes() -> None:
    net, normal = line()
    distances = torch.tensor([1.0, 0.8, 0.1, -0.2, 0.45])
    top = torch.zeros(5, dtype=torch.int64)
    found = decide(net, at_distance(normal, distances), top, sigma=SIGMA, radius=0.4, rng=streams(5))
    assert found.certified.tolist() == [True, True, False, False, True]
    assert found.refused.tolist() == [False, False, True, True, False]
    assert int(found.samples[:4].max()) < 1000
    assert int(found.samples.max()) < 20_000


def test_decide_does_not_depend_on_the_batch() -> None:
    net, normal = line()
    distances = torch.linspace(0.2, 0.6, 12)
    x, top, rng = at_distance(normal, distances), torch.zeros(12, dtype=torch.int64), streams(12)
    options = {"sigma": SIGMA, "radius": 0.4, "n": 5000}
    whole = decide(net, x, top, rng=rng, batch_size=4096, **options)
    narrow = decide(net, x, top, rng=rng, batch_size=64, **options)
    rows = torch.tensor([11, 0, 5])
    part = decide(net, x[rows], top[rows], rng=rng[rows], **options)
    for a, b, c in zip(whole, narrow, part, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[rows], c)


def test_no_attack_moves_the_answer_inside_the_certified_radius() -> None:
    g = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).requires_grad_(False)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3, generator=g)
    x, rng = torch.rand(12, 3, 8, 8, generator=g), streams(12)
    top, radius, *_ = certify(net, x, sigma=0.25, rng=rng, n=4000)
    x, top, radius = x[top >= 0], top[top >= 0], radius[top >= 0]
    noise = 0.25 * torch.randn(len(x), 32, 3, 8, 8, generator=g)
    x_adv = x.clone()
    for _ in range(5):  # SmoothAdv: ascend -log of the mean softmax over the same noise
        leaf = x_adv.requires_grad_()
        mean = net((leaf[:, None] + noise).flatten(0, 1)).softmax(1).view(len(x), 32, -1).mean(1)
        (ascent,) = torch.autograd.grad(-mean.gather(1, top[:, None]).log().sum(), leaf)
        ahead = (x_adv.detach() - x).flatten(1) + ascent.flatten(1) / ascent.flatten(1).norm(dim=1, keepdim=True)
        x_adv = x + (ahead / ahead.norm(dim=1, keepdim=True) * radius[:, None]).float().view_as(x)
    answers = predict(votes(net, x_adv, streams(len(x), 7).generators(), sigma=0.25, n=4000), 0.001)
    assert len(x) > 6
    assert ((answers == top) | (answers == -1)).all()
    beyond = x + 4 * (x_adv - x)
    answers = predict(votes(net, beyond, streams(len(x), 7).generators(), sigma=0.25, n=4000), 0.001)
    assert ((answers != top) & (answers != -1)).any()


def test_decide_gives_up_after_n_votes() -> None:
    net, normal = line()
    x = at_distance(normal, torch.tensor([0.4]))
    found = decide(net, x, torch.tensor([0]), sigma=SIGMA, radius=0.4, rng=streams(1), n=77)
    assert [t.item() for t in found] == [False, False, 77]


def test_decide_agrees_with_certify() -> None:
    net, normal = line()
    distances = torch.linspace(0.0, 0.8, 17)
    x, rng = at_distance(normal, distances), streams(17)
    radius = certify(net, x, sigma=SIGMA, rng=rng, n=20_000, batch_size=4096).radius
    found = decide(net, x, torch.zeros(17, dtype=torch.int64), sigma=SIGMA, radius=0.38, rng=rng)
    clear = (distances - 0.38).abs() > 0.05
    assert torch.equal(found.certified[clear], (radius >= 0.38)[clear])


@pytest.mark.parametrize("sequential", [False, True])
def test_the_certifier_on_a_served_network(sequential: bool) -> None:
    net, normal = line()
    x, y = at_distance(normal, torch.tensor([0.8, 0.1, -0.8, 0.0])), torch.tensor([0, 0, 0, 0])
    found = smoothing(Served(net), x, y, L2(0.3), rng=streams(4), n=5000, sequential=sequential)
    assert found.prediction.tolist()[::2] == [0, 1]
    assert found.prediction[3] == -1
    held = (found.prediction == y) & (found.radius >= 0.3)
    assert held.tolist() == [True, False, False, False]
    if sequential:
        assert found.radius.tolist() == [0.3, 0, 0, 0]


def test_refusals() -> None:
    net, _ = line()
    x, y = torch.rand(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(Unsupported, match="randomized_smoothing"):
        smoothing(net, x, y, L2(0.3), rng=streams(1))
    with pytest.raises(Unsupported, match="l2"):
        smoothing(Served(net), x, y, Linf(0.3), rng=streams(1))  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="alpha"):
        smoothing(Served(net), x, y, L2(0.3), rng=streams(1), alpha=0)


def test_the_bound_of_p_lies_below_its_closed_form_and_tends_to_it() -> None:
    net, normal = line()
    distances = torch.tensor([0.1, 0.5, 1.0])
    truth = torch.from_numpy(norm.cdf(distances.numpy() / SIGMA))
    gaps = []
    for n in (1_000, 20_000):
        found = certify(net, at_distance(normal, distances), sigma=SIGMA, rng=streams(3), n0=50, n=n)
        assert found.p_low is not None
        assert found.votes is not None
        assert bool((found.p_low <= truth).all())
        assert found.votes.tolist() == [50 + n] * 3
        assert torch.allclose(SIGMA * torch.special.ndtri(found.p_low), found.radius)
        gaps.append(float((truth - found.p_low).max()))
    assert gaps[1] < gaps[0] / 2


def test_a_record_says_how_likely_the_label_is_and_what_votes_it_took() -> None:
    net, normal = line()
    x = 0.5 + at_distance(normal, torch.tensor([0.4, 0.4, 0.0, 0.5]))
    net[1].bias.copy_(-0.5 * net[1].weight.sum(1))
    split = Split.of(x.float(), torch.tensor([0, 1, 0, 0]))
    served = System(ready(Voting(net, SIGMA, 32, 0.01)), InputSpace(3, 2, 2, 2), stochastic=True)

    def record(**given: Any) -> Any:
        context: Any = SimpleNamespace(
            served=lambda: served, split=split, threat=Threat("t", "certification", Access.LABELS, L2(0.1)),
            rng=streams(4), attack=partial(smoothing, n0=32, n=2000, **given), card=SimpleNamespace(name="s"), width=3,
        )  # fmt: skip
        return certification.play(context)

    found = record()
    p, radius = found.columns["p_correct"], found.columns["radius"]
    assert p.tolist()[1:3] == [0, 0], "another class, and none"
    assert torch.allclose(SIGMA * torch.special.ndtri(p[[0, 3]]), radius[[0, 3]])
    assert found.columns["votes"].tolist() == [2032] * 4
    assert found.forwards == 4 * 2032
    tested = record(sequential=True)
    assert "p_correct" not in tested.columns, "one radius was tested, nothing was estimated"
    assert 32 < int(tested.columns["votes"][0]) <= 2032
    assert int(tested.columns["votes"][1]) == 32, "the first votes point to another class"


def test_a_radius_that_so_few_votes_cannot_prove_is_refused_and_the_number_named_is_the_least_that_can() -> None:
    net, _ = line()
    x, y = torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(Unsupported, match=r"n=100 votes can prove, 0\.75.* write n: 301 or more"):
        smoothing(Served(net), x, y, L2(SIGMA * 2), rng=streams(1), n=100)
    with pytest.raises(Unsupported, match="got 10; write a smaller one"):
        smoothing(Served(net), x, y, L2(10), rng=streams(1), n=100)
    for n, cap in ((300, False), (301, True)):
        assert (norm.ppf(0.001 ** (1 / n)) >= 2) == cap


def test_a_soft_vote_is_the_log_of_the_mean_softmax() -> None:
    x, noise = torch.rand(2, 3, 2, 2), torch.randn(6, 3, 2, 2)
    net, _ = line()
    logits = net(copies(x, noise))
    by_hand = torch.stack([net(x[i] + noise[3 * i : 3 * i + 3]).softmax(1).mean(0).log() for i in range(2)])
    assert torch.allclose(soft_vote(logits, 3), by_hand, atol=1e-6)
