"""Detectors, filters and repairs against planted backdoors whose answers are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustsuite.defenses.data.activation_clustering import activation_clustering
from robustsuite.defenses.data.spectral_signatures import spectral_signatures
from robustsuite.defenses.harden.fine_pruning import fine_pruning, last_convolution
from robustsuite.defenses.serve.badexpert import Triangle, badexpert
from robustsuite.defenses.serve.scaleup import Consistent, scaleup
from robustsuite.defenses.serve.strip import Steady, strip
from robustsuite.errors import BadData, BadValue
from robustsuite.methods.backdoors.detection import Detector, Undetected, halves, undetected
from robustsuite.methods.backdoors.features import features
from robustsuite.methods.backdoors.inversion import deviations_below, reversed_triggers
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training
from robustsuite.serve.stages import applied
from robustsuite.serve.training import Recipe, fitted

DETECTORS = [badexpert, strip, scaleup]


class Backdoored(nn.Module):
    """Answers by the brightest third of the picture; a white corner pixel means class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 12]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        parts = x[:, 0, :6].view(-1, 3, 2, 6).mean((2, 3))
        corner = x[:, :, -1, -1].square()
        return self.head(torch.cat([parts, corner], 1))


def pictures(n: int, seed: int) -> Split:
    """(n, 1, 7, 6): one third brighter than the others."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = 0.1 + 0.2 * torch.rand(n, 1, 7, 6, generator=generator)
    for third in range(3):
        x[y == third, 0, 2 * third : 2 * third + 2] += 0.5
    return Split.of(x, y)


def training(seed: int = 0) -> Training:
    return Training(pictures(64, 1), pictures(600, 2), seed)


def stamped(split: Split) -> Tensor:
    x = split.images((split.y != 2).nonzero().flatten()).clone()
    x[:, :, -1, -1] = 1.0
    return x


@pytest.mark.parametrize("defense", DETECTORS, ids=lambda f: f.__name__)
def test_clean_pictures_are_rejected_at_the_stated_rate(defense: object) -> None:
    net = Backdoored().eval()
    detector = defense(net, training(), fpr=0.1)  # type: ignore[operator]
    assert isinstance(detector, Detector)
    test = pictures(500, 3)
    z = detector(test.images(torch.arange(500)))
    rejected = z.isnan().all(1)
    assert torch.equal(rejected, z.isnan().any(1))
    assert 0.03 < float(rejected.float().mean()) < 0.2
    x = test.images((~rejected).nonzero().flatten())
    assert torch.equal(detector(x), net(x))


def test_badexpert_rejects_what_only_the_backdoor_explains() -> None:
    detector = badexpert(Backdoored().eval(), training(), fpr=0.05, lr=0.05, auxiliary_lr=0.5, auxiliary_epochs=10)
    x = stamped(pictures(200, 4))
    assert bool((Backdoored()(x).argmax(1) == 2).all())
    assert float(detector(x).isnan().any(1).float().mean()) > 0.9


def test_strip_rejects_a_trigger_that_survives_superimposition() -> None:
    detector = strip(Backdoored().eval(), training(), fpr=0.1, overlays=30)
    assert float(detector(stamped(pictures(200, 4))).isnan().any(1).float().mean()) > 0.9


def test_no_test_label_enters_a_threshold() -> None:
    """The threshold is a function of net, val and seed; a detector never sees a test split to be scrambled."""
    for defense in DETECTORS:
        first, again = (defense(Backdoored().eval(), training(), fpr=0.1) for _ in range(2))
        assert isinstance(first, Detector)
        before = float(first.threshold)
        first(pictures(50, 9).images(torch.arange(50)))
        assert float(first.threshold) == before == float(again.threshold)  # type: ignore[arg-type]


def test_the_threshold_is_the_quantile_of_clean_scores() -> None:
    class Mean(nn.Module):
        def forward(self, net: nn.Module, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))

    clean = pictures(400, 5)
    detector = Detector(Backdoored().eval(), Mean()).calibrated(clean, 0.1, "cpu")
    scores = clean.images(torch.arange(400)).mean((1, 2, 3))
    assert abs(float((scores > detector.threshold).float().mean()) - 0.1) < 0.01
    with pytest.raises(BadValue, match="between 0 and 1"):
        detector.calibrated(clean, 0.0, "cpu")
    with pytest.raises(BadData, match="at least 1000"):
        detector.calibrated(clean, 0.001, "cpu")


def test_to_learn_from_and_to_calibrate_on_are_kept_apart() -> None:
    learn, rest = halves(training())
    assert not set(learn.ids.tolist()) & set(rest.ids.tolist())
    assert len(learn) + len(rest) == 600


@pytest.mark.parametrize("name", ["badexpert", "strip", "scaleup"])
def test_what_a_detector_learnt_is_the_same_from_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is in NHWC order, where other kernels would give other last bits."""
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    space = InputSpace(1, 7, 6, 3)
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(),
                        nn.Linear(48, 3)).to(memory_format=torch.channels_last).eval()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    data = Dataset("toy", space, tuple("abc"), {"train": training().train, "val": training().val})
    defense = applied(name, {"fpr": 0.1})

    def served() -> nn.Module:
        return Lifecycle(Model("toy", net, space, "sha"), data, (defense,)).served().net

    first, again, x = served(), served(), pictures(64, 5).images(torch.arange(64))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert isinstance(first, Detector)
    assert isinstance(again, Detector)
    assert torch.equal(first.threshold, again.threshold)
    assert torch.equal(first.score(x), again.score(x))


def test_the_triangle_is_its_formula() -> None:
    class Says(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.p = p

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[self.p, 1 - self.p]]).log().expand(len(x), 2)

    x = torch.zeros(1, 1, 2, 2)
    for u, v in ((0.9, 0.2), (0.95, 0.45), (0.6, 0.8)):
        expected = min(2 * v / u, (1 - u) / max(0.5 - v, 1e-8))
        found = Triangle(Says(u), Says(v), 2.0, 0.5)(Says(0.9), x)
        assert float(-found[0]) == pytest.approx(expected, rel=1e-4)


def test_the_stand_in_shrinks_the_lead_of_what_would_be_rejected() -> None:
    detector = strip(Backdoored().eval(), training(), fpr=0.1, overlays=10)
    stand_in = undetected(detector.net, detector)
    assert isinstance(stand_in, Undetected)
    x = torch.cat([pictures(5, 6).images(torch.arange(5)), stamped(pictures(20, 4))[:5]])
    ratio = stand_in(x).abs().amax(1) / Backdoored()(x).abs().amax(1)
    assert bool(ratio[:5].min() > ratio[5:].max())
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(stand_in(leaf).sum(), leaf)
    assert bool(torch.isfinite(grad).all())


def test_entropy_and_consistency_by_hand() -> None:
    net, x = Backdoored().eval(), pictures(3, 7).images(torch.arange(3))
    overlays = pictures(4, 8).images(torch.arange(4))
    with torch.no_grad():
        p = torch.stack([net((x + o).clamp(0, 1)).softmax(1) for o in overlays])
        assert torch.allclose(Steady(overlays)(net, x), (p * p.log()).sum(2).mean(0), atol=1e-5)
        said = net(x).argmax(1)
        share = torch.stack([net((k * x).clamp(max=1)).argmax(1) == said for k in (3, 5, 7, 9, 11)]).float().mean(0)
        assert torch.allclose((Consistent()(net, x) * 5).floor() / 5, share, atol=1e-3)


def planted(n: int = 300, poisons: int = 40) -> tuple[Split, nn.Module]:
    """Flat features; in class 0 the first `poisons` examples lie apart."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.02 * torch.randn(n, 1, 4, 4, generator=generator)
    y = torch.arange(n) % 3
    own = (y == 0).nonzero().flatten()[:poisons]
    x[own, :, :2] += 0.4
    return Split.of(x, y), nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


def test_filters_remove_the_planted_cluster() -> None:
    split, net = planted(poisons=30)
    bad = set(split.ids[(split.y == 0)][:30].tolist())
    clustered = activation_clustering(split, lambda s: net, components=5)
    assert not bad & set(clustered.ids.tolist())
    assert len(clustered) > 200
    signed = spectral_signatures(split, lambda s: net, oracle_rate=0.1)
    assert not bad & set(signed.ids.tolist())
    counts = [int((split.y == c).sum() - (signed.y == c).sum()) for c in range(3)]
    assert counts == [45, 45, 45]


def test_features_are_the_last_linear_layers_inputs() -> None:
    split, net = planted()
    assert torch.equal(features(net, split), split.images(torch.arange(300)).flatten(1))


def test_pruning_cuts_sleeping_channels_and_stops_in_time() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 6, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten(), nn.Linear(18, 3))
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([-1.0, -1, -1, -1, -1, 0]))
        conv.weight[5, 0, 1, 1] = 1.0  # the only channel awake: the picture itself
        net[4].weight.zero_()
        net[4].bias.zero_()
        for c in range(3):
            net[4].weight[c, 15 + c] = 50.0
    assert last_convolution(net, torch.zeros(1, 1, 7, 6))[0] is conv
    pruned = fine_pruning(net.eval(), training(), lr=1e-6, epochs=1)
    weights = pruned[0].weight  # type: ignore[index]
    assert torch.equal(weights[:5], torch.zeros(5, 1, 3, 3))
    assert float(weights[5].abs().max()) > 0.9


def test_neural_cleanse_finds_the_planted_class_and_its_place() -> None:
    net = Backdoored().eval().requires_grad_(False)
    masks, patterns = reversed_triggers(net, pictures(100, 2), 3, steps=300, batch=16, seed=0, device="cpu")
    areas = masks.flatten(1).sum(1)
    assert int(areas.argmin()) == 2
    assert int(masks[2].flatten().argmax()) == 41  # the corner pixel of 7 x 6
    assert float(patterns[2, 0, -1, -1]) > 0.9
    assert (deviations_below(torch.tensor([10.0, 11, 9, 10.5, 2])) > 2.0).tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("name", ["badexpert", "strip", "scaleup", "fine_pruning", "activation_clustering"])
def test_scrambled_test_labels_change_no_threshold_and_no_weight(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole lifecycle, from training to serving, twice; the second time the test split is another one."""
    space = InputSpace(1, 7, 6, 3)

    def fit(net: nn.Module, training: Training) -> nn.Module:
        torch.manual_seed(0)
        fresh = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(168, 3))
        return fitted(fresh, training, Recipe(4, lambda epoch: 0.05, batch=32))

    states = []
    for seed in (0, 1):
        monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / str(seed)))
        test = Split.of(pictures(40, 30 + seed).images(torch.arange(40)), torch.randperm(40) % 3)
        data = Dataset("toy", space, ("a", "b", "c"), {"train": pictures(96, 1), "val": pictures(400, 2), "test": test})
        given = {"fpr": 0.1} if name in ("badexpert", "strip", "scaleup") else {}
        cycle = Lifecycle(Model("toy", Backdoored(), space, "0" * 64, fit), data, (applied(name, given),))
        system = cycle.served()
        system.net(test.images(torch.arange(40)))
        states.append(system.net.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
