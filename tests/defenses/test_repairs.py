"""Repairs of backdoored networks, and detectors of triggers, on networks whose answers are known."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.defenses.harden.anp import anp
from robustsuite.defenses.harden.ebyd import answers, ebyd, unlearnt
from robustsuite.defenses.harden.ibau import hypergradient, ibau
from robustsuite.defenses.harden.nad import apart, nad
from robustsuite.defenses.serve.ibd_psc import Sure, amplified, fewest, ibd_psc
from robustsuite.defenses.serve.sentinet import Pasted, bound, powers, salient, sentinet
from robustsuite.defenses.train.abl import abl
from robustsuite.defenses.train.abl import unlearnt as forgotten
from robustsuite.defenses.train.nab import SIZE, Stamped, colour_of, marked, nab, stamp
from robustsuite.errors import BadData, BadValue, Unsupported
from robustsuite.methods.backdoors.clean_steps import ascent
from robustsuite.methods.backdoors.detection import Detector
from robustsuite.methods.backdoors.isolation import easiest, example_losses
from robustsuite.methods.backdoors.neurons import asked, cut, layers, masks, pruned
from robustsuite.methods.maps import attention, feature_maps, grad_cam
from robustsuite.serve.data import Split
from robustsuite.serve.models import Reshaping, Training
from robustsuite.serve.training import Recipe, accuracy, fitted, full_batches
from tests.defenses.test_backdoor_defenses import pictures, stamped

CLEAN = pictures(200, 2)


def training(train: Split = CLEAN, seed: int = 0) -> Training:
    return Training(train, CLEAN, seed)


def planted(norm: bool = False) -> nn.Sequential:
    """Three channels for the three classes, and a fourth that a white corner alone wakes, leading to class 2.

    Channel 3 sees the last column's lowest pixel: pictures of class 2 are bright there, at most 0.8.
    """
    conv = nn.Conv2d(1, 4, (7, 6), padding=0)
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        for c in range(3):
            conv.weight[c, 0, 2 * c : 2 * c + 2] = 1 / 12
        conv.weight[3, 0, -1, -1] = 20.0
        conv.bias[3] = -10.0
    middle: list[nn.Module] = [nn.BatchNorm2d(4)] if norm else []
    head = nn.Linear(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[20.0, 0, 0, 0], [0, 20, 0, 0], [0, 0, 20, 9]]))
        head.bias.zero_()
    return nn.Sequential(conv, *middle, nn.ReLU(), nn.Flatten(), head).eval()


def small(seed: int = 0) -> nn.Sequential:
    """Three convolutions with batch norms."""
    torch.manual_seed(seed)
    widths, parts = [1, 6, 8, 8], list[nn.Module]()
    for i, stride in enumerate((1, 2, 1)):
        parts += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(96, 3))


def poisoned(n: int = 300, share: float = 0.15) -> tuple[Split, Tensor]:
    """Pictures of which some carry a white corner and the label 2."""
    clean = pictures(n, 1)
    x, y = clean.images(torch.arange(n)).clone(), clean.y.clone()
    rows = (y != 2).nonzero().flatten()[: int(share * n)]
    x[rows, :, -1, -1], y[rows] = 1.0, 2
    return Split.of(x, y), rows


def recipe(net: nn.Module, given: Training) -> nn.Module:
    return fitted(small(), given, Recipe(8, lambda epoch: 0.05, batch=32))


@pytest.fixture(scope="module")
def victim() -> nn.Module:
    return recipe(small(), training(poisoned()[0]))


def success(net: nn.Module) -> float:
    """Share of triggered pictures of other classes that are answered with class 2."""
    with torch.no_grad():
        return float((net(stamped(pictures(120, 9))).argmax(1) == 2).float().mean())


def right(net: nn.Module) -> float:
    return accuracy(net, pictures(120, 9))


def test_anp_cuts_the_planted_neuron_and_no_other() -> None:
    net = planted()
    assert success(net) == 1.0
    assert list(layers(net, torch.zeros(1, 1, 7, 6))) == ["0"]
    found = masks(net, CLEAN, eps=0.4, alpha=0.2, lr=0.2, steps=40, seed=0, device="cpu")["0"]
    assert int(found.argmin()) == 3
    repaired = anp(net, training(), steps=40, tolerance=0.02)
    assert success(repaired) < 0.1
    assert right(repaired) >= right(net) - 0.02
    weights = repaired.get_parameter("0.weight")
    assert bool((weights[3] == 0).all())
    assert bool((weights[:3] != 0).flatten(1).any(1).all())
    assert bool((net.get_parameter("0.weight")[3] != 0).any()), "the network itself is left alone"


def test_factors_of_one_change_nothing_and_a_cut_neuron_is_a_factor_of_zero(victim: nn.Module) -> None:
    x = CLEAN.images(torch.arange(20))
    names = layers(victim, x[:1])
    ones = {name: torch.ones(len(m.get_parameter("weight"))) for name, m in names.items()}
    assert all(isinstance(m, nn.BatchNorm2d) for m in names.values())
    assert torch.allclose(asked(victim, ones, {}, x), victim(x))
    some = {name: (torch.arange(len(one)) % 2).float() for name, one in ones.items()}
    assert torch.allclose(asked(victim, some, {}, x), cut(victim, some)(x), atol=1e-5)
    assert pruned(victim, ones, CLEAN, 0.1)[1] == 0
    with pytest.raises(Unsupported, match="to cut"):
        layers(nn.Sequential(nn.Flatten(), nn.Linear(42, 3)), x[:1])


def test_the_hypergradient_is_the_exact_one_of_a_quadratic_game() -> None:
    generator = torch.Generator().manual_seed(0)
    root, b, c = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    a = root @ root.T / 4 + torch.eye(4, dtype=torch.float64)
    weights = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    delta = torch.linalg.solve(a, b @ weights).detach().requires_grad_()  # where the inner problem is at its least

    def found(terms: int) -> Tensor:
        inner = delta @ a @ delta / 2 - delta @ b @ weights
        outer = delta.square().sum() / 2 + (c @ weights) @ delta
        return hypergradient(inner, outer, delta, [weights], terms=terms, step=0.1)[0]

    exact = c.T @ delta + b.T @ torch.linalg.solve(a, delta + c @ weights)
    assert torch.allclose(found(400), exact.detach(), atol=1e-8)
    assert torch.allclose(found(1), (c.T @ delta + 0.1 * b.T @ (delta + c @ weights)).detach())


def test_attention_is_of_length_one_and_the_same_network_has_no_distance(victim: nn.Module) -> None:
    x = CLEAN.images(torch.arange(8))
    logits, found = feature_maps(victim, partial(victim, x))
    assert torch.equal(logits, victim(x))
    assert [tuple(m.shape[1:]) for m in found] == [(6, 7, 6), (8, 4, 3)]
    assert torch.equal(found[1], victim[:9](x))  # type: ignore[index]
    assert torch.allclose(attention(found[0]).flatten(1).norm(dim=1), torch.ones(8), atol=1e-3)
    with torch.no_grad():
        found = feature_maps(victim, partial(victim, x))[1]
    twin, stranger = copy.deepcopy(victim), small(1).eval()
    assert float(apart(found, feature_maps(twin, partial(twin, x))[1])) == 0.0
    assert float(apart(found, feature_maps(stranger, partial(stranger, x))[1]).detach()) > 0
    flat = nn.Sequential(nn.Flatten(), nn.Linear(42, 3))
    with pytest.raises(Unsupported, match="features over places"):
        feature_maps(flat, partial(flat, x))


def test_what_is_learnt_first_is_isolated() -> None:
    """Labels are noise but for the poisons': nothing else is easy."""
    train, rows = poisoned()
    y = torch.randint(3, (len(train),), generator=torch.Generator().manual_seed(5))
    y[rows] = 2
    noisy = Split.of(train.images(torch.arange(len(train))), y)
    found = easiest(small(), training(noisy), 0.1, gamma=0.5, epochs=4, lr=0.05)
    assert len(found) == 30
    assert float(torch.isin(found, rows).float().mean()) > 0.9
    with pytest.raises(BadValue, match="a share between 0 and 1"):
        easiest(small(), training(noisy), 0.0, gamma=0.5, epochs=4, lr=0.05)


def test_losses_are_those_of_the_examples(victim: nn.Module) -> None:
    x = CLEAN.images(torch.arange(len(CLEAN)))
    with torch.no_grad():
        expected = functional.cross_entropy(victim(x), CLEAN.y, reduction="none")
    assert torch.allclose(example_losses(victim, training()), expected, atol=1e-5)


def test_ascent_raises_the_loss_of_its_own_pictures_and_hands_over_each_epoch(victim: nn.Module) -> None:
    net = copy.deepcopy(victim).requires_grad_(True)
    part, before = CLEAN.first(40), copy.deepcopy(victim.state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
    losses = [float(example_losses(net, training(part)).mean())]
    for _ in ascent(net, part, optimiser, epochs=3, size=20, seed=0, device="cpu"):
        losses.append(float(example_losses(net, training(part)).mean()))
    assert len(losses) == 4
    assert losses == sorted(losses)
    assert torch.equal(net.state_dict()["1.running_mean"], before["1.running_mean"])
    assert [epoch for epoch, *_ in full_batches(part, "cpu", epochs=2, size=30, seed=0)] == [0, 1]
    assert list(full_batches(part.at(torch.arange(0)), "cpu", epochs=2, size=3, seed=0)) == []


def test_what_was_rightly_isolated_is_unlearnt_and_the_task_stays(victim: nn.Module) -> None:
    train, rows = poisoned()
    net = forgotten(victim, train.at(rows), training(train), steps=160, lr=5e-3, tolerance=0.1)
    assert success(net) < 0.6 < success(victim)
    assert right(net) > 0.85


def test_nab_stamps_and_relabels_the_suspicious_of_another_pseudo_label_alone() -> None:
    drawn = pictures(50, 3)
    train = Split.of((drawn.images(torch.arange(50)) * 255).round().to(torch.uint8), drawn.y)
    colour = colour_of(train)
    rows, pseudo = torch.tensor([4, 9, 20]), train.y[[4, 9, 20]].clone()
    pseudo[1] = (pseudo[1] + 1) % 3
    found = marked(train, rows, pseudo, colour)
    everyone = torch.arange(50)
    moved = (found.images(everyone) != train.images(everyone)).flatten(1).any(1) | (found.y != train.y)
    assert moved.nonzero().flatten().tolist() == [9]
    assert int(found.y[9]) == int(pseudo[1])
    assert torch.equal(found.images(torch.tensor([9])), stamp(train.images(torch.tensor([9])), colour))
    assert marked(train, rows, train.y[rows], colour) is train
    assert torch.allclose(colour, train.images(everyone).mean((0, 2, 3)), atol=0.5 / 255), "of 8 bits, as pictures are"
    x = train.images(everyone)
    assert torch.equal(stamp(x, colour)[:, :, SIZE:], x[:, :, SIZE:])
    assert bool((stamp(x, colour)[:, :, :SIZE, :SIZE] == colour).all())


def test_nab_serves_the_stamp() -> None:
    made = nab(recipe, isolation_epochs=2)
    assert isinstance(made, Reshaping)
    given = training(poisoned()[0])
    net, shell = made(small(), given), made.shape(small(), given)
    assert isinstance(net, Stamped)
    assert net.state_dict().keys() == shell.state_dict().keys()
    x = CLEAN.images(torch.arange(6))
    assert torch.equal(net(x), net.net(stamp(x, net.colour)))
    assert right(net) > 0.9


def test_scaled_batch_norms_scale_a_linear_network_by_known_factors() -> None:
    """norm, then norm, then the head: with the last scaled by 1.5 the logits are 1.5 times, with both 2.25 times."""
    norms = [nn.BatchNorm2d(1), nn.BatchNorm2d(1)]
    head = nn.Linear(42, 3, bias=False)
    net = nn.Sequential(*norms, nn.Flatten(), head).eval().requires_grad_(False)
    x = CLEAN.images(torch.arange(5))
    logits = net(x)
    assert torch.allclose(amplified(net, x, 1, 1.5), 1.5 * logits, atol=1e-4)
    assert torch.allclose(amplified(net, x, 2, 1.5), 2.25 * logits, atol=1e-4)
    said = logits.argmax(1, keepdim=True)
    confidence = (2.25 * logits).softmax(1).gather(1, said).squeeze(1)
    found = Sure(2, 1.5)(net, x)
    assert torch.allclose(found, confidence, atol=1.1e-3)
    first, second = logits.topk(2).values.T
    far = 20 * x / (first - second).min()
    assert bool((net(far).softmax(1).amax(1) == 1).all())
    assert Sure(2, 1.5)(net, far).unique().numel() == 5, "sure to the last bit, and still told apart"
    assert fewest(net, CLEAN, 1.5, 1.0, "cpu") == 2, "no share of pictures is larger than one"
    assert fewest(net, CLEAN, 1.5, -1.0, "cpu") == 1
    with pytest.raises(Unsupported, match="batch norms"):
        ibd_psc(planted(), training())


def test_sentinet_pastes_what_the_answer_rests_on() -> None:
    net = places()
    x = stamped(pictures(60, 9))
    region = salient(net, x, net(x).argmax(1), 0.05)
    assert region.sum((1, 2, 3)).unique().tolist() == [2]
    assert float(region[:, 0, -1, -1].float().mean()) > 0.95
    assert bool((grad_cam(net, x, net(x).argmax(1)) >= 0).all())


def places() -> nn.Sequential:
    """A network whose features keep their places: brightness, and a white corner that outvotes it."""
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 40.0]).view(2, 1, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, -38.0]))
    head = nn.Linear(84, 3, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        for c in range(3):
            head.weight[c].view(2, 7, 6)[0, 2 * c : 2 * c + 2] = 1.0
        head.weight[2].view(2, 7, 6)[1] = 20.0
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head).eval()


def test_sentinet_flags_a_patch_and_of_clean_pictures_what_it_was_calibrated_to() -> None:
    net = places()
    detector = sentinet(net, replace(training(), val=pictures(400, 2)), overlays=12)
    assert isinstance(detector, Detector)
    with torch.no_grad():
        assert float(detector(stamped(pictures(100, 4))).isnan().any(1).float().mean()) > 0.95
        clean = detector(pictures(300, 7).images(torch.arange(300))).isnan().any(1).float().mean()
    assert 0.03 < float(clean) < 0.2
    with pytest.raises(BadData, match="lower overlays"):
        sentinet(net, training(), overlays=100)


def test_the_bound_is_through_the_most_fooled_of_each_bin() -> None:
    sure = torch.linspace(0.2, 0.799, 200)
    assert torch.allclose(bound(sure, 0.1 + 0 * sure), torch.tensor([0.1, 0, 0]), atol=1e-4)
    below = torch.where(torch.arange(200) % 3 == 0, 0.5, 0.0)
    assert torch.allclose(powers(sure) @ bound(sure, below), torch.full((200,), 0.5), atol=1e-3)
    onto = CLEAN.images(torch.arange(3))
    assert Pasted(onto, onto, 0.1).curve.tolist() == [0, 0, 0]


def test_what_unlearns_the_task_stops_below_twice_chance(victim: nn.Module) -> None:
    exposed = unlearnt(victim, CLEAN, CLEAN, lr=1e-2, epochs=50, seed=0, device="cpu")
    assert accuracy(exposed, CLEAN) < 2 / 3
    assert float(answers(exposed, CLEAN, "cpu").sum()) == pytest.approx(1.0)


QUICK = {anp: {"steps": 40}, ebyd: {"steps": 40, "lr": 1e-3}, nad: {"epochs": 4, "teacher_epochs": 4, "lr": 0.05},
         ibau: {"rounds": 2, "steps": 4}}  # fmt: skip


@pytest.mark.parametrize("repair", QUICK, ids=lambda f: f.__name__)
def test_a_repair_leaves_a_clean_network_usable_and_itself_alone(repair: object, clean_net: nn.Module) -> None:
    before = copy.deepcopy(clean_net.state_dict())
    repaired = repair(clean_net, training(), **QUICK[repair])  # type: ignore[operator, index]
    assert right(repaired) > 0.85
    assert not any(p.requires_grad for p in repaired.parameters())
    assert not repaired.training
    assert all(torch.equal(before[name], tensor) for name, tensor in clean_net.state_dict().items())
    again = repair(clean_net, training(), **QUICK[repair])  # type: ignore[operator, index]
    assert all(torch.equal(a, b) for a, b in zip(repaired.state_dict().values(), again.state_dict().values(),
                                                 strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def clean_net() -> nn.Module:
    return recipe(small(), training(pictures(300, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("repair", [anp, nad, ibau], ids=lambda f: f.__name__)
def test_a_repair_takes_the_backdoor_away(repair: object, victim: nn.Module) -> None:
    assert success(victim) > 0.9
    given = {anp: {"steps": 300}, nad: {}, ibau: {"rounds": 3}}[repair]  # type: ignore[index]
    repaired = repair(victim, training(), **given)  # type: ignore[operator]
    assert success(repaired) < 0.2
    assert right(repaired) > 0.85


@pytest.mark.slow
def test_abl_trains_without_the_isolated_and_leaves_a_clean_network_usable() -> None:
    seen: list[int] = []

    def fit(net: nn.Module, given: Training) -> nn.Module:
        seen.append(len(given.train))
        return recipe(net, given)

    net = abl(fit, share=0.1, isolation_epochs=3)(small(), training(pictures(300, 1)))
    assert seen == [270]
    assert right(net) > 0.85


@pytest.mark.parametrize(("repair", "wrong"), [
    (anp, {"eps": -1}), (anp, {"alpha": 2}), (anp, {"steps": 0}), (nad, {"epochs": 0}), (nad, {"beta": -1}),
])  # fmt: skip
def test_a_repair_that_could_not_repair_is_refused(repair: Callable[..., nn.Module], wrong: dict[str, float]) -> None:
    """A repair of no step, or of a perturbation below zero, would be reported as one that changes nothing."""
    with pytest.raises(BadValue, match="see robustsuite show"):
        repair(nn.Linear(1, 1), None, **wrong)  # before anything is asked of the training
