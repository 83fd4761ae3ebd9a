"""Bounds against closed forms, sampled points and each other."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import L2, Linf
from robustsuite.defenses.certifiers import _lirpa_compat
from robustsuite.defenses.certifiers._fold import folded
from robustsuite.defenses.certifiers.lirpa import largest_verified_eps, lirpa, margin_bounds, verified
from robustsuite.errors import BadData, MissingPackage, UnknownName, Unsupported
from robustsuite.serve.models import Normalised
from tests.defenses.certifiers.bounded import CASES, MEAN, cnn, linear, mlp, pictures

METHODS = ["ibp", "crown-ibp", "crown", "alpha-crown"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    build, side = CASES[request.param]
    net = build()
    return net, *pictures(net, 4, side)


def margins(z: Tensor, y: Tensor) -> Tensor:
    """z_y - z_j, j != y, by indexing."""
    rows = [torch.stack([z[i, y[i]] - z[i, j] for j in range(z.shape[1]) if j != y[i]]) for i in range(len(z))]
    return torch.stack(rows)


def lowest_sampled(net: nn.Module, x: Tensor, y: Tensor, ball: Linf | L2, points: int) -> Tensor:
    """The lowest margins met at corners and inside; points (N, D) drawn by hand, not by the ball's own code."""
    g, lowest = torch.Generator().manual_seed(4), torch.full((len(x), 1), torch.inf)
    for k in range(points):
        u = torch.rand(x.shape, generator=g) * 2 - 1
        if isinstance(ball, Linf):
            step = ball.eps * (u.sign() if k % 2 else u)
        else:
            step = ball.eps * u / u.flatten(1).norm(dim=1)[:, None, None, None]
        with torch.no_grad():
            lowest = torch.minimum(lowest, margins(net((x + step).clamp(0, 1)), y))
    return lowest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ball", [Linf(0.2), L2(0.5)], ids=str)
def test_linear_model_matches_the_closed_form(ball: Linf | L2, method: str) -> None:
    net = linear()
    x, y = pictures(net, 5, 2)
    W = net.net[1].weight / 0.25
    found = margin_bounds(net, x, y, ball, method=method)
    for i in range(len(x)):
        others = [j for j in range(4) if j != y[i]]
        w = (W[y[i]] - W[others]).detach()
        centre = margins(net(x[i : i + 1]), y[i : i + 1])[0].detach()
        flat = x[i].flatten()
        if isinstance(ball, Linf):
            down, up = flat - (flat - ball.eps).clamp(min=0), (flat + ball.eps).clamp(max=1) - flat
            exact = centre - torch.where(w > 0, w * down, -w * up).sum(1)
        else:
            exact = centre - ball.eps * w.norm(dim=1)
        torch.testing.assert_close(found[i], exact, atol=2e-4, rtol=0)
        assert (found[i] <= exact + 1e-5).all()


def test_l2_ball_with_uneven_std_is_enclosed() -> None:
    """The bound is that of the closed form with the smallest std everywhere, so at most std.max() / std.min() loose."""
    std = [0.2, 0.25, 0.3]
    net = Normalised(linear().net, MEAN, std).eval()
    x, y = pictures(net, 5, 2)
    W = net.net[1].weight.detach()
    per_pixel = torch.tensor(std).repeat_interleave(4)
    others = [[j for j in range(4) if j != label] for label in y.tolist()]
    w = torch.stack([W[label] - W[rest] for label, rest in zip(y.tolist(), others, strict=True)])
    centre = margins(net(x), y).detach()
    found = margin_bounds(net, x, y, L2(0.5))
    assert (found <= centre - 0.5 * (w / per_pixel).norm(dim=2)).all()
    torch.testing.assert_close(found, centre - 0.5 * w.norm(dim=2) / 0.2, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.1)], ids=str)
def test_bounds_contain_sampled_points(case: tuple[nn.Module, Tensor, Tensor], ball: Linf | L2, method: str) -> None:
    net, x, y = case
    bounds = margin_bounds(net, x, y, ball, method=method, steps=8)
    assert bounds.shape == (len(x), 3)
    assert (lowest_sampled(net, x, y, ball, 500) >= bounds - 1e-5).all()
    assert (margins(net(x), y) - bounds).mean() < 60 * ball.eps / 0.03  # not vacuous either


def test_costlier_methods_are_tighter(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    ibp, crown_ibp, crown, alpha = (margin_bounds(net, x, y, Linf(0.06), method=m) for m in METHODS)
    for looser, tighter in [(ibp, crown_ibp), (crown_ibp, crown), (crown, alpha)]:
        assert (looser.min(1).values <= tighter.min(1).values + 1e-4).all()
        assert looser.mean() < tighter.mean()
    assert (alpha > crown + 1e-4).any()


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.1)], ids=str)
def test_a_batch_is_its_images(case: tuple[nn.Module, Tensor, Tensor], ball: Linf | L2, method: str) -> None:
    net, x, y = case
    together = margin_bounds(net, x, y, ball, method=method, batch_size=len(x))
    alone = torch.cat([margin_bounds(net, x[i : i + 1], y[i : i + 1], ball, method=method) for i in range(len(x))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_float64_agrees_with_float32(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    single = margin_bounds(net, x, y, Linf(0.03))
    double = margin_bounds(copy.deepcopy(net).double(), x.double(), y, Linf(0.03))
    assert double.dtype == torch.float64
    assert (single - double).abs().max() < 5e-5  # within the slack asked of a float32 certificate


def test_verified_set_shrinks_with_eps(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    proven = [verified(net, x, y, Linf(eps)) for eps in (0.0, 0.02, 0.3, 0.9)]
    assert proven[0].all()
    assert not proven[-1].any()
    assert all((small | ~large).all() for small, large in pairwise(proven))


def test_wrong_labels_are_never_verified(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    wrong = (y + 1) % 4
    assert not verified(net, x, wrong, Linf(0.0)).any()
    assert (largest_verified_eps(net, x, wrong, norm="linf", hi=0.1) == 0).all()


def test_nan_bounds_prove_nothing() -> None:
    net = mlp()
    x, _ = pictures(net, 2, 2)
    net.net[5].weight.data[0] = float("nan")
    assert not verified(net, x, net(x).argmax(1), Linf(0.001)).any()


def test_largest_verified_eps_brackets_the_closed_form() -> None:
    net = linear()
    x, y = pictures(net, 6, 2)
    W = net.net[1].weight.detach() / 0.25
    lengths = torch.stack([(W[y[i]] - W[[j for j in range(4) if j != y[i]]]).norm(dim=1) for i in range(len(x))])
    exact = (margins(net(x), y) / lengths).min(1).values.double()
    found = largest_verified_eps(net, x, y, norm="l2", hi=1.0, iterations=10)
    reachable = exact.clamp(max=1.0)
    assert (found <= reachable).all()
    assert (found >= reachable - 2 / 1024).all()  # one bisection step and the float32 slack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_largest_verified_eps_was_verified(case: tuple[nn.Module, Tensor, Tensor], norm: str) -> None:
    net, x, y = case
    eps = largest_verified_eps(net, x, y, norm=norm, hi=3.2, iterations=6)
    assert (eps > 0).any()
    assert len(eps.unique()) > 1
    for i in range(len(x)):
        at = {"linf": Linf, "l2": L2}[norm]
        assert verified(net, x[i : i + 1], y[i : i + 1], at(float(eps[i])))
        assert not verified(net, x[i : i + 1], y[i : i + 1], at(float(eps[i]) + 0.05))


def test_certificates_reach_the_budget_exactly(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    budget = Linf(8 / 255 / 10)
    certificates = lirpa(net, x, y, budget)
    assert torch.equal(certificates.prediction, net(x).argmax(1))
    assert torch.equal(certificates.radius >= budget.eps, verified(net, x, y, budget))
    assert set(certificates.radius.tolist()) <= {0.0, budget.eps}
    wide = Linf(0.9)
    graded = lirpa(net, x, y, wide, bisection=5).radius
    assert torch.equal(graded, largest_verified_eps(net, x, y, norm="linf", hi=wide.eps, iterations=5))
    assert ((graded > 0) & (graded < wide.eps)).any()


def test_folding_keeps_outputs_and_leaves_the_original_alone() -> None:
    net = cnn().train()
    before = copy.deepcopy(net.state_dict())
    slim = folded(net)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout) for m in slim.modules())
    x = torch.rand(7, 3, 4, 4)
    torch.testing.assert_close(slim(x), net.eval()(x), atol=1e-5, rtol=1e-5)


def test_folding_keeps_what_it_may_not_fold() -> None:
    """A BatchNorm in front, and one whose convolution has a second reader."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.bn = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(self.first(x))
            return (z + self.bn(z)).flatten(1)

    net = Twice().eval()
    for bn in (net.first, net.bn):
        nn.init.normal_(bn.running_mean)
    slim, x = folded(net), torch.rand(2, 3, 4, 4)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in slim.modules()) == 2
    torch.testing.assert_close(slim(x), net(x))
    y = net(x).argmax(1)
    ball = Linf(0.01)
    assert (lowest_sampled(net, x, y, ball, 100) >= margin_bounds(net, x, y, ball) - 1e-5).all()


def test_bounding_leaves_the_network_alone(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    before, outputs = copy.deepcopy(net.state_dict()), net(x)
    margin_bounds(net, x, y, L2(0.1))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(net(x), outputs)


class CountsTheBatch(nn.Module):
    """Outputs depend on the batch size, which a traced graph cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * float(len(x))


def refusal(net: nn.Module, x: Tensor, ball: Linf | L2, method: str = "crown") -> str:
    with pytest.raises(Unsupported) as caught:
        margin_bounds(net, x, torch.zeros(len(x), dtype=torch.long), ball, method=method)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals_are_sentences() -> None:
    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    odd = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Hardswish(), nn.Linear(8, 4)).eval()
    assert "2 (Hardswish)" in refusal(odd, x, Linf(0.01))
    assert "float32" in refusal(linear().half(), x.half(), Linf(0.01))
    assert "float32" in refusal(linear().bfloat16(), x.bfloat16(), Linf(0.01))
    assert "one traced graph" in refusal(CountsTheBatch(), x, Linf(0.01))


def test_bad_input_is_refused() -> None:
    net = linear()
    x, y = pictures(net, 2, 2)
    with pytest.raises(BadData, match=r"\[0, 1\]"):
        margin_bounds(net, x * 255, y, Linf(0.01))
    with pytest.raises(UnknownName, match="crown"):
        margin_bounds(net, x, y, Linf(0.01), method="crwn")  # type: ignore[arg-type]


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net = linear()
    x, y = pictures(net, 1, 2)
    monkeypatch.setattr(_lirpa_compat, "LIBRARY", "auto_lirpa_is_not_here")
    with pytest.raises(MissingPackage, match="auto-LiRPA"):
        margin_bounds(net, x, y, Linf(0.01))
