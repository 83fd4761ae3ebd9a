"""CGBA and its parts against closed forms, scipy, and their own promises about queries."""

import math

import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.decisions.cgba import cgba, cgba_h
from robustsuite.config.threats import L2, Access
from robustsuite.errors import AccessRefused, BadValue
from robustsuite.maths.frequencies import cosines
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.boundary import Band, Circle
from robustsuite.methods.evasion.decisions import CHECKPOINTS, HAIR, Decisions
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import Linear, centre, distance, linear, streams

N = 3
ANY = L2(math.inf)


def oracle(net: nn.Module, n: int = N, **limits: object) -> Oracle:
    return Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", torch.arange(n)), width=64, **limits)


def smooth(b: float = 1.0) -> Linear:
    """A linear net whose weights vary slowly over the picture: what few frequencies can show."""
    down, along = torch.linspace(0, 2, 24)[:, None], torch.linspace(0, 3, 20)
    w = torch.stack([torch.cos(down + k) * torch.sin(along - k) for k in range(3)])
    return ready(Linear(w, b))  # type: ignore[return-value]


def middle(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.full((n, 3, 24, 20), 0.5), torch.zeros(n, dtype=torch.int64)


def aux(net: nn.Module, n: int = 6) -> Aux:
    """The adversary's own pictures: bright on the side of class 1."""
    delta = Rng.of(3, "own", torch.arange(n)).uniform(*net.w.shape, low=0.1, high=0.5)  # type: ignore[operator]
    pictures = 0.5 - delta * net.w.sign()  # type: ignore[operator]
    return Aux(Split.of(pictures, net(pictures).argmax(1)), lambda spec: net)


def run(net: nn.Module, queries: int, name: str, model: Oracle | None = None) -> tuple[Found, Oracle]:
    x, y = middle()
    model = oracle(net) if model is None else model
    if name == "cgba":
        return cgba(model, x, y, ANY, rng=streams(N), queries=queries, f=3), model
    targets = torch.ones(N, 1, dtype=torch.int64)
    path = name.partition("-")[2] or "chord"
    return cgba_h(
        model, x, y, ANY, rng=streams(N), targets=targets, aux=aux(net), queries=queries, f=3, path=path
    ), model


@pytest.mark.parametrize("name", ["cgba", "cgba_h", "cgba_h-semicircle"])
def test_comes_close_to_the_distance_of_a_linear_model(name: str) -> None:
    net = smooth(3.0)
    found, _ = run(net, 4000, name)
    lengths = ANY.distance(middle()[0], found.x_adv)
    assert (net(found.x_adv).argmax(1) == 1).all()
    assert (lengths >= distance(net, "l2") * (1 - 1e-5)).all()
    assert (lengths <= distance(net, "l2") * 1.05).all(), lengths / distance(net, "l2")


def test_all_frequencies_serve_where_the_picture_is_too_small_for_fewer() -> None:
    net, (x, y) = linear(0, 2.0), centre(N)
    found = cgba(oracle(net), x, y, ANY, rng=streams(N), queries=4000)
    assert (ANY.distance(x, found.x_adv) <= distance(net, "l2") * 1.1).all()


def test_every_angle_of_the_circle_is_half_the_diameter_from_its_middle() -> None:
    rng = Rng.of(1, "points", torch.arange(N))
    source, boundary, eta = (rng.fold(k).uniform(3, 8, 6, low=0.35, high=0.65) for k in range(3))
    circle, theta = Circle.through(source, boundary, eta)
    for angle in (0.0, 0.3, 1.0, 1.5, math.pi / 2):
        at = circle.at(torch.arange(N), torch.full((N,), angle, dtype=torch.float64))
        apart = (at - (source + boundary) / 2).flatten(1).norm(dim=1)
        assert apart.tolist() == pytest.approx((circle.radius / 2).tolist(), rel=1e-5)
        length = (at - source).flatten(1).norm(dim=1)
        assert length.tolist() == pytest.approx((circle.radius * math.cos(angle)).tolist(), abs=1e-5)
    dot = ((boundary - source) * eta).flatten(1).sum(1)
    size = (boundary - source).flatten(1).norm(dim=1) * eta.flatten(1).norm(dim=1)
    assert theta.cos().tolist() == pytest.approx((dot / size).tolist(), abs=1e-5)
    in_plane = circle.at(torch.arange(N), theta) - source
    across = torch.nn.functional.cosine_similarity(in_plane.flatten(1), eta.flatten(1))
    assert across.abs().tolist() == pytest.approx([1.0] * N, abs=1e-4)  # at theta the circle crosses eta's own ray


def test_the_cosines_are_orthonormal_and_scipy_s() -> None:
    assert torch.allclose(cosines(7, 7) @ cosines(7, 7).T, torch.eye(7, dtype=torch.float64), atol=1e-6)
    z = Rng.of(0, "z", torch.arange(2)).normal(3, 5, 4)
    band = Band.of(torch.zeros(1, 3, 17, 13), 3)
    assert (len(band.down), len(band.along)) == (5, 4)  # neither side divides by 3
    padded = torch.nn.functional.pad(z, (0, 13 - 4, 0, 17 - 5))
    expected = scipy.fft.idctn(padded.numpy(), axes=(2, 3), norm="ortho")
    assert torch.allclose(band.picture(z), torch.from_numpy(expected), atol=1e-6)


@pytest.mark.parametrize("queries", [1, 7, 60, 333])
@pytest.mark.parametrize("name", ["cgba", "cgba_h"])
def test_never_asks_more_than_the_limit(name: str, queries: int) -> None:
    found, model = run(smooth(), queries, name)
    assert (found.columns["logical"] <= model.counts.forwards).all()
    assert (model.counts.forwards <= queries).all()
    found, model = run(smooth(), 10000, name, oracle(smooth(), queries=queries))  # raises if it asked for one more
    assert (model.counts.forwards <= queries).all()
    assert (found.columns["logical"] == model.counts.forwards).all()


def test_uses_up_what_it_is_given() -> None:
    assert (run(smooth(), 500, "cgba")[0].columns["logical"] > 485).all()


@pytest.mark.parametrize("name", ["cgba", "cgba_h"])
def test_distances_fall_from_checkpoint_to_checkpoint_and_the_last_is_the_picture_s(name: str) -> None:
    found, _ = run(smooth(3.0), 2500, name)
    track = torch.stack([found.columns[f"l2_at_{mark}"] for mark in CHECKPOINTS[:4]])
    assert (track.diff(dim=0) <= 0).all()
    assert (track[0] > track[3]).all()
    assert track[3].tolist() == pytest.approx(ANY.distance(middle()[0], found.x_adv).div(1 + HAIR).tolist(), rel=1e-5)
    assert all(found.columns[f"l2_at_{mark}"].isnan().all() for mark in CHECKPOINTS[4:])  # beyond its limit


class Noisy(nn.Module):
    """The linear net with a shift of its threshold drawn anew for every picture asked."""

    rng: Rng | None = None

    def __init__(self, net: Linear, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        shift = self.rng.normal(1)[:, 0] * self.sigma if self.rng is not None else 0.0
        return logits + torch.eye(logits.shape[1])[0] * torch.as_tensor(shift)[..., None]


def test_what_a_random_system_answered_once_by_luck_is_not_believed() -> None:
    x, y = middle(8)
    noisy = Noisy(smooth(3.0), 0.3)
    model = oracle(noisy, 8, confidence_margin=torch.inf)
    found = cgba(model, x, y, ANY, rng=streams(8), queries=1500, sigma=0.03, f=3)
    shares = torch.stack([model.labels(found.x_adv) != y for _ in range(200)]).float().mean(0)
    assert int((shares >= 0.5).sum()) >= 7, shares
    nearest = ANY.distance(x, found.x_adv)
    assert (nearest < 3 * distance(noisy.net, "l2")).all()


def test_luck_counts_where_nobody_says_that_the_system_is_random() -> None:
    """The same system without re-verification ends at points that seldom fool it: what the test above guards."""
    x, y = middle(8)
    model = oracle(Noisy(smooth(3.0), 0.3), 8)
    found = cgba(model, x, y, ANY, rng=streams(8), queries=1500, sigma=0.03, f=3)
    assert torch.stack([model.labels(found.x_adv) != y for _ in range(200)]).float().mean() < 0.3


def test_what_is_returned_does_not_hang_on_the_last_bit() -> None:
    net = smooth(3.0)
    x_adv = run(net, 1000, "cgba")[0].x_adv
    assert (net.double()(x_adv.double())[:, 0] < -1e-4).all()  # class 1 leads by more than rounding could take


def test_an_answer_withheld_is_no_success() -> None:
    class Rejecting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    x, y = middle()
    found = cgba(oracle(Rejecting()), x, y, ANY, rng=streams(N), queries=50)
    assert torch.equal(found.x_adv, x)
    assert found.columns["l2_at_250"].isnan().all()


def test_a_class_without_a_picture_is_left_alone() -> None:
    net, (x, y) = smooth(), middle()
    targets = torch.tensor([[1], [4], [1]])
    found = cgba_h(oracle(net), x, y, ANY, rng=streams(N), targets=targets, aux=aux(net), queries=300)
    assert (found.x_adv != x).flatten(1).any(1).tolist() == [True, False, True]
    assert found.columns["logical"].tolist()[1] == 0


def test_starts_from_the_nearest_picture_the_system_takes_for_the_target() -> None:
    net, (x, y) = smooth(), middle()
    far = (0.5 - 0.4 * net.w.sign()).clamp(0, 1)
    near, wrong = 0.5 - 0.3 * net.w.sign(), 0.5 + 0.01 * net.w.sign()
    owned = Aux(Split.of(torch.stack([far, near, wrong]), torch.ones(3, dtype=torch.int64)), lambda spec: net)
    model = oracle(net)
    targets = torch.ones(N, 1, dtype=torch.int64)
    found = cgba_h(model, x, y, ANY, rng=streams(N), targets=targets, aux=owned, queries=3)
    assert torch.allclose(found.x_adv[0], near, atol=1e-3)  # the nearest one is asked first and refused
    assert (model.counts.forwards == 3).all()


def test_a_row_asked_several_times_at_once_is_counted_and_remembered_in_order() -> None:
    net, (x, y) = smooth(0.5), middle(2)
    ask = Decisions(oracle(net, 2), x, y, targeted=False, queries=600)
    rows = torch.tensor([0, 1, 0, 0])
    step = net.w / net.w.square().sum()
    points = torch.stack([x[0] - k * step for k in (2.0, 0.1, 1.0, 0.2)])
    assert ask(rows, points).tolist() == [True, False, True, False]
    assert ask.spent.tolist() == [3, 1]
    assert torch.equal(ask.nearest[0], points[2])
    assert torch.equal(ask.nearest[1], x[1])


def test_labels_are_all_it_may_see_and_bad_values_are_refused() -> None:
    x, y = middle()
    blind = Oracle.over(smooth(), Access.NONE, streams(N))
    with pytest.raises(AccessRefused):
        cgba(blind, x, y, ANY, rng=streams(N))
    with pytest.raises(BadValue, match="queries >= 1"):
        cgba(oracle(smooth()), x, y, ANY, rng=streams(N), queries=0)
    with pytest.raises(BadValue, match="sigma > 0"):
        cgba(oracle(smooth()), x, y, ANY, rng=streams(N), sigma=0.0)
    with pytest.raises(BadValue, match="path chord"):
        cgba_h(oracle(smooth()), x, y, ANY, rng=streams(N), targets=y[:, None], aux=aux(smooth()), path="line")


@pytest.mark.parametrize("side", [11, 12, 14])
def test_pictures_are_the_same_bits_at_any_width(side: int) -> None:
    """Products of matrices that begin at odd places added up in another order beside others, at odd sides."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * (-(-side // 2)) ** 2, 10))
    net = ready(net)
    x = torch.rand(20, 3, side, side, generator=torch.Generator().manual_seed(1))
    y, ids = net(x).argmax(1), torch.arange(20)

    def at(width: int, rows: Tensor) -> Tensor:
        model = Oracle.over(net, Access.LABELS, Rng.of(0, "oracle", rows), width=width)
        return cgba(model, x[rows], y[rows], ANY, rng=Rng.of(0, "attack", rows), queries=150).x_adv

    whole = at(64, ids)
    assert torch.equal(at(7, ids), whole)
    assert torch.equal(at(32, ids[13:14]), whole[13:14])
