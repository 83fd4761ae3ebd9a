"""Learning without labels: views, the loss, the last layer's fit, and the recipe."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustsuite.benchmarks.models.contrastive import contrastive
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.contrastive import Siamese, features, probed, view
from robustsuite.serve.data import InputSpace, Split
from robustsuite.serve.models import Training

SPACE = InputSpace(3, 8, 8, 3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_keeps_shape_and_passes_gradients_and_a_flat_grey_picture_only_changes_in_brightness(
    channels: int,
) -> None:
    x = torch.full((5, channels, 8, 8), 0.5, requires_grad=True)
    torch.manual_seed(0)
    seen = view(x)
    assert seen.shape == x.shape
    flat = seen.detach().flatten(1)
    assert float((flat - flat[:, :1]).abs().max()) < 1e-5
    assert float((flat[:, 0] - 0.5).abs().max()) <= 0.2 + 1e-5
    seen.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_views_of_a_picture_are_alike_when_features_are() -> None:
    siamese = Siamese(net(), (3, 8, 8)).eval()
    siamese.predictor = nn.Sequential(nn.Identity())  # type: ignore[assignment]
    flat = torch.full((6, 1, 1, 1), 0.5).expand(6, 3, 8, 8)
    torch.manual_seed(0)
    assert -1 <= float(siamese.loss(flat).detach()) < -0.95


def test_the_last_layer_is_fitted_alone_and_separates_what_its_features_separate() -> None:
    model = net()
    before = [p.clone() for p in list(model.parameters())[:2]]
    y = torch.arange(60) % 3
    x = 0.1 * torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[torch.arange(60), y] += 0.6
    probed(model, (3, 8, 8), x, y)
    assert torch.equal(model(x).argmax(1), y)
    assert all(torch.equal(a, b) for a, b in zip(before, list(model.parameters())[:2], strict=True))
    assert features(model, x).shape == (60, 256)


def test_the_recipe_is_its_seeds_and_looks_at_no_label_but_for_the_last_layer() -> None:
    x = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    one, other = Split.of(x, torch.arange(40) % 3), Split.of(x, torch.arange(40) // 14)
    fit = contrastive("cnn_3_relu", SPACE, epochs=2).fit
    first, again, relabelled, reseeded = (
        fit(nn.Identity(), Training(split, split, seed)) for split, seed in ((one, 0), (one, 0), (other, 0), (one, 1))
    )
    noisy = replace(one, augment=lambda x, noise: x + 0.1 * torch.randn(x.shape, generator=noise))
    augmented = fit(nn.Identity(), Training(noisy, noisy, 0))
    probe = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(first(probe), again(probe))
        assert torch.equal(features(first, probe), features(relabelled, probe))
        assert not torch.equal(first(probe), relabelled(probe))
        assert not torch.equal(features(first, probe), features(reseeded, probe))
        assert not torch.equal(features(first, probe), features(augmented, probe)), "a defense's noise is trained with"
    assert not first.training


@pytest.mark.parametrize("given", [{"epochs": 0}, {"lr": 0}, {"epochs": "ten"}])
def test_parameters_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(BadValue, match="epochs"):
        contrastive("cnn_3_relu", SPACE, **given)


def test_a_network_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(Unsupported, match="linear layer"):
        Siamese(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), (3, 8, 8))
