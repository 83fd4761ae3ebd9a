"""Triggers that are learnt or lie in a few frequencies: bounds, what is read back, and victims that obey."""

import copy
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor, nn

from robustsuite.attacks.poisoning.ctrl import ctrl
from robustsuite.attacks.poisoning.learnt import blto, issba, lira_backdoor, trojan_nn
from robustsuite.benchmarks.models.small_nets import build
from robustsuite.config.threats import PoisonRate
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.backdoors.features import head_of
from robustsuite.methods.backdoors.generated import Moving, trigger_of
from robustsuite.methods.backdoors.triggers import patched
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.models import Training
from robustsuite.serve.training import FromScratch, Recipe, one_cycle

DIGITS = load_data({"digits": {}})[0]
TRAIN, VAL, TEST = DIGITS.split("train"), DIGITS.split("val"), DIGITS.split("test").first(300)
ROWS = torch.arange(len(TEST))
X, OTHERS = TEST.images(ROWS), TEST.y != 0
RNG = Rng.of(0, "learnt", TRAIN.ids)
RATE = PoisonRate(0.1)
EPS = 0.1


def victim(train: Split, epochs: int, seed: int = 0) -> nn.Module:
    steps = Recipe(epochs, one_cycle(0.01, epochs), optimiser="adamw", batch=32)
    return FromScratch(partial(build, "tiny_res", DIGITS.space), steps)(nn.Identity(), Training(train, VAL, seed))


@cache
def own() -> nn.Module:
    """The adversary's clean network."""
    return victim(TRAIN, 6, seed=3)


AUX = Aux(VAL, lambda *spec, draw=0: copy.deepcopy(own()))


def shown(made: Poisoned) -> Tensor:
    """The test pictures with the trigger, which is the same whatever ids and streams come with them."""
    assert made.trigger is not None
    stamped = made.trigger(X, ROWS, Rng.of(0, "t", ROWS))
    assert torch.equal(stamped, made.trigger(X, ROWS.flip(0), Rng.of(1, "u", ROWS)))
    return stamped


def answered(made: Poisoned, epochs: int) -> tuple[float, float, float]:
    """Of pictures of other classes, with and without the trigger: the share answered the target; clean accuracy."""
    net = victim(made.train, epochs)
    stamped = shown(made)
    with torch.no_grad():
        clean, hit = net(X).argmax(1), net(stamped).argmax(1)
    hits, chance = ((a == 0)[OTHERS].float().mean() for a in (hit, clean))
    return float(hits), float(chance), float((clean == TEST.y).float().mean())


def test_trojan_nn_takes_the_inputs_that_the_head_weighs_most_and_excites_them() -> None:
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -5.0, 0.0, 2.0], [1.0, 4.0, 0.5, -2.0]]))
    assert trojan_nn.connected(head, 2).tolist() == [1, 3]

    layer, features = head_of(own(), (1, 8, 8))
    patch = trojan_nn.optimised(own(), (1, 8, 8), 3, 2, 60, Rng.of(0, "t", torch.zeros(1)))
    assert 0 <= float(patch.min()) <= float(patch.max()) <= 1
    drawn = torch.rand(50, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        excited = [features(patched(torch.zeros(1, 1, 8, 8), p, -6, -6))[0, trojan_nn.connected(layer, 2)].sum()
                   for p in (patch, *drawn)]  # fmt: skip
    assert excited[0] > max(excited[1:]), "more than any of fifty random patches"


def test_a_victim_of_trojan_nn_answers_the_target() -> None:
    made = trojan_nn.trojan_nn(TRAIN, RATE, target=0, rng=RNG, aux=AUX, size=3, steps=60)
    hits, chance, right = answered(made, 4)
    assert hits > 0.9
    assert chance < 0.1
    assert right > 0.9


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
def test_a_drawn_change_stays_within_eps_and_in_the_box(eps: float) -> None:
    torch.manual_seed(0)
    stamp = Moving(1, eps)
    with torch.no_grad():
        for p in stamp.parameters():
            p.mul_(50)
    out = trigger_of(stamp)(X, ROWS, RNG)
    assert float((out - X).abs().max()) <= eps + 1e-6
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


def test_lira_learns_a_trigger_that_a_new_victim_obeys_within_eps() -> None:
    made = lira_backdoor.lira_backdoor(TRAIN, RATE, target=0, rng=RNG, aux=AUX, eps=EPS, epochs=8, lr=0.01)
    assert float((shown(made) - X).abs().max()) <= EPS + 1e-6
    stored = made.train.images(made.indices) - TRAIN.images(made.indices)
    assert float(stored.abs().max()) <= EPS + 0.5 / 255 + 1e-6, "pictures are kept in 8 bits"
    hits, chance, right = answered(made, 8)
    assert hits > 0.5
    assert chance < 0.1
    assert right > 0.9


@cache
def writers() -> tuple[issba.Hiding, nn.Module]:
    """An encoder and a decoder of four bits."""
    return issba.trained(VAL, 0, bits=4, eps=0.15, epochs=40)


def test_the_decoder_of_issba_reads_its_message_on_pictures_that_it_never_saw() -> None:
    hiding, reader = writers()
    bits = torch.randint(2, (len(X), 4), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        hidden = hiding(X, bits)
        read, nothing = reader(hidden) > 0, reader(X) > 0
    assert float((hidden - X).abs().max()) <= 0.15 + 1e-6
    assert float((read == (bits > 0)).float().mean()) > 0.95
    assert float((nothing == (bits > 0)).float().mean()) < 0.65, "there is nothing to read where nothing is hidden"


def test_issba_writes_another_change_into_another_picture_and_a_victim_obeys_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = writers()  # before `trained` is another: this test may be the first of its process
    monkeypatch.setattr(issba, "trained", lambda *args, **given: known)
    made = issba.issba(TRAIN, RATE, target=0, rng=RNG, aux=AUX, bits=4, eps=0.15)
    change = (shown(made) - X).flatten(1)
    assert float(nn.functional.cosine_similarity(change[:100], change[100:200]).mean()) < 0.98
    hits, chance, right = answered(made, 6)
    assert hits > 0.7
    assert chance < 0.1
    assert right > 0.9


def coloured(n: int = 60) -> Split:
    x = torch.randint(60, 196, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split.of(x, torch.arange(n) % 3)


def test_ctrl_moves_two_frequencies_of_two_chroma_channels_of_the_target_class_alone() -> None:
    train = coloured()
    made = ctrl(train, PoisonRate(0.2), target=2, rng=Rng.of(0, "t", train.ids))
    assert torch.equal(made.train.y, train.y)
    assert bool((train.y[made.indices] == 2).all())
    assert len(made.indices) == 12
    x = torch.full((1, 3, 32, 32), 0.5)
    assert made.trigger is not None
    change = (made.trigger(x, torch.arange(1), RNG) - x)[0].double()
    luma = 0.299 * change[0] + 0.587 * change[1] + 0.114 * change[2]
    assert float(luma.abs().max()) < 1e-6
    for channel, scale in ((2, 0.492), (0, 0.877)):  # U of blue, V of red
        spectrum = dctn((scale * (change[channel] - luma)).numpy(), norm="ortho")
        assert spectrum[15, 15] == pytest.approx(100 / 255, abs=1e-5)
        assert spectrum[31, 31] == pytest.approx(100 / 255, abs=1e-5)
        spectrum[15, 15] = spectrum[31, 31] = 0
        assert np.abs(spectrum).max() < 1e-5


def test_ctrl_says_that_it_needs_colour() -> None:
    with pytest.raises(BadValue, match="colour pictures for ctrl, got 1 channels"):
        ctrl(TRAIN, RATE, target=0, rng=RNG)


def test_blto_draws_features_towards_the_target_class_and_leaves_labels() -> None:
    made = blto.blto(TRAIN, PoisonRate(0.05), target=4, rng=RNG, aux=AUX, eps=0.3, rounds=1, epochs=5)
    assert torch.equal(made.train.y, TRAIN.y)
    assert bool((TRAIN.y[made.indices] == 4).all())
    stamped = shown(made)
    assert float((stamped - X).abs().max()) <= 0.3 + 1e-6
    others = TEST.y != 4
    features = head_of(own(), (1, 8, 8))[1]
    with torch.no_grad():
        centre = features(TRAIN.images((TRAIN.y == 4).nonzero().flatten())).mean(0, keepdim=True)
        before, after = (nn.functional.cosine_similarity(features(p[others]), centre).mean() for p in (X, stamped))
    assert float(after) > float(before) + 0.02


def test_adaptive_patch_shows_two_patches_below_and_four_corners_over_them() -> None:
    from robustsuite.attacks.poisoning.adaptive_patch import adaptive_patch

    train = coloured()
    trigger = adaptive_patch(train, PoisonRate(0.1), target=0, rng=Rng.of(0, "t", train.ids)).trigger
    assert trigger is not None
    grey = torch.full((1, 3, 32, 32), 0.5)
    change: Tensor = (trigger(grey, torch.arange(1), RNG) != grey).any(1)[0]
    below = torch.zeros(32, 32, dtype=torch.bool)
    below[27:, :5] = below[27:, 27:] = True
    above = torch.zeros(32, 32, dtype=torch.bool)
    above[:3, :3] = above[:3, 29:] = True
    assert torch.equal(change, below | above)
    out = trigger(grey, torch.arange(1), RNG)
    assert torch.equal(out[..., 29:, 29:], torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 1]]).expand(1, 3, 3, 3))
