"""Certificates at any scale of logits: multiplied by a constant, a network keeps the answers and the proofs it has."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import L2, Linf
from robustsuite.defenses.certifiers.lirpa import largest_verified_eps, margin_bounds, verified
from robustsuite.errors import Unsupported
from tests.defenses.certifiers.bounded import CASES, in_double, pictures, scaled

SCALES = (1e-3, 1.0, 1e2, 1e3, 1e4)


@pytest.mark.parametrize("c", SCALES)
@pytest.mark.parametrize(
    ("case", "ball"), [("mlp", Linf(0.1)), ("mlp", L2(0.3)), ("cnn", Linf(0.3)), ("cnn", L2(0.85))], ids=str
)
def test_a_constant_before_the_logits_changes_no_certificate(case: str, ball: Linf | L2, c: float) -> None:
    build, side = CASES[case]
    net = build()
    x, y = pictures(net, 16, side)
    proven = in_double(net, x, y, ball) > 0
    assert 0 < proven.sum() < 16
    assert torch.equal(verified(scaled(net, c), x, y, ball), proven)


@pytest.mark.parametrize("c", SCALES)
@pytest.mark.parametrize("case", CASES)
def test_bounds_within_rounding_of_zero_are_decided_in_float64(case: str, c: float) -> None:
    """A bias moves a picture's lowest bound to a hair below 0, and to one above it: the last is proven, the first not.

    Float32 cannot tell the two: at logits x 1000 its bounds are wrong by more than the 1e-4 once asked for.
    """
    build, side = CASES[case]
    net, ball = build(), Linf(0.02)
    x, y = pictures(net, 3, side)
    scale = net(x).abs().max().item()
    lowest = in_double(net, x, y, ball)
    for i, row in enumerate(x.split(1)):
        for hair in (-1e-6, 1e-6):
            shift = torch.nn.functional.one_hot(y[i], 4) * (hair * scale - lowest[i]).float()
            moved = scaled(net, c, shift)
            true = in_double(moved, row, y[i : i + 1], ball).item() / (c * scale)
            assert 5e-7 < true / hair * 1e-6 < 2e-6  # the case is what it says
            right = bool(moved(row).argmax(1) == y[i])
            assert bool(verified(moved, row, y[i : i + 1], ball)) == (true > 0 and right)


def test_large_numbers_that_cancel_inside_are_seen() -> None:
    """A unit at 2000 that the last bias takes away again: the logits stay as small, their noise grows."""
    torch.manual_seed(0)
    hidden, last = nn.Linear(12, 17), nn.Linear(17, 4)
    with torch.no_grad():
        hidden.bias[16] = 2e3
        last.bias -= 2e3 * last.weight[:, 16]
    net, ball = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last).eval(), Linf(0.02)
    x, y = pictures(net, 8, 2)
    overstated = 0
    for i, row in enumerate(x.split(1)):
        mine, found = y[i : i + 1], margin_bounds(net, row, y[i : i + 1], ball).amin()
        moved = scaled(net, 1e2, torch.nn.functional.one_hot(y[i], 4) * (3e-6 - found))
        overstated += bool(in_double(moved, row, mine, ball) <= 0 and margin_bounds(moved, row, mine, ball).amin() > 0)
        assert bool(verified(moved, row, mine, ball)) <= bool(in_double(moved, row, mine, ball) > 0)
    assert overstated


@pytest.mark.parametrize("c", [1e-3, 1e4])
def test_radii_by_bisection_are_those_of_the_network_itself(c: float) -> None:
    build, side = CASES["mlp"]
    net = build()
    x, y = pictures(net, 8, side)
    found = largest_verified_eps(scaled(net, c), x, y, norm="linf", hi=0.2, iterations=5)
    assert torch.equal(found, largest_verified_eps(net, x, y, norm="linf", hi=0.2, iterations=5))
    assert len(found.unique()) > 2


def test_a_network_that_cannot_compute_in_double_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.matrix = nn.Linear(12, 4), [torch.eye(12)]

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.flatten(1) @ self.matrix[0])

    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    net = Fixed().eval()
    with pytest.raises(Unsupported, match="register its constants as buffers"):
        verified(net, x, net(x).argmax(1), Linf(0.01))
