"""The window cascade: at its ends it is one network, in between it asks and costs exactly what its window says."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.defenses.serve.window_cascade import Cascade, mean_logits, window, window_cascade
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.macs import macs
from robustsuite.serve.data import Split
from robustsuite.serve.ensembles import Members
from robustsuite.serve.models import Training, ready

X = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Counted(nn.Module):
    """A network that counts the pictures it is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits: Tensor = self.net(x)
        return logits


def nets() -> Members:
    """Seeded, the second with six times the first's convolution."""
    made = []
    for seed, width in ((0, 2), (1, 12)):
        layers = nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 4)
        for p in nn.Sequential(*layers).parameters():
            nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(seed))
        made.append(Counted(ready(nn.Sequential(*layers))))
    return Members(made)


def training(keep: dict[str, Any] | None = None) -> Training:
    split = Split.of(X, torch.arange(64) % 4)
    return Training(split, split, 0, keep=({} if keep is None else keep).__setitem__)


def test_no_window_is_the_first_network_and_the_whole_is_the_second_or_both() -> None:
    both = nets()
    small, large = (net.net for net in both.nets)  # type: ignore[union-attr]
    none = window_cascade(both, training(), width=0.0)
    assert torch.equal(none(X), small(X).log_softmax(1))  # type: ignore[operator]
    second = window_cascade(both, training(), width=1.0, alone=True)
    assert torch.equal(second(10 * X), large(10 * X).log_softmax(1))  # type: ignore[operator]
    mean = window_cascade(both, training(), width=1.0)
    wanted = (small(X).softmax(1) + large(X).softmax(1)) / 2  # type: ignore[operator]
    assert torch.allclose(mean(X).exp(), wanted, atol=1e-6)


@pytest.mark.parametrize(("coverage", "width"), [(0.8, 0.1), (0.5, 0.25), (0.95, 0.1), (0.0, 0.25)])
def test_the_second_is_asked_inside_the_window_alone_and_costs_are_exact(coverage: float, width: float) -> None:
    both, kept = nets(), {}
    cascade = window_cascade(both, training(kept), coverage=coverage, width=width)
    small, large = both.nets
    before = large.asked
    said = cascade(X)
    inside = cascade.passed(small(X).log_softmax(1))  # type: ignore[operator]
    n = int(inside.sum())
    q = 1 - coverage
    assert n / 64 == pytest.approx(min(1, q + width) - max(0, q - width), abs=1 / 32)
    assert large.asked - before == -(-n // 16) * 16  # whole tiles
    assert torch.equal(said[~inside], small(X).log_softmax(1)[~inside])
    assert not torch.allclose(said[inside], small(X).log_softmax(1)[inside])
    ((first, second, share, mean),) = kept["window_cascade"]["table"]["rows"]
    assert (first, second) == pytest.approx((64 * (27 * 2 + 2 * 4) / 1e6, 64 * (27 * 12 + 12 * 4) / 1e6))
    assert mean == pytest.approx(first + share * second)
    assert share == n / 64


def test_a_picture_is_answered_alike_whatever_stands_beside_it_in_whole_tiles() -> None:
    cascade = window_cascade(nets(), training(), coverage=0.5, width=0.25)
    whole = cascade(X)
    assert torch.equal(torch.cat([cascade(part) for part in X.split(16)]), whole)
    assert torch.equal(cascade(X.flip(0)).flip(0), whole)
    assert cascade(X[:0]).shape == (0, 4)


def test_a_gradient_leads_through_the_network_that_answers_and_the_surrogate_asks_both() -> None:
    both = nets()
    cascade = window_cascade(both, training(), coverage=0.5, width=0.25)
    leaf = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(cascade(leaf)[:, 0].sum(), leaf)
    assert bool((g != 0).flatten(1).any(1).all())
    assert mean_logits(both, cascade) is both


def test_with_a_ramp_the_answer_goes_over_without_a_step_and_costs_the_same() -> None:
    hard, soft = (window_cascade(nets(), training(), coverage=0.5, width=0.3, ramp=ramp) for ramp in (0.0, 0.5))
    small, _ = soft.members()  # type: ignore[operator]
    t = torch.linspace(0, 1, 20001)[:, None, None, None]
    line = ((1 - t) * X[:1] + t * X[5:6]).clone()
    first = small(line).log_softmax(1)
    assert torch.equal(hard.passed(first), soft.passed(first))  # type: ignore[operator]
    crossed = hard.passed(first).int().diff().abs().sum()  # type: ignore[operator]
    assert int(crossed) >= 1, "a line that enters the window or leaves it"
    steps = [(net(line).diff(dim=0).abs().amax()) for net in (hard, soft)]
    assert float(steps[1]) < 0.05 * float(steps[0])
    for width, ramp in ((0.3, 0.5), (0.5, 1.0), (0.9, 0.1)):
        leaf, net = X.clone().requires_grad_(), window_cascade(nets(), training(), coverage=0.5, width=width, ramp=ramp)
        assert bool(torch.autograd.grad(net(leaf).sum(), leaf)[0].isfinite().all())
    tied = window_cascade(nets(), training(), coverage=0.5, width=0.3, ramp=0.5)
    same = small(X[:1]).log_softmax(1).exp().amax(1).detach().expand(9)  # type: ignore[operator]
    tied.ends = window(same, 0.5, 0.3, 0.5)
    assert bool(tied(X[:1]).isfinite().all()), "where many confidences are one and the same"


def test_a_window_by_hand_and_what_is_refused() -> None:
    confidence = torch.linspace(0, 1, 101)
    assert window(confidence, 0.2, 0.1).tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert window(confidence, 0.2, 0.1, 0.25).tolist() == pytest.approx([0.1, 0.125, 0.275, 0.3])
    assert window(confidence, 0.05, 0.1, 0.5).tolist() == pytest.approx([-2, -1, 0.1, 0.15])
    assert window(confidence, 0.95, 0.1).tolist() == pytest.approx([0.85, 0.85, 2, 3])
    assert not bool(Cascade(nets(), False).passed(torch.zeros(3, 4)).any())
    assert macs(nn.Conv2d(3, 16, 3, padding=1), torch.zeros(5, 3, 32, 32)) == 32 * 32 * 16 * 27
    with pytest.raises(Unsupported, match="two networks"):
        window_cascade(Members([nets().nets[0]]), training())
    with pytest.raises(Unsupported, match="two networks"):
        window_cascade(nets().nets[0], training())
    with pytest.raises(BadValue, match="coverage"):
        window_cascade(nets(), training(), coverage=1.5)
