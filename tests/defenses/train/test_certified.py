"""Training on bounds: intervals by hand, bounds that contain points, schedules, and more that is proven after it."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import Linf
from robustsuite.defenses.certifiers.lirpa import margin_bounds
from robustsuite.defenses.train.crown_ibp_training import crown_ibp_training
from robustsuite.defenses.train.ibp_training import ibp_training
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.verification.intervals import Bounds
from robustsuite.methods.verification.schedules import Ramp, worst_case
from robustsuite.serve.models import Normalised, Training, as_it_is, weights_sha256
from robustsuite.serve.training import Recipe, accuracy, fitted, one_cycle
from tests.defenses.train.test_adversarial_finetuning import fragile_split


class Residual(nn.Module):
    """A convolution beside its input, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x) + x).view(x.size(0), -1))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return Normalised(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3)), [0.5], [0.25])


def residual() -> nn.Module:
    torch.manual_seed(1)
    return Normalised(Residual(), [0.4], [0.5])


def test_intervals_of_a_linear_network_are_those_by_hand() -> None:
    torch.manual_seed(2)
    layer = nn.Linear(36, 3)
    x, y = 0.2 + 0.6 * torch.rand(5, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    net = Normalised(nn.Sequential(nn.Flatten(), layer), [0.3], [0.5])
    found = Bounds(net).ibp(x, y, 0.1)
    z = net(x)
    for i in range(5):
        others = [j for j in range(3) if j != y[i]]
        for k, j in enumerate(others):
            spread = 0.1 / 0.5 * (layer.weight[y[i]] - layer.weight[j]).abs().sum()
            torch.testing.assert_close(found[i, k], z[i, y[i]] - z[i, j] - spread, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [mlp, residual])
def test_both_bounds_are_auto_lirpas(build: object) -> None:
    net = build().eval()  # type: ignore[operator]
    x, y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 0])
    tight, plain = Bounds(net).crown_ibp(x, y, 0.05)
    for found, method in ((plain, "ibp"), (tight, "crown-ibp")):
        theirs = margin_bounds(net, x, y, Linf(0.05), method=method)  # type: ignore[arg-type]
        torch.testing.assert_close(found.detach(), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_the_gradients_are_those_of_finite_differences(name: str) -> None:
    net = residual().double()
    bounds = Bounds(net)
    x, y = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(5)).double(), torch.tensor([0, 2])

    def loss() -> Tensor:
        found = getattr(bounds, name)(x, y, 0.03)
        return worst_case(found if name == "ibp" else found[0])

    weights = list(net.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    directions = [torch.randn(w.shape, generator=torch.Generator().manual_seed(6)).double() for w in weights]
    ends = []
    for side in (1e-6, -2e-6):
        with torch.no_grad():
            for w, d in zip(weights, directions, strict=True):
                w += side * d
        ends.append(loss().item())
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_the_worst_case_is_the_cross_entropy_of_the_worst_logits() -> None:
    margins = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    logits = torch.cat([torch.zeros(2, 1), -margins], 1)
    expected = nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(worst_case(margins), expected)


def test_the_ramp_is_a_line_between_its_corners_and_the_rate_falls_after_it() -> None:
    ramp = Ramp(20)
    assert [ramp(e) for e in (0, 2, 7, 12, 20)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert [ramp.rate(4.0)(e) for e in (0, 12, 16, 20)] == pytest.approx([4, 4, 2, 0])


@pytest.mark.parametrize("method", [ibp_training, crown_ibp_training])
def test_more_is_proven_after_it_than_after_plain_training(method: object) -> None:
    training = Training(fragile_split(256, 1), fragile_split(64, 2), seed=0)
    net = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 2)), [0.5], [0.25])
    before = weights_sha256(net)
    plain = fitted(net, training, Recipe(12, one_cycle(0.2, 12), batch=32))
    tuned = method(as_it_is, eps="0.05", epochs=12, lr=0.02, batch=32, augment=False)(net, training)  # type: ignore[operator]
    test = fragile_split(200, 3)
    x = test.images(torch.arange(len(test)))

    def proven(net: nn.Module) -> float:
        with torch.no_grad():
            return float((Bounds(net).ibp(x, test.y, 0.05) > 0).all(1).float().mean())

    assert proven(tuned) > proven(plain) + 0.3
    assert accuracy(tuned, test) > 0.85
    assert weights_sha256(net) == before
    assert not any(p.requires_grad for p in tuned.parameters())


def test_refusals_are_sentences() -> None:
    training = Training(fragile_split(16, 1), fragile_split(16, 2), seed=0)
    for net in (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)),
                nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 2))):  # fmt: skip
        with pytest.raises(Unsupported, match="to train with bounds"):
            ibp_training(as_it_is)(net, training)
    with pytest.raises(BadValue, match="kappa in"):
        ibp_training(as_it_is, kappa=2.0)(mlp(), training)
