"""What each share-stage defense promises, client by client, and what an informed observer may re-apply."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.threats import Update
from robustsuite.defenses.share.gradient_clipping import clipped_again, gradient_clipping
from robustsuite.defenses.share.gradient_noise import gradient_noise
from robustsuite.defenses.share.gradient_sparsification import gradient_sparsification, kept_entries
from robustsuite.defenses.share.soteria import kept_columns, soteria
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.fedsgd import Rounds, accuracy
from robustsuite.methods.federated.updates import Client, Gradients, updates
from robustsuite.scenarios.inversion import Owner, observed
from robustsuite.serve.data import Split
from robustsuite.serve.stages import applied
from robustsuite.serve.training import untrained


def net() -> nn.Module:
    """A small untrained classifier of five classes over 3 x 8 x 8 pictures."""
    return untrained(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)), 0)


CLIENT = Client(net(), Update(2, trained=False))
X = torch.rand(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([[0, 1], [2, 2], [3, 4], [1, 1]])
UPDATE = updates(CLIENT, X, Y)
RNG = Rng.of(0, "share", torch.arange(4))


def lengths(update: Gradients) -> Tensor:
    return torch.cat([g.flatten(1) for g in update.values()], 1).norm(dim=1)


def rows(update: Gradients, t: int) -> Gradients:
    return {k: g[t] for k, g in update.items()}


def test_noise_has_its_deviation_and_a_stream_a_client() -> None:
    found = gradient_noise(UPDATE, rng=RNG, std=0.1)
    noise = torch.cat([(found[k] - g).flatten(1) for k, g in UPDATE.items()], 1)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    alone = gradient_noise({k: g[2:3] for k, g in UPDATE.items()}, rng=RNG[torch.tensor([2])], std=0.1)
    assert all(torch.equal(alone[k][0], g[2]) for k, g in found.items())
    assert all(torch.equal(g, UPDATE[k]) for k, g in gradient_noise(UPDATE, rng=RNG, std=0.0).items())


def test_clipping_bounds_each_clients_length_and_keeps_its_direction() -> None:
    bound = float(lengths(UPDATE).median()) * 1.0001
    found = gradient_clipping(UPDATE, bound=bound)
    assert torch.allclose(lengths(found), lengths(UPDATE).clamp_max(bound), rtol=1e-5)
    short = lengths(UPDATE) <= bound
    assert bool(short.any())
    assert not bool(short.all())
    for k, g in UPDATE.items():
        assert torch.equal(found[k][short], g[short])
        assert torch.allclose(functional.cosine_similarity(found[k].flatten(1), g.flatten(1)), torch.ones(4), atol=1e-5)
    again = clipped_again(rows(UPDATE, 0), rows(found, 0), bound=bound)
    assert all(torch.allclose(again[k], found[k][0]) for k in found)


def test_sparsification_zeroes_its_share_and_keeps_the_largest() -> None:
    found = gradient_sparsification(UPDATE, share=0.75)
    for k, g in UPDATE.items():
        size = g[0].numel()
        kept = found[k].flatten(1) != 0
        assert bool((kept.sum(1) <= size - int(0.75 * size)).all())
        assert torch.equal(found[k].flatten(1)[kept], g.flatten(1)[kept])
        for t in range(4):
            if bool(kept[t].any()) and not bool(kept[t].all()):
                size_of = g[t].flatten().abs()
                assert float(size_of[kept[t]].min()) >= float(size_of[~kept[t]].max())
    assert all(torch.equal(g, UPDATE[k]) for k, g in gradient_sparsification(UPDATE, share=0.0).items())
    again = kept_entries(rows(UPDATE, 1), rows(found, 1), share=0.75)
    assert all(torch.equal(again[k], found[k][1]) for k in found)


def naive_scores(t: int) -> Tensor:
    """sum over pictures of |d r_f / d x| / |r_f| by one jacobian."""
    body = nn.Sequential(*list(net().children())[:3])
    total = torch.zeros(128)
    for picture in X[t]:
        jacobian = torch.autograd.functional.jacobian(lambda x: body(x[None])[0], picture)
        total += jacobian.flatten(1).norm(dim=1) / body(picture[None])[0].abs().clamp_min(1e-12)
    return total.detach()


def test_soteria_zeroes_the_columns_of_least_score_and_nothing_else() -> None:
    found = soteria(UPDATE, owner=Owner(CLIENT, X, Y), share=0.5)
    for t in range(4):
        scores = naive_scores(t)
        gone = torch.zeros(128, dtype=torch.bool)
        gone[scores.argsort(stable=True)[:64]] = True
        assert bool((found["3.weight"][t][:, gone] == 0).all())
        assert torch.equal(found["3.weight"][t][:, ~gone], UPDATE["3.weight"][t][:, ~gone])
    assert all(torch.equal(g, UPDATE[k]) for k, g in found.items() if k != "3.weight")
    again = kept_columns(rows(UPDATE, 0), rows(found, 0), share=0.5)
    assert torch.equal(again["3.weight"], found["3.weight"][0])


@pytest.mark.parametrize(
    ("defense", "wrong"),
    [(gradient_clipping, {"bound": 0.0}), (gradient_sparsification, {"share": 1.0}), (soteria, {"share": -0.1}),
     (gradient_noise, {"std": -1.0})],
)  # fmt: skip
def test_a_parameter_out_of_range_is_said_in_words(defense: Any, wrong: dict[str, float]) -> None:
    handed: dict[str, Any] = {gradient_noise: {"rng": RNG}, soteria: {"owner": Owner(CLIENT, X, Y)}}.get(defense, {})
    with pytest.raises(BadValue, match="expected"):
        defense(UPDATE, **handed, **wrong)


def test_defenses_stack_in_order_and_the_observer_knows_those_that_can_be_reapplied() -> None:
    share = [applied("gradient_sparsification", {"share": 0.5}), applied("gradient_clipping", {"bound": 0.5}),
             applied("gradient_noise", {"std": 0.0})]  # fmt: skip
    seen = observed(CLIENT, X, Y, share, RNG)
    assert float(lengths(seen.update).max()) <= 0.5 + 1e-5
    dummy = seen.informed(rows(UPDATE, 3), rows(seen.update, 3))
    assert all(torch.allclose(dummy[k], seen.update[k][3], atol=1e-7) for k in dummy)


def test_a_federated_training_learns_and_a_defense_that_leaves_nothing_of_it_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (200,), generator=generator)
    x = 0.3 * torch.rand(200, 3, 8, 8, generator=generator) + 0.7 * functional.one_hot(y).view(-1, 3, 1, 1)
    split, rounds = Split.of(x, y), Rounds(rounds=12, clients=4, batch=8)
    plain = accuracy(net(), split, split, [], 0, rounds=rounds)
    stopped = accuracy(net(), split, split, [applied("gradient_clipping", {"bound": 1e-6})], 0, rounds=rounds)
    assert plain > 0.95
    with torch.no_grad():
        start = (net()(x).argmax(1) == y).float().mean()
    assert stopped == pytest.approx(float(start), abs=0.02)
    assert stopped < 0.7
    assert plain == accuracy(net(), split, split, [], 0, rounds=rounds)
