"""The training loop: deterministic, blind to the global seed, and it leaves the network it is given alone."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from robustsuite.errors import BadData, BadValue
from robustsuite.serve.data import Split
from robustsuite.serve.models import Training, weights_sha256
from robustsuite.serve.training import Recipe, accuracy, augmented, fitted, held, one_cycle


def toy_split(n: int, seed: int) -> Split:
    """Two classes of 1x6x6 pictures: bright above, or bright below."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.5 + 0.1 * torch.randn(n, 1, 6, 6, generator=g)
    x[y == 0, :, :3] += 0.25
    x[y == 1, :, 3:] += 0.25
    return Split.of(x.clamp(0, 1), y)


def toy_net(dropout: float = 0.0) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 2)
    )
    for p in net.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.1, generator=g)
    return net


def toy_training(seed: int = 0) -> Training:
    return Training(toy_split(96, 1), toy_split(32, 2), seed)


RECIPE = Recipe(2, lambda epoch: 0.05, batch=16)


def test_it_learns_a_separable_problem() -> None:
    net = fitted(toy_net(), toy_training(), Recipe(4, one_cycle(0.1, 4), batch=16))
    assert accuracy(net, toy_split(64, 3)) > 0.95
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_seed_alone_decides(optimiser: str) -> None:
    recipe = dataclasses.replace(RECIPE, optimiser=optimiser, flip=True, crop=1)
    net = toy_net(dropout=0.5)
    torch.manual_seed(1)
    first = weights_sha256(fitted(net, toy_training(), recipe))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert weights_sha256(fitted(net, toy_training(), recipe)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert weights_sha256(fitted(net, toy_training(seed=1), recipe)) != first


def test_the_given_network_is_left_alone() -> None:
    net = toy_net().eval().requires_grad_(False)
    before = weights_sha256(net)
    trained = fitted(net, toy_training(), RECIPE)
    assert weights_sha256(net) == before != weights_sha256(trained)
    assert not net.training


def test_the_best_epoch_on_val_is_kept() -> None:
    seen: list[tuple[float, str]] = []

    def select(net: nn.Module, val: Split) -> float:
        assert val.ids.tolist() == list(range(32))
        score = [0.2, 0.9, 0.5][len(seen)]
        seen.append((score, weights_sha256(net)))
        return score

    net = fitted(toy_net(), toy_training(), dataclasses.replace(RECIPE, epochs=3), select=select)
    assert weights_sha256(net) == seen[1][1] != seen[2][1]


def test_a_learning_rate_of_nought_keeps_the_weights_and_the_schedule_is_asked_in_fractions() -> None:
    asked: list[float] = []

    def rate(epoch: float) -> float:
        asked.append(epoch)
        return 0.0

    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    trained = fitted(net, toy_training(), Recipe(2, rate, batch=24))
    assert weights_sha256(trained) == weights_sha256(net)
    assert asked == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_one_step_is_the_textbook_step() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    training = toy_training()
    trained = fitted(net, training, Recipe(1, lambda _: 0.1, batch=96, weight_decay=0.0))
    twin = copy.deepcopy(net)
    nn.functional.cross_entropy(twin(training.train.images(torch.arange(96))), training.train.y).backward()
    weight, grad = twin[1].weight, twin[1].weight.grad
    assert grad is not None
    expected = weight - 0.1 * (1 + 0.9) * grad  # the first Nesterov step: g + mu * g
    torch.testing.assert_close(trained[1].weight.detach(), expected.detach())


def test_perturb_changes_what_is_trained_on() -> None:
    net, seen = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), []

    def blank(net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: float) -> Tensor:
        assert net.training
        seen.append(epoch)
        return torch.zeros_like(x)

    trained = fitted(net, toy_training(), Recipe(2, lambda _: 0.05, batch=48, weight_decay=0.0), perturb=blank)
    assert torch.equal(trained[1].weight, net[1].weight)  # a blank picture gives the weights no gradient
    assert not torch.equal(trained[1].bias, net[1].bias)
    assert seen == [0, 0.5, 1, 1.5]


def test_one_cycle() -> None:
    rate = one_cycle(0.4, 8)
    assert [rate(0), rate(1), rate(2)] == [0, 0.2, 0.4]
    assert rate(5) == pytest.approx(0.2)
    assert rate(8) == pytest.approx(0)


def test_held_pictures_are_exact() -> None:
    g = torch.Generator().manual_seed(0)
    as_bytes = torch.randint(256, (10, 3, 4, 4), generator=g).to(torch.uint8)
    stored, _ = held(Split.of(as_bytes, torch.zeros(10)))
    assert torch.equal(stored, as_bytes)
    x = torch.rand(10, 3, 4, 4, generator=g)
    stored, _ = held(Split.of(x, torch.zeros(10)))
    assert torch.equal(stored, x)


def test_augmentation_only_moves_pixels() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 5, 7, generator=g)
    flipped = augmented(x, Recipe(1, lambda _: 0.1, flip=True), g)
    same = (flipped == x).flatten(1).all(1)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 10 < int(same.sum()) < 54
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    for before, after in zip(padded, augmented(x, Recipe(1, lambda _: 0.1, crop=2), g), strict=True):
        windows = before.unfold(1, 5, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert (windows == after).flatten(1).all(1).any()


def test_errors() -> None:
    empty = Split.of(torch.zeros(0, 1, 6, 6), torch.zeros(0))
    with pytest.raises(BadData, match="train split"):
        fitted(toy_net(), Training(empty, empty, 0), RECIPE)
    with pytest.raises(BadData, match="val split"):
        accuracy(toy_net(), empty)
    with pytest.raises(BadValue, match="finite"):
        fitted(toy_net(), toy_training(), Recipe(2, lambda _: 1e30, batch=16))
    with pytest.raises(BadValue, match="sgd"):
        Recipe(1, lambda _: 0.1, optimiser="lion")
    with pytest.raises(BadValue, match="epochs"):
        Recipe(0, lambda _: 0.1)


def test_the_same_bits_come_out_of_weights_read_back() -> None:
    net = fitted(toy_net(), toy_training(), RECIPE)
    again = toy_net()
    again.load_state_dict({k: v.contiguous().clone() for k, v in net.state_dict().items()})
    x = toy_split(64, 3).images(torch.arange(64))
    assert net[0].weight.is_contiguous()
    assert torch.equal(net(x), again.eval()(x))
