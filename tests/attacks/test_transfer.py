"""Transfer: each transform against its formula, all of them composed, and sure nets whose gradients must not vanish."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.attacks.evasion.transfer import _transforms as how
from robustsuite.attacks.evasion.transfer.iterative import TRANSFORMS, transfer
from robustsuite.config.threats import L2, Access, Ball, Linf
from robustsuite.errors import BadData, BadValue, UnknownName
from robustsuite.maths.losses import margin
from robustsuite.maths.projections import unit
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import surrogates as owned
from robustsuite.methods.snapshots import Snapshots
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.oracle import Oracle

SIDE, N = 8, 5


def curved(seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Four classes over 3 x 8 x 8 pictures, curved, so that gradients differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * SIDE * SIDE, 4))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        net[3].weight.mul_(scale)
    return net.eval().requires_grad_(False)


X = 0.3 + 0.4 * torch.rand(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
Y = curved()(X).argmax(1)
OWN = Split.of(torch.rand(40, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)), torch.arange(40) % 4)
RNG = Rng.of(0, "transfer", torch.arange(N))


def attacked(net: nn.Module | dict[str, nn.Module], budget: Ball, **given: Any) -> Tensor:
    """x_adv on these nets of the adversary's own; the attacked system raises where it is asked."""
    nets = net if isinstance(net, dict) else {"own": net}
    model = Oracle.over(Silent(), Access.AUX_DATA, RNG, width=32)
    given = {"surrogates": " + ".join(nets), "targets": None} | given
    return transfer(model, X, Y, budget, rng=RNG, aux=Aux(OWN, lambda spec: nets[spec]), **given)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the attacked system was asked")


def ascent(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of sum f at x."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return grad


def loss(net: nn.Module, x: Tensor, y: Tensor = Y) -> Tensor:
    return functional.cross_entropy(net(x), y, reduction="none")


def one_step(transforms: list[str], net: nn.Module | None = None) -> Tensor:
    """The direction (N, C, H, W) of length 1 of one step in l2."""
    moved = attacked(net or curved(), L2(0.01), transforms=transforms, steps=1, rel_step=1.0, kernel=3) - X
    return unit(moved, "l2")


def test_without_a_transform_it_is_i_fgsm() -> None:
    net, at = curved(), X
    for _ in range(4):
        at = Linf(0.02).project(X, at + 0.01 * ascent(lambda x: loss(net, x), at).sign())
    assert torch.equal(attacked(net, Linf(0.02), steps=4, rel_step=0.5), at)


def test_mi_is_the_momentum_that_mga_starts_from() -> None:
    net = curved()
    there = owned.momentum(owned.mean_loss([net], Y), X, X, eps=0.05, size=0.01, steps=7)
    torch.testing.assert_close(attacked(net, Linf(0.05), transforms=["mi"], steps=7, rel_step=0.2), there)


def test_ni_takes_the_gradient_a_step_ahead() -> None:
    net, at, g = curved(), X, torch.zeros_like(X)
    for _ in range(3):
        grad = ascent(lambda x: loss(net, x), at + 0.01 * g)
        g = g + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        at = Linf(0.05).project(X, at + 0.01 * g.sign())
    torch.testing.assert_close(attacked(net, Linf(0.05), transforms=["ni"], steps=3, rel_step=0.2), at)


def test_si_is_the_mean_over_scaled_copies() -> None:
    net = curved()
    mean = torch.stack([ascent(lambda x, i=i: loss(net, x / 2**i), X) for i in range(5)]).mean(0)
    torch.testing.assert_close(one_step(["si"]), unit(mean, "l2"), atol=1e-4, rtol=1e-3)


def test_ti_sums_to_one_and_is_the_mean_over_shifts() -> None:
    by = how.kernel(5, torch.device("cpu"))
    assert float(by.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(by, by.flip(0).T)
    grad = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    padded = functional.pad(grad, (2, 2, 2, 2))
    shifts = sum(by[i, j] * padded[:, :, i : i + SIDE, j : j + SIDE] for i in range(5) for j in range(5))
    torch.testing.assert_close(how.smoothed(grad, by), shifts)
    torch.testing.assert_close(how.smoothed(grad, how.kernel(1, by.device)), grad)

    plain = ascent(lambda x: loss(curved(), x), X).double()
    expected = unit(how.smoothed(plain, how.kernel(3, by.device)), "l2").float()
    torch.testing.assert_close(one_step(["ti"]), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("size", "place"), [(0.0, 0.0), (0.3, 0.999), (0.6, 0.5), (0.999, 0.2)])
def test_di_shrinks_bilinearly_and_pads_with_zeros(size: float, place: float) -> None:
    side = 20
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4))
    by = how.resampling(side, torch.tensor([size]), torch.tensor([place]))
    short = 18 + min(2, int(size * 3))
    first = int(place * (side - short + 1))
    small = functional.interpolate(x, (short, short), mode="bilinear", align_corners=False)
    expected = functional.pad(small, (first, side - short - first, first, side - short - first))
    torch.testing.assert_close(by[:, None] @ x @ by[:, None].mT, expected, atol=1e-5, rtol=1e-5)


def test_di_leaves_about_half_of_the_pictures_alone_and_draws_for_each() -> None:
    x = torch.rand(200, 1, 20, 20, generator=torch.Generator().manual_seed(5))
    moved = how.diverse(x, torch.zeros(200), Rng.of(0, "di", torch.arange(200)))
    same = (moved == x).flatten(1).all(1)
    assert 110 < int(same.sum()) < 160, "half, and a third of the others"
    rows = (moved.sum((1, 3)) == 0).sum(1)[~same]
    assert set(rows.tolist()) == {1, 2}, "sides of 19 and 18 pixels; one of 20 is the picture itself"


def test_admix_takes_a_fifth_of_pictures_of_other_classes() -> None:
    marked = Split.of(torch.arange(40)[:, None, None, None].expand(40, 1, 2, 2) / 40, torch.arange(40) % 4)
    admixed = how.admixing(marked, torch.device("cpu"))
    y = torch.arange(4).repeat(50)
    mixed = admixed(torch.zeros(200, 1, 2, 2), y, Rng.of(0, "admix", torch.arange(200)))
    number = (mixed[:, 0, 0, 0] / 0.2 * 40).round().long()
    assert len(mixed) == 600
    assert not (number % 4 == y.repeat(3)).any()
    assert len(set(number.tolist())) == 40, "every picture of another class is drawn by somebody"
    with pytest.raises(BadData, match="pictures of several classes"):
        how.admixing(Split.of(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)), torch.device("cpu"))


def test_vt_adds_what_the_neighbourhood_had_besides_at_the_step_before() -> None:
    net, at, g, v = curved(), X, torch.zeros_like(X), torch.zeros_like(X)
    for step in range(2):
        grad = ascent(lambda x: loss(net, x), at)
        streams = RNG.fold(step).fold("vt")
        points = [how.around(at, streams.fold(i).fold("around"), 0.05, "linf") for i in range(how.NEIGHBOURS)]
        near = torch.stack([ascent(lambda x: loss(net, x), p) for p in points]).mean(0)
        g = g + unit(grad + v, "l1")
        v = near - grad
        at = Linf(0.05).project(X, at + 0.025 * g.sign())
    torch.testing.assert_close(attacked(net, Linf(0.05), transforms=["vt", "mi"], steps=2, rel_step=0.5), at)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_neighbours_lie_within_one_and_a_half_radii(norm: str) -> None:
    far = (how.around(X, RNG, 0.1, norm) - X).flatten(1)
    reach = far.abs().amax(1) if norm == "linf" else far.norm(dim=1)
    assert bool((reach <= 0.15 + 1e-6).all())
    assert bool((reach > 0.14).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sure_net_still_has_a_gradient(norm: str) -> None:
    net = curved(scale=60.0)
    lead = -margin(net(X), Y)
    assert float(lead.min()) > 40, "softmax rounds to 1 in float32"
    assert not ascent(lambda x: loss(net, x), X).any(), "and float32's cross entropy has no gradient"
    ball = Linf(0.02) if norm == "linf" else L2(0.1)
    moved = (attacked(net, ball, steps=5, rel_step=0.4) - X).flatten(1)
    length = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    torch.testing.assert_close(length, torch.full((N,), ball.eps), atol=1e-5, rtol=1e-3)
    assert (margin(net(X + moved.view_as(X)), Y) > -lead).all()


def test_gradients_far_below_float32s_smallest_squares_are_normalised() -> None:
    grad = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    for norm in ("linf", "l2"):
        torch.testing.assert_close(how.normalised(grad * 1e-300, norm), how.normalised(grad, norm))
    assert not how.normalised(torch.zeros_like(grad), "l2").any()


class Counted(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)  # type: ignore[no-any-return]


def test_light_asks_one_net_a_step_and_each_as_often() -> None:
    nets = {str(i): Counted(curved(i)) for i in range(3)}
    attacked(dict(nets), Linf(0.05), steps=6)
    assert [net.calls for net in nets.values()] == [2, 2, 2]
    attacked(dict(nets), Linf(0.05), steps=6, light=False)
    assert [net.calls for net in nets.values()] == [8, 8, 8]


def test_all_at_once_ascends_the_mean_of_losses() -> None:
    nets = {str(i): curved(i) for i in range(3)}
    mean = ascent(lambda x: torch.stack([loss(net, x) for net in nets.values()]).mean(0), X)
    moved = attacked(dict(nets), L2(0.01), steps=1, rel_step=1.0, light=False) - X
    torch.testing.assert_close(unit(moved, "l2"), unit(mean, "l2"), atol=1e-4, rtol=1e-3)


def test_the_order_is_every_net_once_before_any_comes_again() -> None:
    order = owned.shuffled(7, 20)
    assert len(order) == 20
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]


def test_snapshots_answer_as_the_nets_they_are_of() -> None:
    nets = [curved(i) for i in range(3)]
    held = Snapshots(curved(9), [net.state_dict() for net in nets])
    for member, net in zip(held.members(), nets, strict=True):
        torch.testing.assert_close(member(X), net(X))
    torch.testing.assert_close(held(X), torch.stack([net(X) for net in nets]).mean(0))
    there = attacked({str(i): net for i, net in enumerate(nets)}, Linf(0.05), steps=6)
    torch.testing.assert_close(attacked(held, Linf(0.05), steps=6), there)


class Doubled(nn.Module):
    """Twice its input, by a buffer that no `state_dict` has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("two", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two * x  # type: ignore[no-any-return]


def test_what_no_state_holds_is_the_architectures() -> None:
    net = nn.Sequential(Doubled(), curved())
    held = Snapshots(net, [net.state_dict()] * 2).double()
    torch.testing.assert_close(held(X.double()).float(), net(X))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_all_of_them_together_raise_the_loss_within_the_ball(norm: str) -> None:
    net, ball = curved(), Linf(0.05) if norm == "linf" else L2(0.5)
    x_adv = attacked(net, ball, transforms=list(TRANSFORMS), steps=5, rel_step=0.3, kernel=3)
    assert bool(ball.allows(X, x_adv).all())
    assert bool((loss(net, x_adv) > loss(net, X)).all())
    assert torch.equal(x_adv, attacked(net, ball, transforms=TRANSFORMS[::-1], steps=5, rel_step=0.3, kernel=3))


def test_targets_are_reached() -> None:
    targets = ((Y + 1) % 4)[:, None]
    x_adv = attacked(curved(), Linf(0.2), targets=targets, loss="margin", transforms=["mi"])
    assert torch.equal(curved()(x_adv).argmax(1), targets[:, 0])


def test_what_no_attack_can_be_is_refused() -> None:
    tried = partial(attacked, curved(), Linf(0.1))
    with pytest.raises(UnknownName, match="expected a known transform, got 'dj'"):
        tried(transforms=["dj"])
    with pytest.raises(BadValue, match="each transform once"):
        tried(transforms=["mi", "mi"])
    with pytest.raises(BadValue, match="a list of transforms"):
        tried(transforms="mi")
    for wrong in ({"steps": 0}, {"rel_step": 0.0}, {"rel_step": math.nan}, {"kernel": 4}):
        with pytest.raises(BadValue, match="an odd kernel"):
            tried(**wrong)
    with pytest.raises(BadValue, match="expected surrogates"):
        tried(surrogates="")


PEERS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "BIM": ([], {}),
    "MIFGSM": (["mi"], {"decay": 1.0}),
    "NIFGSM": (["ni"], {"decay": 1.0}),
    "SINIFGSM": (["ni", "si"], {"decay": 1.0, "m": how.SCALES}),
    "TIFGSM": (["mi", "ti"], {"decay": 1.0, "len_kernel": 5, "diversity_prob": 0.0}),
}


@pytest.mark.parametrize("name", PEERS)
def test_what_draws_nothing_makes_the_pictures_of_torchattacks(name: str) -> None:
    library = pytest.importorskip("torchattacks")
    transforms, given = PEERS[name]
    net = curved()
    peer = getattr(library, name)(net, eps=0.05, alpha=0.01, steps=6, **given)(X, Y)
    mine = attacked(net, Linf(0.05), transforms=transforms, steps=6, rel_step=0.2, kernel=5)
    same = (mine - peer).abs().flatten(1) < 1e-6
    assert float(same.float().mean()) > 0.999, "but for signs of gradients that are zero to rounding"
