"""Every poisoning and unlearnable attack keeps the terms of its threat; triggers against their formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor, nn

from robustsuite.attacks.poisoning import bpp, ftrojan, wanet
from robustsuite.attacks.unlearnable import cuda, label_noise, ops
from robustsuite.config.goals import ToClass
from robustsuite.config.registry import Card, cards
from robustsuite.config.threats import Access, PoisonRate, Threat
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.serve.adversary import Aux, Poisoner, changed
from robustsuite.serve.data import Split

QUICK: dict[str, dict[str, Any]] = {
    "label_consistent": {"steps": 2, "surrogate_epochs": 1}, "input_aware": {"mask_epochs": 1, "epochs": 1},
    "error_minimizing": {"rounds": 1, "updates": 1, "steps": 2}, "issba": {"epochs": 1, "bits": 4},
    "lira_backdoor": {"epochs": 1, "eps": 0.3, "lr": 0.05}, "trojan_nn": {"steps": 10},
    "blto": {"rounds": 1, "epochs": 1, "eps": 0.3},
}  # fmt: skip
CARDS = [c for c in cards().values() if c.place in ("poisoning", "unlearnable")]
BACKDOORS = [c for c in CARDS if c.place == "poisoning"]
TARGET = 0


def train_set(n: int = 300) -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split.of(x, torch.arange(n) % 10)


def net(*spec: object, draw: int = 0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)).eval()


TRAIN = train_set()


def poisoner(card: Card, rate: float = 0.04) -> Poisoner:
    given = tuple(sorted(QUICK.get(card.name, {}).items()))
    target = TARGET if card.place == "poisoning" else None
    threat = Threat("t", card.place, card.needs, goal=ToClass(TARGET), poison=PoisonRate(rate), target=target)
    return Poisoner(card, given, threat)


def aux() -> Aux:
    return Aux(train_set(40), net)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {card.name: poisoner(card)(TRAIN, 0, aux) for card in CARDS}


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_what_is_changed_is_what_is_named_and_no_more_than_the_rate(card: Card, made: dict[str, Any]) -> None:
    found = made[card.name]
    assert 0 < len(found.indices) <= 12
    named = torch.cat([found.indices, found.covers])
    assert len(named.unique()) == len(named)
    touched = changed(TRAIN, found.train).nonzero().flatten()
    assert set(touched.tolist()) <= set(named.tolist())
    x = found.train.images(torch.arange(len(TRAIN)))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.equal((x * 255).round() / 255, x)


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_same_seed_same_poison_whatever_the_global_seed(card: Card, made: dict[str, Any]) -> None:
    torch.manual_seed(77)
    again = poisoner(card)(TRAIN, 0, aux)
    assert again.train.sha256 == made[card.name].train.sha256
    assert not torch.equal(poisoner(card)(TRAIN, 1, aux).indices, again.indices)


@pytest.mark.parametrize("card", BACKDOORS, ids=lambda c: c.name)
def test_labels_go_to_the_target_or_stay(card: Card, made: dict[str, Any]) -> None:
    found = made[card.name]
    assert bool((found.train.y[found.indices] == TARGET).all())
    assert torch.equal(found.train.y[found.covers], TRAIN.y[found.covers])
    if card.name in ("sig", "label_consistent", "ctrl", "blto"):
        assert bool((TRAIN.y[found.indices] == TARGET).all())


@pytest.mark.parametrize("card", BACKDOORS, ids=lambda c: c.name)
def test_a_trigger_is_the_same_for_a_picture_whatever_stands_beside_it(card: Card, made: dict[str, Any]) -> None:
    trigger, rows = made[card.name].trigger, torch.arange(9)
    x, rng = TRAIN.images(rows), Rng.of(0, "t", rows)
    whole = trigger(x, rows, rng)
    alone = torch.cat([trigger(x[i : i + 1], rows[i : i + 1], rng[i : i + 1]) for i in range(9)])
    assert whole.shape == x.shape
    assert torch.allclose(whole, alone, atol=1e-5)
    assert float((whole - x).abs().amax()) > 2 / 255


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_a_card_asks_for_the_train_set(card: Card) -> None:
    assert Access.TRAIN_SET in card.needs


def trigger_of(name: str, made: dict[str, Any], n: int = 4) -> tuple[Tensor, Tensor]:
    rows = torch.arange(n)
    x = TRAIN.images(rows)
    return x, made[name].trigger(x, rows, Rng.of(0, "t", rows))


def test_badnets_paints_nine_pixels(made: dict[str, Any]) -> None:
    x, t = trigger_of("badnets", made)
    white = [(29, 31), (30, 30), (31, 29), (31, 31)]
    for i in range(29, 32):
        for j in range(29, 32):
            assert bool((t[:, :, i, j] == float((i, j) in white)).all())
    assert torch.equal(t[:, :, :29], x[:, :, :29])


def test_sig_is_a_sinusoid_of_its_amplitude(made: dict[str, Any]) -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    t = made["sig"].trigger(x, torch.arange(1), Rng.of(0, "t", torch.arange(1)))
    j = np.arange(32)
    wave = 30 / 255 * np.sin(2 * math.pi * j * 6 / 32)
    assert np.allclose((t - x)[0, 1, 5].numpy(), wave, atol=1e-6)


def test_blended_is_a_convex_mixture(made: dict[str, Any]) -> None:
    x, t = trigger_of("blended", made)
    pattern = (t - 0.8 * x) / 0.2
    assert torch.allclose(pattern[0], pattern[3], atol=1e-5)
    assert float(pattern.min()) >= 0
    assert float(pattern.max()) <= 1


def test_wanet_with_no_strength_is_the_picture() -> None:
    x = TRAIN.images(torch.arange(3))
    assert torch.allclose(wanet.warped(x, wanet.field(0, 4, 0.0, 32, 32)), x, atol=1e-5)
    offsets = wanet.field(0, 4, 0.5, 32, 32)
    assert offsets.shape == (32, 32, 2)
    assert 0 < float(offsets.abs().mean()) < 2 * 0.5 / 32


def test_bpp_squeezes_to_eight_levels_and_dithering_keeps_the_mean() -> None:
    x = TRAIN.images(torch.arange(4))
    plain, dithered = bpp.squeezed(x, 8, False), bpp.squeezed(x, 8, True)
    for out in (plain, dithered):
        assert torch.allclose((out * 7).round() / 7, out, atol=1e-6)
    assert float((plain - x).abs().max()) <= 0.5 / 7 + 1e-6
    flat = torch.full((1, 1, 32, 32), 0.5)
    assert abs(float(bpp.squeezed(flat, 8, True).mean()) - 0.5) < 0.01
    assert float(bpp.squeezed(flat, 8, False).mean()) != pytest.approx(0.5, abs=0.01)


def test_ftrojan_moves_two_chroma_frequencies_and_no_luma() -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    rows = torch.arange(len(TRAIN))
    found = ftrojan.ftrojan(TRAIN, PoisonRate(0.01), target=0, rng=Rng.of(0, "t", rows))
    assert found.trigger is not None
    change = (found.trigger(x, torch.arange(1), Rng.of(0, "t", torch.arange(1))) - x)[0].double().numpy()
    luma = 0.299 * change[0] + 0.587 * change[1] + 0.114 * change[2]
    assert np.abs(luma).max() < 1e-6
    spectrum = dctn(0.713 * (change[0] - luma), norm="ortho")
    assert spectrum[15, 15] == pytest.approx(30 / 255, abs=1e-5)
    assert spectrum[31, 31] == pytest.approx(30 / 255, abs=1e-5)
    spectrum[15, 15] = spectrum[31, 31] = 0
    assert np.abs(spectrum).max() < 1e-5


def test_cuda_kernels_follow_numpys_legacy_generator_bit_for_bit() -> None:
    np.random.seed(5)  # noqa: NPY002 - the authors draw from the global legacy generator
    for w in cuda.kernels(5, 10, 3, 0.3):
        drawn = np.random.uniform(low=0, high=0.3, size=(3, 1, 3, 3))[0, 0]  # noqa: NPY002
        drawn[np.random.randint(3), np.random.randint(3)] = 1.0  # noqa: NPY002
        assert torch.equal(w, torch.from_numpy(drawn).float())


def test_cuda_blurs_each_class_by_its_kernel() -> None:
    x, y = TRAIN.images(torch.arange(20)), TRAIN.y[:20]
    w = cuda.kernels(0, 10, 3, 0.3)
    out = cuda.blurred(x, y, w)
    for i in (0, 7, 13):
        plain = nn.functional.conv2d(x[i][:, None], w[y[i]][None, None], padding=1)[:, 0]
        assert float((out[i] - plain / plain.max()).abs().max()) <= 1 / 255 + 1e-6
    assert torch.allclose((out * 255).round(), out * 255, atol=1e-3)


def test_ops_finds_the_planted_pixel() -> None:
    x = torch.full((30, 3, 8, 8), 0.5) + 0.1 * torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 2, 5] = torch.tensor([1.0, 0.0, 1.0])
    row, column, colour = ops.shortcut(x)
    assert (row, column) == (2, 5)
    assert colour.tolist() == [0.0, 1.0, 0.0]


def test_error_minimising_noise_lowers_the_loss_inside_its_ball(made: dict[str, Any]) -> None:
    found = made["error_minimizing"]
    rows = found.indices
    x, noisy = TRAIN.images(rows), found.train.images(rows)
    assert float((noisy - x).abs().max()) <= 8 / 255 + 0.5 / 255 + 1e-6
    assert float((noisy - x).abs().max()) > 0


def test_symmetric_noise_changes_exactly_its_share_and_never_to_the_own_label() -> None:
    y = torch.arange(3000) % 10
    train = Split.of(torch.zeros(3000, 1, 2, 2, dtype=torch.uint8), y)
    found = label_noise.label_noise(train, PoisonRate(0.4), rng=Rng.of(0, "noise", train.ids))
    assert torch.equal((found.train.y != y).nonzero().flatten(), found.indices)
    assert len(found.indices) == 1200
    moved = (found.train.y[found.indices] - y[found.indices]) % 10
    assert moved.bincount(minlength=10)[0] == 0
    assert int(moved.bincount(minlength=10)[1:].min()) > 1200 / 9 - 4 * (1200 / 9) ** 0.5
    assert torch.equal(found.train.images(found.indices), train.images(found.indices))


def test_asymmetric_noise_takes_its_share_of_each_source_class() -> None:
    y = torch.arange(1000) % 10
    train = Split.of(torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), y)
    rng = Rng.of(0, "noise", train.ids)
    after = label_noise.label_noise(train, PoisonRate(0.4), rng=rng, kind="asymmetric").train.y
    moves = torch.zeros(10, 10, dtype=torch.int64).index_put_((y, after), torch.ones_like(y), accumulate=True)
    moves.fill_diagonal_(0)
    assert {(a, b): n for a, row in enumerate(moves.tolist()) for b, n in enumerate(row) if n} == {
        (9, 1): 40, (2, 0): 40, (4, 7): 40, (3, 5): 40, (5, 3): 40,
    }  # fmt: skip
    for pairs in ("", "1>1", "1>2 1>3", "1>10", "1-2"):
        with pytest.raises(BadValue, match="expected"):
            label_noise.label_noise(train, PoisonRate(0.4), rng=rng, kind="asymmetric", pairs=pairs)
