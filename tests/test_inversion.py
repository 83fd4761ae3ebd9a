"""What gradient inversion rests on: updates, costs, label recovery, quality, searches, and the judge."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Threat, Update
from robustsuite.errors import Unsupported
from robustsuite.integrity.tampering import Tampered
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.generators import l1_ball
from robustsuite.methods.federated.gradient_matching import (
    Best,
    Observed,
    Recovered,
    Schedule,
    adam,
    batch_norm_prior,
    better,
    chosen,
    cosine,
    evaluator,
    l2,
    shown,
    total_variation,
)  # fmt: skip
from robustsuite.methods.federated.image_quality import matched, mse, psnr, ssim
from robustsuite.methods.federated.label_recovery import counted, idlg, least_rows, recovered
from robustsuite.methods.federated.lbfgs import lbfgs
from robustsuite.methods.federated.updates import Client, updates
from robustsuite.scenarios import inversion
from robustsuite.serve.data import Split
from robustsuite.serve.training import untrained

SHAPE = (3, 12, 12)


def conv_net(norm: bool = True, seed: int = 0) -> nn.Module:
    """Two convolutions, batch norm, a linear head with bias over five classes; untrained."""
    layers = [
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1),
    ]
    return untrained(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)), seed).eval()


def batch(t: int, b: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures (t, b, 3, 12, 12) and classes (t, b)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(t, b, *SHAPE, generator=generator), torch.randint(5, (t, b), generator=generator)


def seen(x: Tensor, y: Tensor, net: nn.Module, **terms: object) -> Observed:
    """The plain updates of clients with these pictures."""
    client = Client(net, Update(x.shape[1], trained=False, **terms))  # type: ignore[arg-type]
    return inversion.observed(client, x, y, [], Rng.of(0, "share", torch.arange(len(x))))


def naive_update(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient by plain backward."""
    for p in net.parameters():
        p.requires_grad_().grad = None
    functional.cross_entropy(net(x), y).backward()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("together", [0, 16])
def test_an_update_is_the_gradient_client_by_client(mode: str, together: int) -> None:
    x, y = batch(3, 4)
    net = conv_net()
    client = Client(net, Update(4, mode=mode, trained=False))
    client.together = lambda pictures: together  # type: ignore[method-assign]
    found = updates(client, x, y)
    reference = conv_net().train(mode == "train")
    for t in range(3):
        for k, g in naive_update(reference, x[t], y[t]).items():
            assert torch.allclose(found[k][t], g, atol=1e-6), k


def test_local_steps_share_the_weights_change_over_the_rate() -> None:
    x, y = batch(1, 4)
    net = conv_net(norm=False)
    found = updates(Client(net, Update(4, local_steps=3, rate=0.1)), x, y)
    walking = conv_net(norm=False)
    optimiser = torch.optim.SGD(walking.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(walking(x[0]), y[0]).backward()
        optimiser.step()
    for (k, p), (_, q) in zip(net.named_parameters(), walking.named_parameters(), strict=True):
        assert torch.allclose(found[k][0], (p.detach() - q.detach()) / 0.1, atol=1e-5), k


def test_the_clients_network_is_left_as_it_was() -> None:
    net = conv_net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    updates(Client(net, Update(4, mode="train")), *batch(2, 4))
    assert net.training
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_untrained_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = untrained(conv_net(), 7)
    torch.manual_seed(2)
    b, c = untrained(conv_net(), 7), untrained(conv_net(), 8)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


@pytest.mark.parametrize("objective", ["cosine", "tv", "l2"])
def test_gradients_of_the_objective_agree_with_finite_differences(objective: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 5)).double()
    x, y = batch(1, 1)
    client = Client(net, Update(1))
    target = {k: g[0] for k, g in updates(client, x.double(), y).items()}
    u = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def value(u: Tensor) -> Tensor:
        if objective == "tv":
            return total_variation(u)
        return (cosine if objective == "cosine" else l2)(client.update(shown(u), y[0]), target)

    assert torch.autograd.gradcheck(value, (u,), eps=1e-6, atol=1e-6)


def test_costs_vanish_at_the_truth_and_cosine_forgets_the_length() -> None:
    x, y = batch(1, 1)
    g = {k: t[0] for k, t in updates(Client(conv_net(), Update(1)), x, y).items()}
    assert float(cosine(g, g)) == pytest.approx(0, abs=1e-6)
    assert float(l2(g, g)) == 0
    assert float(cosine({k: 7 * t for k, t in g.items()}, g)) == pytest.approx(0, abs=1e-6)
    assert float(cosine({k: -t for k, t in g.items()}, g)) == pytest.approx(2, abs=1e-6)


def test_total_variation_is_the_naive_double_loop() -> None:
    u = batch(1, 1)[0][0]
    across = [abs(float(u[0, c, i, j] - u[0, c, i, j + 1])) for c in range(3) for i in range(12) for j in range(11)]
    down = [abs(float(u[0, c, i, j] - u[0, c, i + 1, j])) for c in range(3) for i in range(11) for j in range(12)]
    assert float(total_variation(u)) == pytest.approx(sum(across) / len(across) + sum(down) / len(down), rel=1e-5)


def test_the_batch_norm_prior_vanishes_where_the_statistics_are_the_running_ones() -> None:
    net, (x, y) = conv_net(), batch(1, 4)
    h = net[0](x[0]).transpose(0, 1).flatten(1)  # type: ignore[index]
    away = Client(net, Update(4))
    far = float(batch_norm_prior(away.watched(x[0], y[0])[1], away))
    net[1].running_mean, net[1].running_var = h.mean(1).detach(), h.var(1, correction=0).detach()  # type: ignore[index]
    near = Client(net, Update(4))
    assert float(batch_norm_prior(near.watched(x[0], y[0])[1], near)) < 1e-3 < far


def test_labels_of_a_batch_are_recovered_exactly_repeats_and_all() -> None:
    for seed in range(5):
        x, y = batch(6, 8, seed)
        assert torch.equal(recovered(seen(x, y, conv_net(seed=seed))), y.sort(1).values)
    y = torch.tensor([[2, 2, 2, 2], [0, 0, 4, 4]])
    assert torch.equal(recovered(seen(batch(2, 4)[0], y, conv_net())), y)


def test_labels_survive_batch_norm_in_train_mode_and_a_scaled_update() -> None:
    x, y = batch(4, 6, 3)
    assert torch.equal(recovered(seen(x, y, conv_net(), mode="train")), y.sort(1).values)
    y = torch.tensor([[0, 0, 0, 3, 3, 3], [1, 1, 2, 2, 4, 4], [2, 2, 2, 2, 2, 2]])
    found = seen(x[:3], y, conv_net())
    shrunk = Observed(found.client, {k: 0.03 * g for k, g in found.update.items()}, found.shape)
    assert torch.equal(recovered(shrunk), y)


def test_labels_of_a_head_without_bias() -> None:
    net = untrained(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5, bias=False)), 0)
    x, y = batch(5, 1)
    assert torch.equal(recovered(seen(x, y, net.eval())), y)


def test_published_label_rules() -> None:
    x, y = batch(6, 1)
    found = seen(x, y, conv_net())
    assert torch.equal(idlg(found.update["6.weight"]), y)
    distinct = torch.tensor([[0, 2, 4], [1, 2, 3]])
    found = seen(batch(2, 3)[0], distinct, conv_net())
    assert torch.equal(least_rows(found.update["6.weight"], 3), distinct)


def test_counting_is_exact_on_the_formula() -> None:
    p = torch.tensor([0.1, 0.3, 0.2, 0.4])
    counts = torch.tensor([[3, 0, 1, 0], [0, 4, 0, 0], [1, 1, 1, 1]])
    labels = torch.tensor([[0, 0, 0, 2], [1, 1, 1, 1], [0, 1, 2, 3]])
    assert torch.equal(counted(p - counts / 4, p, 4), labels)
    assert torch.equal(counted(0.2 * (p - counts / 4), p, 4), labels)


def test_a_network_without_a_linear_head_is_refused_in_words() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.Sigmoid())
    with pytest.raises(Unsupported, match="linear"):
        recovered(seen(*batch(1, 1), net))


def test_psnr_and_matching_do_not_care_for_the_order_of_a_batch() -> None:
    x = batch(2, 5)[0]
    order = torch.tensor([[4, 2, 0, 1, 3], [1, 0, 2, 4, 3]])
    rows = torch.arange(2)[:, None]
    shuffled = x[rows, order]
    assert torch.equal(shuffled[rows, matched(x, shuffled)], x)
    noisy = shuffled + 0.05
    assert torch.allclose(psnr(x.flatten(0, 1), noisy[rows, matched(x, noisy)].flatten(0, 1)),
                          torch.full((10,), -20 * math.log10(0.05), dtype=torch.float64), atol=1e-4)  # fmt: skip


def test_matching_is_the_best_of_all_orders() -> None:
    from itertools import permutations

    x, x_hat = batch(1, 4)[0], batch(1, 4, 9)[0]
    costs = [
        sum(float(mse(x[0, i : i + 1], x_hat[0, j : j + 1])) for i, j in enumerate(p)) for p in permutations(range(4))
    ]
    found = sum(float(mse(x[0, i : i + 1], x_hat[0, j : j + 1])) for i, j in enumerate(matched(x, x_hat)[0].tolist()))
    assert found == pytest.approx(min(costs))


def test_ssim_is_the_naive_window_loop() -> None:
    a, b = batch(1, 1)[0][0, :, :1], batch(1, 1, 2)[0][0, :, :1]
    axis = torch.arange(-5, 6, dtype=torch.float64)
    bell = torch.exp(-axis.square() / 4.5)
    window = torch.outer(bell, bell) / bell.sum() ** 2
    values = []
    for i in range(2):
        for j in range(2):
            p, q = a[0, 0, i : i + 11, j : j + 11].double(), b[0, 0, i : i + 11, j : j + 11].double()
            m, n = (window * p).sum(), (window * q).sum()
            v, w, c = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum(), (window * (p - m) * (q - n)).sum()
            values.append((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m**2 + n**2 + 1e-4) * (v + w + 9e-4)))
    assert float(ssim(a, b)) == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)
    assert float(ssim(a, a)) == pytest.approx(1)


def test_l1_ball_is_the_nearest_point() -> None:
    v = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    found = l1_ball(v, 3.0)
    assert torch.allclose(found.abs().sum(1), torch.full((6,), 3.0), atol=1e-5)
    low, high = torch.zeros(6, 1), v.abs().amax(1, keepdim=True)
    for _ in range(60):
        mid = (low + high) / 2
        long = (v.abs() - mid).clamp_min(0).sum(1, keepdim=True) > 3
        low, high = torch.where(long, mid, low), torch.where(long, high, mid)
    assert torch.allclose(found, v.sign() * (v.abs() - high).clamp_min(0), atol=1e-5)
    assert torch.equal(l1_ball(v, 1e3), v)


def test_lbfgs_walks_as_torchs_does_row_by_row() -> None:
    a = torch.diag(torch.tensor([1.0, 3.0, 9.0]))
    start = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0]])

    def evaluate(v: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        value = 0.5 * ((v["u"] @ a) * v["u"]).sum(-1)
        return {"u": v["u"] @ a}, value, value

    best = lbfgs({"u": start[:, None]}, evaluate, 12)
    for row in range(2):
        leaf = start[row].clone().requires_grad_()
        optimiser = torch.optim.LBFGS([leaf], lr=1.0, max_iter=12, tolerance_grad=0, tolerance_change=0)

        def closure(leaf: Tensor = leaf) -> Tensor:
            leaf.grad = a @ leaf.detach()
            return 0.5 * (leaf.detach() @ a @ leaf.detach())

        optimiser.step(closure)
        reached = 0.5 * float(leaf.detach() @ a @ leaf.detach())
        assert float(best.total[row, 0]) <= reached * 1.01 + 1e-9


def test_a_search_that_breaks_leaves_the_others_alone() -> None:
    def evaluate(v: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        value = v["u"].square().flatten(2).sum(2)
        value[0, 0] = torch.nan
        return {"u": 2 * v["u"]}, value, value

    best = adam({"u": torch.ones(2, 2, 3)}, evaluate, Schedule(20, 0.1))
    assert bool((best.total[:, 1] < 1).all())
    assert float(best.total[0, 0]) == math.inf
    lost = chosen(best.variables["u"][..., None, None], Best(best.variables, best.total[:, :1], best.match[:, :1]))
    assert bool(lost[0].isnan().all())
    assert not bool(lost[1].isnan().any())


def test_the_restart_is_chosen_by_its_matching_cost() -> None:
    pictures = torch.arange(6.0).view(2, 3, 1, 1, 1, 1)
    match = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.6, torch.nan]])
    best = better(None, Best({"u": pictures}, match, match))
    assert chosen(pictures, best).flatten().tolist() == [1, 3]


def test_a_batch_of_trials_is_its_trials_one_by_one() -> None:
    x, y = batch(3, 1)
    found = seen(x, y, conv_net())

    def objective(v: dict[str, Tensor], row: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        match = cosine(found.client.update(shown(v["u"]), row["y"]), row["observed"])  # type: ignore[arg-type]
        return match, match

    u = {"u": torch.randn(3, 2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))}
    whole = evaluator(found, objective, {"y": y})(u)
    found.client.together = lambda pictures: 0  # type: ignore[method-assign]
    alone = evaluator(found, objective, {"y": y})(u)
    assert torch.allclose(whole[0]["u"], alone[0]["u"], atol=1e-7)
    assert torch.allclose(whole[1], alone[1], atol=1e-6)


def perfect(known: Tensor, y: Tensor, wrong: bool = False, broken: bool = False) -> object:
    """An attack that knows: the originals in reverse order, or another client's, or NaN."""

    def attack(seen: Observed, *, rng: Rng) -> Recovered:
        x = known.roll(1, 0) if wrong else known.flip(1)
        return Recovered(torch.full_like(x, torch.nan) if broken else x, y.flip(1), 3)

    return attack


def played(attack: object, x: Tensor, y: Tensor) -> inversion.Record:
    split = Split.of(x.flatten(0, 1), y.flatten())
    threat = Threat("t", "inversion", Access.WEIGHTS | Access.UPDATE, update=Update(x.shape[1], trained=False))
    card = AttackCard("attack", "toy", attack, "inversion", needs=Access.WEIGHTS | Access.UPDATE)
    return inversion.judged(conv_net(), attack, split, threat, Rng.of(0, "t", split.ids), card=card)  # type: ignore[arg-type]


def test_the_judge_matches_counts_failures_and_has_a_negative_control() -> None:
    x, y = batch(3, 2)
    record = played(perfect(x, y), x, y)
    assert float(record.columns["psnr"].min()) > 100
    assert bool(record.columns["label_ok"].all())
    assert bool(record.columns["identified"].all())
    assert not record.flags
    other = played(perfect(x, y, wrong=True), x, y)
    assert not bool(other.columns["identified"].any())
    assert [flag.name for flag in other.flags] == ["control_as_good"]
    lost = played(perfect(x, y, broken=True), x, y)
    assert bool(lost.columns["failed"].all())
    assert len(lost.columns["psnr"]) == 6
    assert torch.allclose(lost.columns["psnr"], psnr(x.flatten(0, 1), torch.full((6, *SHAPE), 0.5)).float())


def test_an_attack_that_rewrites_its_judge_has_no_number() -> None:
    x, y = batch(1, 2)

    def attack(seen: Observed, *, rng: Rng) -> Recovered:
        inversion.psnr = lambda error: torch.full_like(error, 99.0)
        return Recovered(torch.full((len(seen), *seen.shape), 0.5), recovered(seen))

    with pytest.raises(Tampered, match=r"got changes of robustsuite\.scenarios\.inversion\.psnr"):
        played(attack, x, y)
    assert inversion.psnr is psnr


def test_a_last_smaller_client_is_played_too() -> None:
    x, y = batch(1, 5)
    split = Split.of(x[0], y[0])
    sizes = []

    def attack(seen: Observed, *, rng: Rng) -> Recovered:
        sizes.append((len(seen), seen.shape[0], len(rng)))
        return Recovered(torch.full((len(seen), *seen.shape), 0.5), recovered(seen))

    threat = Threat("t", "inversion", Access.WEIGHTS | Access.UPDATE, update=Update(2, trained=False))
    card = AttackCard("attack", "toy", attack, "inversion", needs=Access.WEIGHTS | Access.UPDATE)
    record = inversion.judged(conv_net(), attack, split, threat, Rng.of(0, "t", split.ids), card=card)
    assert sizes == [(2, 2, 2), (1, 1, 1)]
    assert bool(record.columns["label_found"].all())
