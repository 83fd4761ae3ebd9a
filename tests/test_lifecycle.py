"""A defense changes its own stage: the data before every training, the recipe after; each training is done once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustsuite.config.registry import DefenseCard
from robustsuite.config.threats import Access
from robustsuite.defenses.serve.crossmax import CrossMax
from robustsuite.errors import BadData
from robustsuite.methods.backdoors.detection import Detector, Undetected, undetected
from robustsuite.serve.data import Dataset, Split
from robustsuite.serve.ensembles import Members
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Fit, Model, Training, as_it_is, weights_sha256
from robustsuite.serve.stages import Applied, applied
from tests.toys import SPACE, labelled, linear

SEEN: list[int] = []


def recipe(net: nn.Module, training: Training) -> nn.Module:
    """Remember how many pictures it was given, and write that into the weights."""
    SEEN.append(len(training.train))
    with torch.no_grad():
        net[1].bias.fill_(float(len(training.train)))
    return net


def halved(split: Split) -> Split:
    """Keep the first half of the train set."""
    return split.at(torch.arange(len(split) // 2))


def louder(fit: Fit, *, factor: float = 2.0) -> Fit:
    """Scale what the recipe returns."""

    def tuned(net: nn.Module, training: Training) -> nn.Module:
        net = fit(net, training)
        with torch.no_grad():
            net[1].bias.mul_(factor)
        return net

    return tuned


HALVED = Applied(DefenseCard("defense", "halved", halved, "data"))
LOUDER = Applied(DefenseCard("defense", "louder", louder, "train"))


def cycle(*defenses: Applied, seed: int = 0) -> Lifecycle:
    """An untrained toy with the three splits."""
    split = labelled(linear())
    data = Dataset("toy", SPACE, ("a", "b", "c"), dict.fromkeys(("train", "val", "test"), split))
    return Lifecycle(Model("toy", linear(), SPACE, "recipe", recipe), data, defenses, seed)


def test_each_stage_changes_its_own_and_trainings_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    SEEN.clear()
    found = {
        names: float(cycle(*defenses).trained()[1].bias[0])
        for names, defenses in {
            "none": (), "train": (LOUDER,), "data": (HALVED,), "both": (LOUDER, HALVED), "again": (HALVED, LOUDER),
        }.items()
    }  # fmt: skip
    assert found == {"none": 24.0, "train": 48.0, "data": 12.0, "both": 24.0, "again": 24.0}
    assert SEEN == [24, 12], "the base recipe runs once on each train set, whatever stands on it"
    cycle(LOUDER, seed=1).trained()
    assert SEEN == [24, 12, 24]


def test_the_models_own_network_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    one = cycle(LOUDER)
    before = {k: v.clone() for k, v in one.model.net.state_dict().items()}
    one.served()
    assert all(torch.equal(v, before[k]) for k, v in one.model.net.state_dict().items())


class Rounded(nn.Module):
    """Answers without a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x).round()


class Doubled(Rounded):
    """Answers twice as loud."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.net(x)


class Never(nn.Module):
    """Nothing is suspicious, and a gradient says so."""

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        return 0 * x.flatten(1).sum(1)


def watched(net: nn.Module, training: Training) -> Detector:
    """A detector that rejects nothing, with every picture on its threshold."""
    detector = Detector(net, Never())
    detector.threshold.zero_()
    return detector


DARK = Applied(DefenseCard("defense", "dark", Rounded, "serve", hides=Access.GRADIENTS))
ROUNDED = Applied(replace(DARK.card, name="rounded", surrogate=lambda base, served: base))
DOUBLED = Applied(DefenseCard("defense", "doubled", Doubled, "serve"))
WATCHED = Applied(DefenseCard("defense", "watched", watched, "serve", learns=True, surrogate=undetected))


@pytest.mark.parametrize(
    ("stack", "times"),
    [
        ((), None), ((DOUBLED,), None), ((DARK,), None), ((DARK, DOUBLED), None), ((ROUNDED, DARK), None),
        ((ROUNDED,), 1.0), ((ROUNDED, DOUBLED), 2.0), ((DOUBLED, ROUNDED), 2.0), ((ROUNDED, ROUNDED), 1.0),
        ((WATCHED,), 0.5), ((ROUNDED, WATCHED), 0.5), ((WATCHED, ROUNDED), 0.5), ((DOUBLED, ROUNDED, WATCHED), 1.0),
    ],
    ids=lambda value: "+".join(d.card.name for d in value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_a_stack_is_attacked_through_what_stands_in_for_all_of_it(
    stack: tuple[Applied, ...], times: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A surrogate wraps what stands in for the net below it, not its masked gradients; exp(-softplus(0)) = 1/2."""
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    system, x = cycle(*stack).served(), labelled(linear()).images(torch.arange(4)).requires_grad_()
    if times is None:
        assert system.surrogate is None
        return
    assert system.surrogate is not None
    assert torch.allclose(system.surrogate(x), times * cycle().served().net(x))
    (grad,) = torch.autograd.grad(system.surrogate(x).sum(), x)
    assert bool(grad.any())


LEARNT: list[float] = []


class Weighed(nn.Module):
    """A suspicion with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(16, 1)

    def forward(self, net: nn.Module, x: Tensor) -> Tensor:
        return self.weights(x.flatten(1)).squeeze(1)


def untaught(net: nn.Module, training: Training, **_: object) -> Detector:
    return Detector(net, Weighed())


def taught(net: nn.Module, training: Training, *, threshold: float = 0.5) -> Detector:
    """A detector with weights of its own, that counts how often it learns."""
    LEARNT.append(threshold)
    detector = untaught(net, training)
    with torch.no_grad():
        detector.suspicion.weights.weight.copy_(torch.linspace(-1, 1, 16))
        detector.suspicion.weights.bias.zero_()
        detector.threshold.fill_(threshold)
    return detector.eval().requires_grad_(False)


TAUGHT = DefenseCard("defense", "taught", taught, "serve", learns=True, shape=untaught, surrogate=undetected)


def test_what_a_served_defense_learns_is_kept_without_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    LEARNT.clear()

    def asked(*defenses: Applied) -> Tensor:
        one, x = cycle(*defenses), labelled(linear()).images(torch.arange(8))
        with torch.no_grad():
            system = one.served()
            assert not one.trainings()
            return torch.cat([system.net(x), system.surrogate(x)])  # type: ignore[misc]

    first, kept = asked(Applied(TAUGHT)), set(tmp_path.rglob("*.safetensors"))
    assert torch.equal(first.nan_to_num(7.0), asked(Applied(TAUGHT)).nan_to_num(7.0))
    assert bool(first.isnan().any())
    assert LEARNT == [0.5]
    (alone,) = (f for f in kept if "threshold" in load_file(f))
    assert set(load_file(alone)) == {"threshold", "spread", "suspicion.weights.weight", "suspicion.weights.bias"}
    asked(Applied(TAUGHT, (("threshold", -9.0),))), asked(HALVED, Applied(TAUGHT)), asked(LOUDER, Applied(TAUGHT))
    assert LEARNT == [0.5, -9.0, 0.5, 0.5], "another parameter, other data, another network"
    for damage in (alone.read_bytes()[:50], save({"threshold": torch.tensor(1.0)})):
        alone.write_bytes(damage)
        assert torch.equal(first.nan_to_num(7.0), asked(Applied(TAUGHT)).nan_to_num(7.0))
    assert LEARNT == [0.5, -9.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", ["strip", "scaleup"])
def test_a_detector_over_crossmax_is_attacked_through_the_mean_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    ensemble, split = Members([linear(seed) for seed in range(3)]), labelled(linear(), n=96, wrong=0)
    data = Dataset("toy", SPACE, ("a", "b", "c"), dict.fromkeys(("train", "val", "test"), split))
    stack = applied("crossmax", {}), applied(name, {"fpr": 0.1})
    system = Lifecycle(Model("toy", ensemble, SPACE, weights_sha256(ensemble)), data, stack).served()
    assert isinstance(system.surrogate, Undetected)
    assert not [m for m in system.surrogate.modules() if isinstance(m, CrossMax)]
    x = split.images(torch.arange(24)).requires_grad_()
    said, mean = system.surrogate(x), ensemble(x)
    assert torch.equal(said.argmax(1), mean.argmax(1)), "the margin shrinks, the class stays"
    (grad,) = torch.autograd.grad(said.sum(), x)
    assert bool((grad != 0).flatten(1).all())


def test_weights_of_another_network_do_not_spoil_what_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept file that fits in part: nothing of it may stay in the network that the training starts from."""
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    first = cycle(LOUDER).trained().state_dict()
    for file in tmp_path.rglob("*.safetensors"):
        wrong = {name: torch.full_like(t, 7.0) for name, t in load_file(file).items()}
        file.write_bytes(save({**wrong, "1.bias": torch.zeros(99)}))
    again = cycle(LOUDER).trained().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("name", ["fine_pruning", "neural_cleanse", "badexpert", "strip", "scaleup"])
def test_what_works_on_val_alone_asks_for_no_train_split(name: str) -> None:
    whole = cycle(applied(name, {}))
    val = whole.data.splits["val"]
    pretrained = replace(whole.model, fit=as_it_is)
    without = Dataset("toy", SPACE, ("a", "b", "c"), {"val": val, "test": val})
    one = Lifecycle(pretrained, without, whole.defenses)
    assert one.trained_on() == [val.sha256]
    train, held = one.selection()
    assert len(train) == 0
    assert held is val
    assert len(whole.trained_on()) == 2
    with pytest.raises(BadData, match="'train'"):
        Lifecycle(pretrained, without, (applied("rift", {}),)).trained_on()
