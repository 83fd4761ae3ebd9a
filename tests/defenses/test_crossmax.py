"""CrossMax: the aggregation against loops, a stack that keeps each picture to itself, heads over a frozen network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustsuite.benchmarks.models.small_nets import build
from robustsuite.defenses.serve.crossmax import crossmax, mean_logits, served_crossmax
from robustsuite.defenses.train.crossmax import (
    SelfEnsemble,
    Stack,
    at_resolution,
    blocks,
    rolled,
    self_ensemble,
    widened,
)
from robustsuite.errors import BadModel, BadValue, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.ensembles import Members
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Normalised, Training, as_it_is, load_model, weights_sha256
from robustsuite.serve.oracle import answer
from robustsuite.serve.stages import applied

SPACE = InputSpace(3, 16, 16, 4)
KEYS = Rng.of(3, "test", torch.arange(6))
X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    """Three blocks of residual network with normalisation inside, drawn by a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normalised(build("scenes_resnet", SPACE), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]).eval()


def training(n: int = 48) -> Training:
    """Four classes by which corner is bright."""
    y = torch.arange(n) % 4
    x = 0.3 + 0.1 * torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for i, label in enumerate(y.tolist()):
        x[i, :, 8 * (label // 2) :, :][:, :8, 8 * (label % 2) : 8 * (label % 2) + 8] += 0.5
    split = Split.of(x, y)
    return Training(split, split, seed=0)


def by_hand(z: list[list[list[float]]], k: int) -> list[list[float]]:
    """The three steps with lists."""
    answers = []
    for rows in z:
        rows = [[value - max(row) for value in row] for row in rows]
        tops = [max(row[c] for row in rows) for c in range(len(rows[0]))]
        columns = [sorted(row[c] - tops[c] for row in rows) for c in range(len(tops))]
        answers.append([column[(len(column) - 1) // 2] if k == 0 else column[-k] for column in columns])
    return answers


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("members", [3, 4, 7])
def test_aggregation_is_the_three_steps(k: int, members: int) -> None:
    z = torch.randn(5, members, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(members))
    assert torch.allclose(crossmax(z, k), torch.tensor(by_hand(z.tolist(), k), dtype=torch.float64), atol=1e-12)


def test_aggregation_ignores_how_loud_a_predictor_is_and_its_order() -> None:
    z = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    louder = z + torch.tensor([100.0, 0.0, -7.0, 3.0], dtype=torch.float64)[None, :, None]
    assert torch.allclose(crossmax(louder, 3), crossmax(z, 3))
    assert torch.equal(crossmax(z.flip(1), 3), crossmax(z, 3))
    assert float(crossmax(z, 1).abs().max()) == 0, "the first highest of a class is 0 by construction"
    assert bool((crossmax(z, 0) <= 0).all())


def test_a_stack_is_each_pictures_own_and_stays_in_the_box() -> None:
    stack = Stack(4)
    stack.rng = KEYS
    whole = stack(X)
    assert whole.shape == (6, 12, 16, 16)
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    stack.rng = KEYS
    assert torch.equal(whole, stack(X)), "the same streams draw the same"
    assert torch.allclose(stack(X).flip(0), stack(X.flip(0)), atol=1e-6), "without streams nothing depends on the place"
    for i in range(6):
        stack.rng = KEYS[torch.tensor([i])]
        assert torch.allclose(stack(X[i : i + 1])[0], whole[i], atol=1e-6)
    stack.rng = KEYS.fold(1)
    assert not torch.allclose(stack(X), whole, atol=0.05)


def test_saturated_pixels_keep_a_gradient_and_noise_has_its_size() -> None:
    x = torch.full((256, 1, 8, 8), 0.5).requires_grad_()
    seen = at_resolution(x, 1, Rng.of(0, "noise", torch.arange(256)))
    assert float(seen.detach().std()) == pytest.approx((2 * 0.2**2) ** 0.5, rel=0.08)  # twice 0.2, a little cut off
    bounds = torch.cat([torch.zeros(8, 1, 8, 8), torch.ones(8, 1, 8, 8)]).requires_grad_()
    (grad,) = torch.autograd.grad(at_resolution(bounds, 1, Rng.of(0, "g", torch.arange(16))).sum(), bounds)
    assert float((grad != 0).float().mean()) > 0.9


def test_rolling_is_numpys_roll() -> None:
    by = torch.tensor([[0, 0], [1, -2], [-3, 3]])
    moved = rolled(X[:3], by)
    for i, (down, right) in enumerate(by.tolist()):
        assert torch.equal(moved[i], X[i].roll((down, right), (1, 2)))


def test_a_widened_net_of_equal_resolutions_is_the_net() -> None:
    first = net()
    wide = widened(net(), 3, 4)
    assert torch.allclose(wide(X.repeat(1, 4, 1, 1)), first(X), atol=1e-5)
    with pytest.raises(Unsupported, match="convolution"):
        widened(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 3, 4)


def test_heads_stand_on_blocks() -> None:
    assert blocks(net()) == ["net.layer1.0", "net.layer2.0", "net.layer3.0"]
    assert blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))) == ["0", "2"]


def test_the_surrogate_is_the_mean_of_the_heads_over_the_same_draw() -> None:
    ensemble = SelfEnsemble(net(), X[:1], 4, 0)
    served = served_crossmax(ensemble)
    surrogate = mean_logits(ensemble, served)
    with torch.no_grad():
        z = [answer(module, X, KEYS) for module in (surrogate, served)]
        ensemble.stack.rng = KEYS
        heads = ensemble.predictors(X)
    assert heads.shape == (6, 4, 4)
    assert torch.allclose(z[0], heads.mean(1), atol=1e-6)
    assert torch.allclose(z[1], crossmax(heads, 3), atol=1e-6)


def test_heads_learn_and_the_network_below_them_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    task, base = training(), net()
    before = weights_sha256(base)
    defense = applied("self_ensemble", {"epochs": 3, "lr": 0.01, "head_lr": 0.01, "head_epochs": 4, "resolutions": 2})
    data = Dataset("corners", SPACE, tuple("abcd"), {"train": task.train, "val": task.val, "test": task.val})

    def system() -> Lifecycle:
        return Lifecycle(Model("toy", base, SPACE, before), data, (defense, applied("crossmax", {})))

    served = system().served()
    x, y = task.val.images(torch.arange(48)), task.val.y
    rng = Rng.of(0, "look", torch.arange(48))
    assert float((answer(served.net, x, rng).argmax(1) == y).float().mean()) > 0.6
    assert served.stochastic
    assert served.eot == 10
    assert served.surrogate is not None
    assert weights_sha256(base) == before
    again = system()
    again.tell = pytest.fail
    assert weights_sha256(again.served().net) == weights_sha256(served.net), "the kept weights fit the new shape"


def test_only_the_heads_are_trained_by_the_heads_epochs() -> None:
    task = training(16)
    short, longer = (
        self_ensemble(as_it_is, epochs=1, lr=1e-3, head_epochs=k, head_lr=1e-2)(net(), task) for k in (1, 3)
    )
    assert isinstance(short, SelfEnsemble)
    assert isinstance(longer, SelfEnsemble)
    assert weights_sha256(short.backbone) == weights_sha256(longer.backbone)
    assert weights_sha256(short.heads) != weights_sha256(longer.heads)


def test_models_are_joined_by_a_plus() -> None:
    space = InputSpace(1, 8, 8, 10)
    joined = load_model("python:tests.nets:linear + python:tests.nets:linear + python:tests.nets:linear", space)
    one = load_model("python:tests.nets:linear", space)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(joined.net, Members)
    assert torch.allclose(joined.net(x), one.net(x), atol=1e-5)
    assert not served_crossmax(joined.net, aggregate="median")(x).any(), "where all agree every class ties at 0"
    assert joined.sha256 != one.sha256
    with pytest.raises(BadModel, match="pretrained"):
        load_model("recipe:scenes_resnet + recipe:scenes_resnet", InputSpace(3, 32, 32, 10))


@pytest.mark.parametrize("given", [{"aggregate": "mean"}, {"k": 0}])
def test_values_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(BadValue):
        served_crossmax(Members([net(), net(), net()]), **given)  # type: ignore[arg-type]


def test_a_single_predictor_is_refused() -> None:
    with pytest.raises(Unsupported, match="several predictors"):
        served_crossmax(net())
    with pytest.raises(Unsupported, match="3 predictors"):
        served_crossmax(Members([net(), net()]))(X)


def test_two_members_that_agree_on_two_classes_make_an_exact_tie() -> None:
    z = torch.tensor([[[5.0, 9.0, 9.0], [2.0, 8.0, 8.0], [7.0, 1.0, 0.0]]])
    assert crossmax(z, 0)[0].tolist()[1:] == [0.0, 0.0]
