"""Every gradient inversion on small networks: reconstructs what it must, twice the same, with a negative control."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.inversion.analytic import analytic
from robustsuite.attacks.inversion.dlg import dlg
from robustsuite.attacks.inversion.gias import gias
from robustsuite.attacks.inversion.gifd import gifd
from robustsuite.attacks.inversion.gifd import search as feature_search
from robustsuite.attacks.inversion.gradinversion import gradinversion
from robustsuite.attacks.inversion.idlg import idlg
from robustsuite.attacks.inversion.inverting_gradients import inverting_gradients
from robustsuite.config.threats import Update
from robustsuite.errors import BadData, Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.generators import CODE, decoder, trained_generator
from robustsuite.methods.federated.gradient_matching import Observed, Recovered, Schedule, ramp
from robustsuite.methods.federated.image_quality import matched, psnr
from robustsuite.methods.federated.updates import Client
from robustsuite.scenarios.inversion import observed
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.models import Normalised
from robustsuite.serve.stages import applied
from robustsuite.serve.training import untrained


def smooth(n: int, side: int = 16, seed: int = 0) -> Tensor:
    """(n, 3, side, side) with broad patches of colour."""
    noise = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, (side, side), mode="bilinear").clamp(0, 1)


def net() -> nn.Module:
    """A smooth convolutional net of five classes, its weights wide enough for DLG."""
    layers = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(768, 5))
    fresh = untrained(layers, 0)
    with torch.no_grad():
        for p in fresh.parameters():
            p.mul_(4)
    return Normalised(fresh, (0.5,) * 3, (0.25,) * 3)


X, Y = smooth(3).view(3, 1, 3, 16, 16), torch.tensor([[0], [3], [1]])
AUX = Aux(Split.of(smooth(96, seed=5), torch.zeros(96, dtype=torch.int64)), lambda spec: net())
RNG = Rng.of(0, "attack", torch.arange(3))
Attack = Callable[..., Recovered]
PRIOR = {"aux": AUX, "epochs": 2, "restarts": 1}
ATTACKS: list[tuple[str, Attack, dict[str, Any], float]] = [
    ("dlg", dlg, {"iterations": 60}, 3.0),
    ("idlg", idlg, {"iterations": 60}, 3.0),
    ("inverting_gradients", inverting_gradients, {"iterations": 80, "lr": 0.2}, 3.0),
    ("gradinversion", gradinversion, {"iterations": 80, "lr": 0.2, "restarts": 2}, 1.0),
    ("gias", gias, {"iterations": 40, **PRIOR}, 1.0),
    ("gifd", gifd, {"iterations": 20, **PRIOR}, 1.0),
]
ALL = pytest.mark.parametrize(("attack", "given", "gain"), [pytest.param(*a[1:], id=a[0]) for a in ATTACKS])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "generators"
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(folder))


def seen(x: Tensor = X, y: Tensor = Y, **terms: Any) -> Observed:
    """What the clients share."""
    return observed(Client(net(), Update(x.shape[1], trained=False, **terms)), x, y, [], RNG[torch.arange(len(x))])


def best_psnr(x: Tensor, x_hat: Tensor) -> float:
    rows = torch.arange(len(x))[:, None]
    return float(psnr(x.flatten(0, 1), x_hat[rows, matched(x, x_hat)].flatten(0, 1)).mean())


@ALL
def test_nearer_to_its_own_pictures_than_to_another_clients(attack: Attack, given: dict[str, Any], gain: float) -> None:
    found = attack(seen(), rng=RNG, **given)
    assert found.x.shape == X.shape
    assert bool(((found.x >= 0) & (found.x <= 1)).all())
    assert torch.equal(found.y, Y)
    assert best_psnr(X, found.x) > best_psnr(X.roll(1, 0), found.x) + gain


@ALL
def test_same_streams_same_pictures_and_each_client_alone(attack: Attack, given: dict[str, Any], gain: float) -> None:
    given = {**given, "iterations": 6}
    torch.manual_seed(0)
    whole = attack(seen(), rng=RNG, **given)
    torch.manual_seed(99)
    assert torch.equal(whole.x, attack(seen(), rng=RNG, **given).x)
    one = torch.tensor([1])
    alone = attack(seen(X[one], Y[one]), rng=RNG[one], **given)
    assert torch.allclose(alone.x[0], whole.x[1], atol=0.02)
    assert torch.equal(alone.y[0], whole.y[1])


@ALL
@pytest.mark.parametrize("terms", [{"local_steps": 2, "rate": 0.05}, {"mode": "train"}, {"labels": True}], ids=str)
def test_batches_local_steps_and_defended_updates_are_played(
    attack: Attack, given: dict[str, Any], gain: float, terms: dict[str, Any]
) -> None:
    x, y = smooth(4).view(2, 2, 3, 16, 16), torch.tensor([[0, 0], [2, 4]])
    client, rng = Client(net(), Update(2, trained=False, **terms)), RNG[torch.arange(2)]
    share = [applied("gradient_sparsification", {"share": 0.5}), applied("gradient_clipping", {"bound": 1.0})]
    found = attack(
        observed(client, x, y, share, rng, labels_known="labels" in terms), rng=rng, **{**given, "iterations": 4}
    )
    assert found.x.shape == x.shape
    assert found.y.shape == y.shape
    assert bool(torch.isfinite(found.x).all())


@pytest.mark.parametrize("normalised", [False, True])
def test_a_linear_layer_with_bias_is_inverted_exactly(normalised: bool) -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.Sigmoid(), nn.Linear(20, 5))
    victim = Normalised(inner, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)) if normalised else inner
    client = Client(untrained(victim, 3), Update(1, trained=False))
    found = analytic(observed(client, X, Y, [], RNG), rng=RNG)
    assert float((found.x - X).abs().max()) < 1e-4
    assert torch.equal(found.y, Y)


def test_the_analytic_inversion_refuses_what_it_cannot_do() -> None:
    with pytest.raises(Unsupported, match="linear"):
        analytic(seen(), rng=RNG)


def test_a_second_restart_never_matches_worse() -> None:
    once, twice = (partial(inverting_gradients, seen(), rng=RNG, iterations=15)(restarts=r) for r in (1, 2))

    def cost(x: Tensor) -> Tensor:
        from robustsuite.methods.federated.gradient_matching import cosine

        g = seen()
        return torch.stack(
            [cosine(g.client.update(x[t], Y[t]), {k: v[t] for k, v in g.update.items()}) for t in range(3)]
        )

    assert bool((cost(twice.x) <= cost(once.x) + 1e-6).all())


def test_gifd_takes_any_blocks_and_later_stages_only_help() -> None:
    blocks = decoder((3, 16, 16)).requires_grad_(False)

    def run(n: int) -> Recovered:
        stages = nn.Sequential(*blocks[: n - 1], nn.Sequential(*blocks[n - 1 :]))
        return feature_search(seen(), stages, Schedule(15, 0.1, ramp), rng=RNG, restarts=1, tv=0.0, kl=0.0, radius=0.5)

    one, four = run(1), run(4)
    assert one.evaluations == 16
    assert four.evaluations == 64
    from robustsuite.methods.federated.gradient_matching import cosine

    g = seen()
    for t in range(3):
        target = {k: v[t] for k, v in g.update.items()}
        costs = [float(cosine(g.client.update(found.x[t], Y[t]), target)) for found in (four, one)]
        assert costs[0] <= costs[1] + 1e-6


def test_the_generator_is_kept_and_the_same_again() -> None:
    first = trained_generator(AUX.pictures, epochs=1)
    z = torch.randn(2, CODE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first(z), trained_generator(AUX.pictures, epochs=1)(z))
    assert first(z).shape == (2, 3, 16, 16)
    with pytest.raises(BadData, match="64 pictures"):
        trained_generator(AUX.pictures.first(10), epochs=1)
