"""Every attack: the same bits whatever the batch, order or width; inputs untouched; nothing at eps 0; never outside."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion.apgd import apgd
from robustsuite.attacks.evasion.fgsm import fgsm
from robustsuite.attacks.evasion.minimum_norm.fmn import fmn
from robustsuite.attacks.evasion.noise import noise
from robustsuite.attacks.evasion.pgd import pgd
from robustsuite.attacks.evasion.square import square
from robustsuite.config.threats import Access, Ball, parse_ball
from robustsuite.maths.randomness import Rng
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle
from tests.attacks.linear import oracle

N, SHAPE = 13, (3, 10, 8)
RADII = {"linf": 0.02, "l2": 0.3, "l1": 3.0, "l0": 8}

CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "noise": (partial(noise, draws=5), ("linf", "l2", "l1", "l0")),
    "fgsm": (fgsm, ("linf", "l2", "l1")),
    "pgd": (partial(pgd, steps=8, restarts=2), ("linf", "l2", "l1")),
    "pgd-targets": (partial(pgd, steps=5, n_targets=3), ("linf", "l2")),
    "apgd": (partial(apgd, steps=15, restarts=2), ("linf", "l2", "l1")),
    "apgd-t": (partial(apgd, steps=10, loss="dlr-t", n_targets=3), ("linf", "l2", "l1")),
    "apgd-malt": (partial(apgd, steps=6, loss="dlr-t", n_targets=3, order="malt"), ("linf", "l2")),
    "square": (partial(square, steps=20), ("linf", "l2")),
    "fmn": (partial(fmn, steps=12), ("linf", "l2", "l1", "l0")),
}
EACH = [pytest.param(f, norm, id=f"{name}-{norm}") for name, (f, norms) in CASES.items() for norm in norms]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small net with random weights, sharp enough that some pictures break and some do not."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 6)]
    net = nn.Sequential(*layers)
    for i, p in enumerate(net.parameters()):
        scale = 2.5 / max(p[0].numel(), 1) ** 0.5 if p.dim() > 1 else 0.1
        p.data = scale * Rng.of(1, f"weights {i}", torch.tensor([0])).normal(*p.shape)[0]
    return ready(net)


@pytest.fixture(scope="module")
def pictures(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Some entries saturated, labels as the net gives them."""
    x = (Rng.of(0, "pictures", torch.arange(N)).uniform(*SHAPE) * 1.2 - 0.1).clamp(0, 1)
    return x, oracle(net, N)(x).argmax(1)


def attack(f: Any, net: nn.Module, x: Tensor, y: Tensor, ball: Ball, ids: Tensor, width: int = 64) -> Tensor:
    model = Oracle.over(net, Access.WHITE_BOX, Rng.of(0, "oracle", ids), width=width)
    found = f(model, x, y, ball, rng=Rng.of(0, "attack", ids))
    return found if isinstance(found, Tensor) else found.x_adv


@pytest.mark.parametrize(("f", "norm"), EACH)
def test_same_bits_at_any_width_order_or_split(f: Any, norm: str, net: nn.Module, pictures: tuple) -> None:
    (x, y), ball, ids = pictures, parse_ball(norm, RADII[norm]), torch.arange(N)
    together = attack(f, net, x, y, ball, ids)
    for width in (1, 7):
        assert torch.equal(attack(f, net, x, y, ball, ids, width), together), f"width {width}"
    back = ids.flip(0)
    assert torch.equal(attack(f, net, x[back], y[back], ball, back)[back], together), "reversed"
    halves = [attack(f, net, x[part], y[part], ball, part) for part in ids.chunk(2)]
    assert torch.equal(torch.cat(halves), together), "two halves"


@pytest.mark.parametrize(("f", "norm"), EACH)
def test_contract(f: Any, norm: str, net: nn.Module, pictures: tuple) -> None:
    (x, y), ball, ids = pictures, parse_ball(norm, RADII[norm]), torch.arange(N)
    x_before, y_before = x.clone(), y.clone()
    state = torch.get_rng_state()
    x_adv = attack(f, net, x, y, ball, ids)
    assert torch.equal(torch.get_rng_state(), state), "a global random state was used"
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    if getattr(f, "func", f) is not fmn:  # minimum-norm: its break may lie outside the ball
        assert ball.allows(x, x_adv).all()


@pytest.mark.parametrize(("f", "norm"), EACH)
def test_eps_zero_gives_the_pictures_back(f: Any, norm: str, net: nn.Module, pictures: tuple) -> None:
    (x, y), ids = pictures, torch.arange(N)
    x_adv = attack(f, net, x, y, parse_ball(norm, 0), ids)
    if getattr(f, "func", f) is fmn:
        wrong = oracle(net, N)(x_adv).argmax(1) != y
        assert torch.equal(x_adv[~wrong], x[~wrong])
    else:
        assert torch.equal(x_adv, x)


@pytest.mark.parametrize(("f", "norm"), EACH)
def test_empty_batch(f: Any, norm: str, net: nn.Module, pictures: tuple) -> None:
    (x, y), none = pictures, torch.arange(0)
    assert attack(f, net, x[:0], y[:0], parse_ball(norm, RADII[norm]), none).shape == (0, *SHAPE)


@pytest.mark.parametrize(("f", "norm"), [p for p in EACH if not p.id.startswith(("noise", "fgsm"))])
def test_robust_accuracy_falls_with_eps(f: Any, norm: str, net: nn.Module, pictures: tuple) -> None:
    (x, y), ids = pictures, torch.arange(N)
    robust = []
    for factor in (0.25, 1, 4, 16):
        ball = parse_ball(norm, max(RADII[norm] * factor, 1) if norm == "l0" else RADII[norm] * factor)
        x_adv = attack(f, net, x, y, ball, ids)
        wrong = oracle(net, N)(x_adv).argmax(1) != y
        robust.append(int((~(wrong & ball.allows(x, x_adv))).sum()))
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[-1] or robust[0] == 0
