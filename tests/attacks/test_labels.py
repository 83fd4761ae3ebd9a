"""RayS, SurFree and GeoDA against closed forms and their own promises about queries."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.decisions.geoda import FIRST, LAMBDA, SEARCH, geoda, shares
from robustsuite.attacks.evasion.decisions.rays import _blocks, rays
from robustsuite.attacks.evasion.decisions.surfree import Basis, _direction, surfree
from robustsuite.config.threats import BALLS, Access, Ball
from robustsuite.errors import AccessRefused, BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion.decisions import CHECKPOINTS, HAIR
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import centre, distance, linear, streams
from tests.attacks.test_cgba import Noisy, middle, oracle, smooth

N = 3
EACH = [pytest.param(attack, norm, id=f"{name}-{norm}") for name, attack, norms in (
    ("rays", rays, ("linf",)), ("surfree", surfree, ("l2",)), ("geoda", partial(geoda, f=3), ("l2", "linf", "l1")),
) for norm in norms]  # fmt: skip


def ball(norm: str) -> Ball:
    return BALLS[norm](1e9)


def run(
    attack: Callable[..., Found], norm: str, net: nn.Module, queries: int, limit: int | None = None
) -> tuple[Found, Oracle]:
    model, (x, y) = oracle(net, queries=limit), middle()
    return attack(model, x, y, ball(norm), rng=streams(N), queries=queries), model


@pytest.mark.parametrize(("norm", "off"), [("l2", 1.1), ("linf", 1.1), ("l1", 1.5)])
def test_geoda_comes_close_to_the_distance_of_a_linear_model(norm: str, off: float) -> None:
    net = smooth(3.0)
    found, _ = run(partial(geoda, f=3), norm, net, 4000)
    lengths = ball(norm).distance(middle()[0], found.x_adv)
    assert (net(found.x_adv).argmax(1) == 1).all()
    assert (lengths >= distance(net, norm) * (1 - 1e-5)).all()
    assert (lengths <= distance(net, norm) * off).all(), lengths / distance(net, norm)


def test_surfree_comes_close_to_the_distance_of_a_linear_model() -> None:
    net = smooth(3.0)
    found, _ = run(surfree, "l2", net, 4000)
    lengths = ball("l2").distance(middle()[0], found.x_adv)
    assert (net(found.x_adv).argmax(1) == 1).all()
    assert (lengths >= distance(net, "l2") * (1 - 1e-5)).all()
    assert (lengths <= distance(net, "l2") * 1.15).all(), lengths / distance(net, "l2")


def test_rays_finds_every_sign_of_a_linear_model() -> None:
    """Once each value was flipped alone, in the last stages, no flip is left that a plane would reward."""
    net, (x, y) = linear(0, 2.0), centre(N)
    found = rays(oracle(net), x, y, ball("linf"), rng=streams(N), queries=2500)
    lengths = ball("linf").distance(x, found.x_adv)
    assert lengths.tolist() == pytest.approx([distance(net, "linf")] * N, rel=5e-3)
    assert (found.x_adv - x).sign()[0].eq(-net.w.sign()).float().mean() > 0.97


def test_the_blocks_halve_until_they_are_single_values() -> None:
    stages = [[(0, 5)], [(0, 3), (3, 5)], [(0, 2), (2, 4), (4, 5)], [(i, i + 1) for i in range(5)]]
    told = [tuple(block) for block in _blocks(5, 12, torch.device("cpu")).tolist()]
    assert told[:11] == [block for stage in stages for block in stage]
    assert told[11:16] == stages[3]  # and again, as long as queries last


def test_a_direction_is_new_and_across_the_way_to_the_source() -> None:
    x = Rng.of(0, "x", torch.arange(2)).uniform(3, 10, 8, low=0.0, high=1.0)
    basis, delta = Basis.of(x), Rng.of(1, "delta", torch.arange(2)).normal(3, 10, 8)
    past = torch.zeros(2, 4, 3 * int(basis.kept.sum()))
    for t in range(6):
        v = _direction(basis, past, delta, Rng.of(2, "v", torch.arange(2)).fold(t))
        picture = basis.picture(v.view(2, 3, -1))
        assert picture.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
        assert (picture * delta).flatten(1).sum(1).abs().max() < 1e-5
        assert torch.bmm(past, v[:, :, None]).abs().max() < 1e-5
        assert torch.allclose(basis.coefficients(picture), v.view(2, 3, -1), atol=1e-5)
        past[:, t % 4] = v


def test_half_the_frequencies_are_kept() -> None:
    assert int(Basis.of(torch.zeros(1, 3, 32, 32)).kept.sum()) == 32 * 33 // 2
    assert Basis.of(torch.zeros(1, 1, 2, 3)).kept.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("total", [100, 900, 2500, 10000])
def test_the_estimates_of_geoda_take_what_there_is_each_more_than_the_last(total: int) -> None:
    first = float(shares(torch.tensor([total])))
    g = LAMBDA ** (-2 / 3)
    times = next(t for t in range(1, 65) if (total - SEARCH * t) * (g - 1) / (g**t - 1) <= FIRST)
    assert sum(first * g**t for t in range(times)) + SEARCH * times == pytest.approx(total)
    assert first <= FIRST


@pytest.mark.parametrize("queries", [1, 7, 60, 333])
@pytest.mark.parametrize(("attack", "norm"), EACH)
def test_never_asks_more_than_the_limit(attack: Callable[..., Found], norm: str, queries: int) -> None:
    found, model = run(attack, norm, smooth(), queries)
    assert (model.counts.forwards <= queries).all()
    found, model = run(attack, norm, smooth(), 10000, queries)  # raises if it asked for one more
    assert (found.columns["logical"] == model.counts.forwards).all()
    assert (model.counts.forwards > 0.9 * queries - 15).all()


@pytest.mark.parametrize(("attack", "norm"), EACH)
def test_distances_fall_and_the_last_is_the_picture_s(attack: Callable[..., Found], norm: str) -> None:
    found, _ = run(attack, norm, smooth(3.0), 1000)
    track = torch.stack([found.columns[f"{norm}_at_{mark}"] for mark in CHECKPOINTS[:3]])
    assert (track.diff(dim=0) <= 0).all()
    assert (track[0] > track[2]).all()
    length = ball(norm).distance(middle()[0], found.x_adv)
    hair = 1 + HAIR if norm != "l1" else 1  # in l1 most changed values stand on the box, where nothing is further out
    assert track[2].tolist() == pytest.approx(length.div(hair).tolist(), rel=1e-3)
    assert all(found.columns[f"{norm}_at_{mark}"].isnan().all() for mark in CHECKPOINTS[3:])


@pytest.mark.parametrize(("attack", "norm"), EACH)
def test_luck_is_not_believed(attack: Callable[..., Found], norm: str) -> None:
    x, y = middle(8)
    noisy = Noisy(smooth(3.0), 0.3)
    model = oracle(noisy, 8, confidence_margin=torch.inf)
    given = {"sigma": 0.03} if "sigma" in getattr(attack, "func", attack).__kwdefaults__ else {}
    found = attack(model, x, y, ball(norm), rng=streams(8), queries=1500, **given)
    told = torch.stack([model.labels(found.x_adv) != y for _ in range(200)]).float().mean()
    model = oracle(noisy, 8)
    found = attack(model, x, y, ball(norm), rng=streams(8), queries=1500, **given)
    untold = torch.stack([model.labels(found.x_adv) != y for _ in range(200)]).float().mean()
    assert told > max(0.4, untold + 0.1), (told, untold)


@pytest.mark.parametrize(("attack", "norm"), EACH)
def test_an_answer_withheld_is_no_success(attack: Callable[..., Found], norm: str) -> None:
    class Rejecting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    found, _ = run(attack, norm, Rejecting(), 250)
    assert torch.equal(found.x_adv, middle()[0])
    assert found.columns[f"{norm}_at_250"].isnan().all()


@pytest.mark.parametrize(("attack", "norm"), EACH)
def test_labels_are_all_it_may_see_and_bad_values_are_refused(attack: Callable[..., Found], norm: str) -> None:
    x, y = middle()
    blind = Oracle.over(smooth(), Access.NONE, streams(N))
    with pytest.raises(AccessRefused):
        attack(blind, x, y, ball(norm), rng=streams(N))
    with pytest.raises(BadValue, match="queries >= 1"):
        attack(oracle(smooth()), x, y, ball(norm), rng=streams(N), queries=0)
    with pytest.raises(BadValue, match="tol > 0"):
        attack(oracle(smooth()), x, y, ball(norm), rng=streams(N), tol=math.nan)
