"""Planted frauds are flagged by their own word; honest networks are left in peace."""

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.errors import BadModel
from robustsuite.integrity.gradient_probes import gradients
from robustsuite.integrity.probes import canaries, probe
from robustsuite.serve.data import InputSpace
from tests.toys import SPACE as TOY
from tests.toys import labelled, linear

SPACE = InputSpace(3, 8, 8, 4)
X = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Honest(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(8 * 64, classes)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))

    def forward(self, x):
        return self.head(self.net(x))


class Wrapped(nn.Module):
    def __init__(self, after=lambda z: z, before=lambda x: x) -> None:
        super().__init__()
        self.base, self.after, self.before = Honest(), after, before

    def forward(self, x):
        return self.after(self.base(self.before(x)))


def flags(net: nn.Module, y: torch.Tensor | None = None) -> dict[str, str]:
    with torch.no_grad():
        y = Honest().eval()(X).argmax(1) if y is None else y
    return {flag.name: flag.detail for flag in probe(net, X, y, SPACE)}


def test_an_honest_network_has_no_flags():
    assert flags(Honest().eval()) == {}


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (Wrapped(after=lambda z: z.softmax(1)), "probabilities_not_logits"),
        (Wrapped(after=lambda z: z + 0.01 * torch.randn_like(z)), "randomised"),
        (Wrapped(after=lambda z: z - z.mean(0)), "batch_dependent"),
        (Wrapped(after=lambda z: z.detach().requires_grad_()), "zero_gradients"),
        (Wrapped(after=lambda z: z + (z.round() - z).detach()), "rounded_logits"),
        (Wrapped(after=lambda z: z.roll(1, 1)), "clean_at_chance"),
    ],
)
def test_a_fraud_is_flagged_and_nothing_else_is(net, name):
    assert set(flags(net.eval())) == {name}


@pytest.mark.parametrize("n", [1, 3, 9])
def test_few_pictures_are_enough_to_ask(n):
    net = Honest().eval()
    with torch.no_grad():
        y = net(X[:n]).argmax(1)
    assert {flag.name for flag in probe(net, X[:n], y, SPACE)} <= {"clean_at_chance"}


def test_training_mode_is_flagged_and_its_statistics_are_left_alone():
    net = Honest().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = flags(net)
    assert "training_mode" in found
    assert "batch_dependent" in found
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_clamp_inside_is_flagged_where_it_freezes_saturated_pixels():
    frozen = canaries()["clamp_gradient_at_bound"] == 0
    found = flags(Wrapped(before=lambda x: x.clamp(0, 1)).eval())
    assert ("zero_gradients" in found) == frozen


@pytest.mark.parametrize("frozen", [False, True])
def test_places_that_a_network_ignores_are_no_finding_and_a_freeze_beside_them_is_one(frozen: bool) -> None:
    """A linear network whose weights are zero where every picture is black: so far it was taken for a clamp."""
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, :, :4] = 0
    head = nn.Linear(64, 10)
    with torch.no_grad():
        head.weight.view(10, 8, 8)[:, :, :4] = 0

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x.where((x > 0) & (x < 1), x.detach()) if frozen else x).flatten(1))

    x[:, :, :, 6:] = x[:, :, :, 6:].round()
    x[:, :, 4, 4] = 1
    found = {flag.name for flag in gradients(Masked().eval(), x, head(x.flatten(1)).detach(), moves=True)}
    assert ("zero_gradients" in found) == frozen


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Honest(classes=3), "4-class data, got the model with 3 classes"),
        (Wrapped(after=lambda z: z * float("nan")), "NaN"),
        (Wrapped(after=lambda z: z[:, :, None]), "shape"),
        (Wrapped(after=lambda z: (z, z)), "tuple"),
        (nn.Linear(5, 4), "error"),
    ],
)
def test_what_is_no_classifier_of_these_classes_is_refused(net, words):
    with pytest.raises(BadModel, match=words):
        flags(net.eval(), torch.zeros(32, dtype=torch.int64))


def test_canaries_measure_what_torch_does():
    edge = torch.tensor([0.0, 1.0], requires_grad=True)
    edge.clamp(0, 1).sum().backward()
    assert canaries()["clamp_gradient_at_bound"] == edge.grad.mean().item()
    assert canaries()["conv_repeats"] is True


def test_what_is_judged_in_8_bits_is_asked_whether_a_level_moves_it() -> None:
    class Eight(nn.Module):
        """`linear` behind pictures of so many levels."""

        def __init__(self, levels: int) -> None:
            super().__init__()
            self.net, self.levels = linear(), levels

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x * self.levels).round() / self.levels)

    split = labelled(linear(), n=32)
    x = split.images(torch.arange(32))

    def said(levels: int, grid: bool) -> bool:
        flags = probe(Eight(levels), x, split.y, TOY, shows=Access.SCORES, grid=grid)
        return "piecewise_constant" in {flag.name for flag in flags}

    assert said(255, grid=False)
    assert not said(255, grid=True)
    assert said(4, grid=True)
