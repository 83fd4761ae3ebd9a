"""Trainings for randomized smoothing: SmoothAdv, consistency and denoised smoothing against what is known of them."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.defenses.train.consistency import consistency, disagreement
from robustsuite.defenses.train.denoised_smoothing import denoised_smoothing, denoiser, mse, stability
from robustsuite.defenses.train.gaussian_augmentation import gaussian_augmentation
from robustsuite.defenses.train.smoothadv import ascended, smoothadv, smoothed_loss
from robustsuite.errors import BadValue
from robustsuite.methods.smoothing import copies
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is, weights_sha256
from robustsuite.serve.training import Batch

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
Y = torch.tensor([0, 2, 1, 1])


def linear(classes: int = 3) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, classes))
    nn.init.normal_(net[1].weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return net.eval()


def training_of(n: int = 64, seed: int = 0) -> Training:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = (0.5 + 0.1 * (2.0 * y - 1).view(-1, 1, 1, 1) + 0.05 * torch.randn(n, 1, 8, 8, generator=g)).clamp(0, 1)
    split = Split.of(x, y)
    return Training(split, split.first(8), seed=0)


def test_smoothadvs_gradient_is_the_closed_form_of_a_linear_network() -> None:
    net, m = linear(), 5
    noise = 0.4 * torch.randn(4 * m, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    leaf = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(smoothed_loss(net, leaf, Y, noise), leaf)
    p = net(copies(X, noise)).softmax(1).view(4, m, 3)
    p_y = p.gather(2, Y.view(4, 1, 1).expand(4, m, 1))
    # -log of a mean: each draw counts by its share of the mean, and pulls along W^T (p - e_y).
    pull = (p - functional.one_hot(Y, 3)[:, None]) @ net[1].weight
    expected = (p_y / p_y.sum(1, keepdim=True) * pull).sum(1).view_as(X)
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_smoothadv_ascends_lies_in_ball_and_box_and_is_harder() -> None:
    net = linear()
    noise = 0.25 * torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = smoothed_loss(net, X, Y, noise)
    net.train()
    x_adv = ascended(net, X, Y, noise, 0.3, 3)
    assert net.training
    assert float((x_adv - X).flatten(1).norm(dim=1).max()) <= 0.3 + 1e-5
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    with torch.no_grad():
        assert float(smoothed_loss(net, x_adv, Y, noise)) > float(before) + 0.1


@pytest.mark.parametrize("how", [{"steps": 0}, {"eps": 0}])
def test_without_an_ascent_and_with_one_draw_it_is_gaussian_augmentation(how: dict[str, int]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    given = {"sigma": 0.3, "epochs": 2, "lr": 0.05}
    plain = gaussian_augmentation(as_it_is, **given)(net, training_of())
    ours = smoothadv(as_it_is, draws=1, **how, **given)(net, training_of())
    assert weights_sha256(ours) == weights_sha256(plain) != weights_sha256(net.eval())


def test_answers_that_agree_disagree_by_nothing_and_otherwise_by_the_formula() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    kl, entropy = disagreement(logits.repeat_interleave(5, 0), 5)
    p = logits.softmax(1)
    assert torch.allclose(kl, torch.zeros(4), atol=1e-6)
    assert torch.allclose(entropy, -(p * p.log()).sum(1), atol=1e-6)
    kl, entropy = disagreement(torch.tensor([[0.0, 1000.0], [1000.0, 0.0]]), 2)
    assert float(entropy) == pytest.approx(math.log(2))
    assert float(kl) == pytest.approx(500 - math.log(2))


def test_consistency_makes_noisy_copies_agree() -> None:
    net = linear(2)
    net[1] = nn.Linear(64, 2)
    nn.init.normal_(net[1].weight, std=0.5, generator=torch.Generator().manual_seed(1))
    noise = 0.5 * torch.randn(64 * 8, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    x = training_of().train.images(torch.arange(64))

    def apart(trained: nn.Module) -> float:
        with torch.no_grad():
            return float(disagreement(trained(copies(x, noise)), 8)[0].mean())

    given = {"sigma": 0.5, "epochs": 40, "lr": 0.02, "augment": False}
    without, with_it = (consistency(as_it_is, weight=w, eta=0.0, **given)(net, training_of()) for w in (0.0, 10.0))
    assert apart(with_it) < 0.7 * apart(without)


def test_an_untrained_denoiser_returns_what_it_is_given() -> None:
    assert torch.equal(denoiser(3, 4, 8, seed=0).eval()(X), X)


def test_a_denoiser_without_noise_and_a_sure_network_leave_no_loss() -> None:
    def sure(x: Tensor) -> Tensor:
        return 1e4 * linear().requires_grad_(False)(x)

    batch = Batch(X, Y, torch.arange(len(X)), torch.Generator().manual_seed(0), 0.0)
    first = denoiser(3, 3, 4, seed=0).eval().requires_grad_(False)
    assert float(mse(1e-9, first, batch)) == pytest.approx(0, abs=1e-12)
    assert float(stability(1e-9, sure, first, batch)) == pytest.approx(0, abs=1e-6)
    assert float(mse(0.5, first, batch._replace(x=X.repeat(50, 1, 1, 1)))) == pytest.approx(0.25, rel=0.05)


def test_denoised_smoothing_leaves_the_network_and_takes_noise_away() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    training = training_of(128)
    fit = denoised_smoothing(as_it_is, sigma=0.3, mse_epochs=80, stability_epochs=0, lr=0.02, depth=3, width=8,
                             augment=False)  # fmt: skip
    denoised = fit(net, training)
    assert weights_sha256(denoised[1]) == weights_sha256(net)
    assert {k: v.shape for k, v in fit.shape(net, training).state_dict().items()} == {
        k: v.shape for k, v in denoised.state_dict().items()
    }
    g = torch.Generator().manual_seed(3)
    x = training.train.images(torch.arange(64))
    assert float(mse(0.3, denoised[0], Batch(x, x, x, g, 0.0))) < 0.5 * 0.3**2


def test_errors() -> None:
    for defense, given in (
        (smoothadv, {"sigma": 0}), (smoothadv, {"draws": 0}), (smoothadv, {"eps": "-1"}),
        (consistency, {"draws": 1}), (consistency, {"weight": -1}), (denoised_smoothing, {"sigma": 0}),
        (denoised_smoothing, {"mse_epochs": 0, "stability_epochs": 0}), (denoised_smoothing, {"depth": 1}),
    ):  # fmt: skip
        with pytest.raises(BadValue, match=r"expected|negative|positive"):
            defense(as_it_is, **given)
