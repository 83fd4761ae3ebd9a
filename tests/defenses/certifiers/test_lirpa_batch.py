"""The batch in bounding: shapes that name it, remainders of it, and no picture at all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import L2, Linf
from robustsuite.defenses.certifiers.lirpa import largest_verified_eps, lirpa, margin_bounds, verified
from robustsuite.errors import Unsupported

FLAT: dict[str, Callable[[Tensor], Tensor]] = {
    "view(size(0), -1)": lambda z: z.view(z.size(0), -1),
    "view(len, -1)": lambda z: z.view(len(z), -1),
    "reshape(shape[0], -1)": lambda z: z.reshape(z.shape[0], -1),
    "reshape(shape[0], 400)": lambda z: z.reshape(z.shape[0], 400),
    "view(-1, 400)": lambda z: z.view(-1, 400),
    "torch.flatten": lambda z: torch.flatten(z, 1),
    "view(size(0), 4, -1).flatten": lambda z: z.view(z.size(0), 4, -1).flatten(1),
}


class Net(nn.Module):
    """A convolution, 400 values laid flat by `flat`, two layers."""

    def __init__(self, flat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.flat = nn.Conv2d(1, 4, 3), flat
        self.hidden, self.last = nn.Linear(400, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(self.flat(torch.relu(self.conv(x))))))


X = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(1))
PLAIN = Net(lambda z: z.flatten(1)).eval()
Y = PLAIN(X).argmax(1)


@pytest.mark.parametrize("flat", FLAT)
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.2)], ids=str)
def test_however_a_net_lays_its_maps_flat_its_bounds_are_those_of_flatten(
    flat: str, method: str, ball: Linf | L2
) -> None:
    net = Net(FLAT[flat]).eval()
    found = margin_bounds(net, X, Y, ball, method=method, steps=4)  # pairs of pictures, and one left over
    expected = margin_bounds(PLAIN, X, Y, ball, method=method, steps=4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(2)
    own = nn.functional.one_hot(Y, 4).bool()
    with torch.no_grad():
        for _ in range(100):
            step = 2 * torch.rand(X.shape, generator=generator) - 1
            step = step.sign() if ball.norm == "linf" else step / step.flatten(1).norm(dim=1)[:, None, None, None]
            z = net((X + ball.eps * step).clamp(0, 1))
            assert (z[own][:, None] - z[~own].view(5, 3) >= found - 1e-5).all()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_the_number_bounded_at_a_time_changes_nothing(batch_size: int) -> None:
    net = Net(FLAT["view(size(0), -1)"]).eval()
    radii = largest_verified_eps(net, X, Y, norm="l2", hi=2.0, iterations=9, batch_size=batch_size)
    assert torch.equal(radii, largest_verified_eps(PLAIN, X, Y, norm="l2", hi=2.0, iterations=9))
    assert len(radii.unique()) > 2


class Branching(nn.Module):
    """Another network for bright pictures, or for more than one picture."""

    def __init__(self, otherwise: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.otherwise = otherwise

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * (2.0 if self.otherwise(x) else 1.0)


@pytest.mark.parametrize("otherwise", [lambda x: bool(x[-1].mean() > 0.5), lambda x: len(x) > 1, lambda x: len(x) > 3])
@pytest.mark.parametrize("n", [4, 5])
def test_branches_on_values_or_on_the_batch_are_still_refused(otherwise: Callable[[Tensor], bool], n: int) -> None:
    x = torch.cat([0.2 * X[:1], 0.5 + 0.5 * X[1:]])[:n]
    net = Branching(otherwise)
    with pytest.raises(Unsupported, match="one traced graph"):
        margin_bounds(net, x, torch.zeros(n, dtype=torch.int64), Linf(0.01), batch_size=n)


@pytest.mark.parametrize("flat", ["torch.flatten", "view(size(0), -1)"])
def test_of_no_picture_nothing_is_proven(flat: str) -> None:
    net, x, y = Net(FLAT[flat]).eval(), X[:0], Y[:0]
    for ball in (Linf(0.1), L2(0.1)):
        assert margin_bounds(net, x, y, ball).shape == (0, 3)
        assert verified(net, x, y, ball).shape == (0,)
        for bisection in (0, 3):
            found = lirpa(net, x, y, ball, bisection=bisection)
            assert found.prediction.dtype == torch.int64
            assert found.prediction.shape == found.radius.shape == (0,)
