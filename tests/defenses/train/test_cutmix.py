"""CutMix: what is pasted is what is counted; adversarial training from scratch, which shares the recipe."""

import pytest
import torch
from torch import nn

from robustsuite.defenses.train.adversarial_training import adversarial_training
from robustsuite.defenses.train.cutmix import cutmix, pasted
from robustsuite.errors import BadValue, UnknownName
from robustsuite.methods.crafting import pgd_examples
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, as_it_is
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained


def test_the_share_of_pixels_is_the_labels_weight_and_as_expected() -> None:
    generator, x = torch.Generator().manual_seed(0), torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 40, 40)
    kept = []
    for _ in range(400):
        mixed, other, own = pasted(x, 1.0, generator)
        others = (mixed != x).flatten(1).float().mean(1)
        assert torch.allclose(others[other != torch.arange(6)], torch.tensor(1 - own), atol=1e-6)
        assert torch.equal(mixed, torch.where(mixed == x, x, x[other]))
        kept.append(own)
    # a side s keeps s - s^2 / 4 of itself inside on average, and s^2 = 1 - lam is uniform
    assert sum(kept) / 400 == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.04)


def test_without_mixing_it_is_plain_training_bit_for_bit_and_with_it_is_not() -> None:
    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    split, net = Split.of(x, torch.arange(48) % 3), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    training = Training(split, split, 3)
    plain = fitted(untrained(net, 3), training, Recipe(2, one_cycle(0.2, 2)))
    ours, mixed = (cutmix(as_it_is, probability=p, epochs=2, augment=False)(net, training) for p in (0.0, 1.0))
    assert torch.equal(plain[1].weight, ours[1].weight)  # type: ignore[index]
    assert not torch.equal(plain[1].weight, mixed[1].weight)  # type: ignore[index]
    with pytest.raises(BadValue, match="alpha, lr > 0"):
        cutmix(as_it_is, alpha=0.0)


def test_adversarial_training_starts_from_fresh_weights_and_learns_on_moved_pictures() -> None:
    x = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    split, net = Split.of(x, torch.arange(48) % 3), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    training, given = Training(split, split, 3), {"steps": 2, "epochs": 2, "augment": False}
    moved = pgd_examples("linf", 0.1, 2, 0.25, 0.0)
    wanted = fitted(untrained(net, 3), training, Recipe(2, one_cycle(0.1, 2)), perturb=moved)
    ours = adversarial_training(as_it_is, eps=0.1, **given)(net, training)
    none = adversarial_training(as_it_is, eps=0.0, **given)(net, training)
    assert torch.equal(wanted[1].weight, ours[1].weight)  # type: ignore[index]
    assert torch.allclose(none[1].weight, fitted(untrained(net, 3), training, Recipe(2, one_cycle(0.1, 2)))[1].weight)  # type: ignore[index]
    with pytest.raises(UnknownName, match="norm"):
        adversarial_training(as_it_is, norm="l1")
