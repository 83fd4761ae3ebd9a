"""Microbial GA, GenAttack, QuScore: invariants of populations, known optima, derivatives of the maps they steer."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.attacks.evasion import genattack as gen
from robustsuite.attacks.evasion.genattack import genattack
from robustsuite.attacks.evasion.mga import mga, mga_transfer
from robustsuite.attacks.evasion.quscore import agreement, quscore
from robustsuite.config.threats import Access, Linf
from robustsuite.errors import BadValue, UnknownName, Unsupported
from robustsuite.methods import attribution
from robustsuite.methods.evasion import surrogates
from robustsuite.methods.evasion.genetic import Evolution, bernoulli, decoded, meeting, microbial, offspring
from robustsuite.scenarios.evasion import Found
from robustsuite.serve.adversary import Aux
from robustsuite.serve.data import Split
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Desk
from tests.attacks.linear import centre, distance, linear, oracle, streams

ATTACKS = {
    "mga": partial(mga, targets=None), "genattack": partial(genattack, targets=None),
    "mga_transfer": partial(mga_transfer, targets=None, surrogates="own"),
    "quscore": partial(quscore, surrogates="own"),
}  # fmt: skip


def owned(net: nn.Module) -> Aux:
    """An adversary with this net of its own."""
    x, y = centre(1)
    return Aux(Split.of(x, y), lambda spec: net)


def run(name: str, net: nn.Module, n: int, eps: float, *, surrogate: nn.Module | None = None, **given: Any) -> Found:
    """The attack on n times the middle of the box."""
    x, y = centre(n)
    given |= {"aux": owned(surrogate or net)} if name in ("mga_transfer", "quscore") else {}
    model = given.pop("model", oracle(net, n))
    return ATTACKS[name](model, x, y, Linf(eps), rng=streams(n), **given)  # type: ignore[operator]


def small() -> nn.Module:
    """Convolutions, ReLUs and a mean before one linear layer, in float64, over 3 x 8 x 8."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return ready(net.double())


def noise(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the microbial algorithm


def test_a_genome_is_a_corner_of_the_ball_clipped_to_the_box() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    for bit, expected in ((True, [0.1, 0.6, 1.0]), (False, [0.0, 0.4, 0.9])):
        got = decoded(torch.full((1, 3, 1, 1), bit), x, Linf(0.1)).flatten()
        torch.testing.assert_close(got, torch.tensor(expected))


def test_the_worse_of_a_random_pair_loses_and_every_pair_meets() -> None:
    fitness = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0]).repeat(4000, 1)
    loser, winner = meeting(fitness, streams(4000))
    assert (fitness[0, loser] < fitness[0, winner]).all()
    counts = torch.zeros(5, 5).index_put((loser, winner), torch.ones(4000), accumulate=True)
    assert counts[counts > 0].numel() == 10
    assert counts[counts > 0].min() > 330  # 400 each, 3.7 deviations


def test_offspring_takes_and_flips_at_the_given_rates() -> None:
    loser, winner = torch.zeros(50, 3, 20, 20, dtype=torch.bool), torch.ones(50, 3, 20, 20, dtype=torch.bool)
    child = offspring(loser, winner, streams(50), 0.7, 0.1)
    assert child.float().mean() == pytest.approx(0.7 * 0.9 + 0.3 * 0.1, abs=0.008)
    assert torch.equal(offspring(loser, winner, streams(50), 1.0, 0.0), winner)
    assert torch.equal(offspring(loser, winner, streams(50), 0.0, 0.0), loser)
    assert torch.equal(offspring(loser, winner, streams(50), 0.0, 1.0), winner)


def test_bernoulli_is_fair_and_its_individuals_differ() -> None:
    x = torch.full((40, 3, 8, 6), 0.5)
    first = bernoulli(x, streams(40))
    assert first.shape == (40, 5, 3, 8, 6)
    assert first.float().mean() == pytest.approx(0.5, abs=0.02)
    assert not any(torch.equal(first[:, 0], first[:, k]) for k in range(1, 5))


@pytest.mark.parametrize("queries", [3, 5, 6, 30])
def test_five_queries_to_begin_and_one_a_generation(queries: int) -> None:
    net = linear()
    model = oracle(net, 3)
    run("mga", net, 3, 0.5 * distance(net, "linf"), model=model, queries=queries)
    assert model.counts.forwards.tolist() == [queries] * 3


@pytest.mark.parametrize("name", ["mga", "genattack"])
def test_the_threats_queries_are_the_limit(name: str) -> None:
    net, n = linear(), 3
    desk = Desk(net, Access.SCORES | Access.LABELS, streams(n), queries=10)
    desk.counts.forwards += torch.tensor([0, 4, 10])
    found = run(name, net, n, 0.5 * distance(net, "linf"), model=desk.oracle())
    assert desk.counts.forwards.tolist() == [10, 10, 10]
    assert torch.equal(found.x_adv[2], centre(1)[0][0])


class Seen(nn.Module):
    """Remembers what it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return self.net(x)  # type: ignore[no-any-return]


def test_the_populations_best_is_never_lost() -> None:
    """Every picture asked about stands at +-eps, and each child's parents include the running best or better."""
    net, eps = linear(), 0.5 * distance(linear(), "linf")
    seen = Seen(net)
    x, y = centre(1)
    first = bernoulli(x, streams(1))
    bred = microbial(
        oracle(seen, 1), x, y, Linf(eps), first, Evolution(60, 1.0, 0.0), rng=streams(1), targets=None
    )  # with certain crossover and no mutation the whole population becomes its best member
    asked = torch.stack([a[0] for a in seen.asked])
    torch.testing.assert_close((asked - x).abs(), torch.full_like(asked, eps))
    for k in range(5):
        assert torch.equal(asked[k], decoded(first[:, k], x, Linf(eps))[0])
    losses = -net(asked)[:, 0]
    assert torch.equal(bred.x_adv[0], asked[:5][losses[:5].argmax()])
    assert (losses[-10:] == losses[:5].max()).all()


def test_mga_finds_the_sign_optimum_just_beyond_the_distance() -> None:
    net = linear()
    least = distance(net, "linf")
    given = {"queries": 3000, "mutation": 0.01}
    assert not run("mga", net, 2, 0.98 * least, **given | {"queries": 500}).columns["claimed"].any()
    found = run("mga", net, 2, 1.1 * least, **given)
    assert found.columns["claimed"].all()
    assert not found.columns["at_init"].any()
    assert (net(found.x_adv).argmax(1) == 1).all()


@pytest.mark.parametrize("name", ["mga_transfer", "quscore"])
def test_what_transfer_alone_breaks_is_counted_apart(name: str) -> None:
    """The net itself as surrogate: MI-FGSM finds the optimal signs. Another one's signs are as good as coins."""
    net = linear()
    eps = 1.02 * distance(net, "linf")
    model = oracle(net, 3)
    found = run(name, net, 3, eps, model=model, **({"weight": 0.0} if name == "quscore" else {}))
    assert found.columns["claimed"].all()
    assert found.columns["at_init"].all()
    assert model.counts.forwards.tolist() == [5] * 3
    other = run(name, net, 3, eps, surrogate=linear(seed=9), queries=40)
    assert not other.columns["at_init"].any()


def test_transfer_follows_the_targets() -> None:
    generator = torch.Generator().manual_seed(2)
    head = nn.Linear(3 * 8 * 6, 5)
    with torch.no_grad():
        head.weight.copy_(torch.randn(5, 144, generator=generator))
        head.bias.zero_()
    net = ready(nn.Sequential(nn.Flatten(), head))
    x, y = centre(2)
    targets = torch.tensor([[3], [4]])
    found = mga_transfer(
        oracle(net, 2), x, y, Linf(0.3), rng=streams(2), targets=targets, aux=owned(net), surrogates="own"
    )
    assert torch.equal(net(found.x_adv).argmax(1), targets[:, 0])
    assert found.columns["at_init"].all()


# GenAttack


def test_genattack_breaks_a_linear_net_and_never_inside_its_distance() -> None:
    net = linear()
    least = distance(net, "linf")
    given = {"queries": 2000, "alpha": 0.5, "rho": 0.05, "adaptive": False}
    assert not run("genattack", net, 2, 0.98 * least, **given | {"queries": 500}).columns["claimed"].any()
    assert run("genattack", net, 2, 2 * least, **given).columns["claimed"].all()


def test_genattack_asks_a_population_and_then_all_but_the_elite() -> None:
    net, seen = linear(), Seen(linear())
    model = oracle(seen, 1)
    run("genattack", net, 1, 1e-3, model=model, queries=30, population=6)
    assert model.counts.forwards.tolist() == [30]
    assert len(seen.asked) == 1 + 5  # 6, then 5, 5, 5, 5, and the 4 that are left


def test_the_elite_stays_and_the_best_fitness_never_worsens() -> None:
    genomes, fitness = torch.rand(4, 6, 3, 5, 5) * 0.2 - 0.1, torch.randn(4, 6, generator=torch.manual_seed(0))
    rates = gen.Rates(torch.full((4,), 0.3), torch.full((4,), 0.5))
    children, known = gen.bred(genomes, fitness, rates, 0.1, 0.1, streams(4))
    assert torch.equal(children[:, 0], genomes[torch.arange(4), fitness.argmax(1)])
    assert torch.equal(known[:, 0], fitness.amax(1))
    assert known[:, 1:].isinf().all()
    assert children.abs().max() <= 0.1


def test_parents_are_drawn_by_softmax_and_genes_by_their_share() -> None:
    """Two individuals of all -1 and all +1; without mutation the mean of the children is that of the parents."""
    fitness = torch.tensor([[0.0, 0.2]]).repeat(3000, 1)
    genomes = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1, 1).repeat(3000, 1, 1, 1, 1)
    rates = gen.Rates(torch.zeros(3000), torch.zeros(3000))
    children, _ = gen.bred(genomes, fitness, rates, 0.2, 1.0, streams(3000))
    p = torch.tensor([0.0, 1.0]).softmax(0)
    plus = p[1] ** 2 + 2 * p[0] * p[1] * p[1]  # both the better one, or one of each and then its gene by p
    assert (children[:, 1] > 0).float().mean() == pytest.approx(float(plus), abs=0.03)


def test_fitness_is_the_log_odds_of_the_target() -> None:
    logits, t = torch.randn(5, 4, generator=torch.manual_seed(1)), torch.tensor([[0], [1], [2], [3], [0]])
    p = logits.double().softmax(1).gather(1, t)[:, 0]
    fitness, margin, probable = gen.progress(logits, torch.zeros(5, dtype=torch.int64), t)
    torch.testing.assert_close(fitness.double(), (p / (1 - p)).log(), atol=1e-5, rtol=1e-5)
    assert torch.equal(margin > 0, logits.argmax(1) == t[:, 0])
    assert torch.equal(probable > 0, margin > 0)
    leaving = gen.progress(logits, t[:, 0], None)
    torch.testing.assert_close(leaving[0], -fitness)


def test_adapted_rates() -> None:
    rates = gen.adapted(torch.tensor([0, 9, 10, 10, 10]), torch.tensor([0, 0, 0, 3, 50]), 0.1, 0.15)
    assert rates.rho.tolist() == pytest.approx([1.0, 1.0, 0.5, 0.5 * 0.9**3, 0.1])
    assert rates.alpha.tolist() == pytest.approx([0.4, 0.4, 0.4, 0.4 * 0.9**3, 0.15])


def test_a_plateau_takes_300_generations_or_100_near_the_goal() -> None:
    for best, patience in ((-0.9, 300), (-0.3, 100)):
        for since, plateaus in ((patience - 2, 0), (patience - 1, 1)):
            rows = {"fitness": torch.zeros(1, 2), "score": torch.zeros(1), "best": torch.tensor([best]),
                    "found": torch.zeros(1, 1, 1, 1), "since": torch.tensor([since]), "plateaus": torch.zeros(1),
                    "asked": torch.tensor([2])}  # fmt: skip
            asked = (torch.zeros(1), -torch.ones(1), torch.tensor([best]))
            rows = gen.judged(rows, torch.tensor([[False, True]]), torch.zeros(1, 1, 1, 1), asked)
            assert rows["plateaus"].tolist() == [plateaus]
            assert rows["since"].tolist() == [0 if plateaus else since + 1]


def test_a_small_genome_is_upsampled_and_keeps_the_ball() -> None:
    net = linear()
    x, y = centre(2)
    found = genattack(oracle(net, 2), x, y, Linf(0.05), rng=streams(2), targets=None, queries=60, side=3)
    assert Linf(0.05).allows(x, found.x_adv).all()
    flat = gen.upsampled(torch.full((1, 3, 3, 3), 0.2), x)
    torch.testing.assert_close(flat, torch.full((1, 3, 8, 6), 0.2))


# maps


def test_the_smooth_relu_is_softplus_in_modules_functions_and_methods() -> None:
    z = torch.linspace(-1, 1, 9)
    soft = nn.functional.softplus(z, beta=attribution.BETA)
    with attribution.SmoothReLU():
        for relu in (nn.ReLU(), nn.ReLU(inplace=True), nn.functional.relu, torch.relu, torch.Tensor.relu):
            torch.testing.assert_close(relu(z.clone()), soft)  # type: ignore[operator]
        assert nn.functional.relu6(z + 8).max() <= 6.0
    torch.testing.assert_close(torch.relu(z), z.clamp(min=0))


@pytest.mark.parametrize("name", ["grad", "cam"])
def test_the_interpretation_terms_gradient_is_finite_differences(name: str) -> None:
    net, x, other = small(), 0.2 + 0.6 * noise(1, 3, 8, 8), noise(1, 3, 8, 8, seed=6)
    look, label = attribution.interpreter_named(name), torch.tensor([1])
    with attribution.SmoothReLU():
        benign = look(net, other, label).detach()
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(attribution.distance(look(net, leaf, label), benign).sum(), leaf)
        h = 1e-5
        for place in ((0, 0, 1, 2), (0, 1, 4, 4), (0, 2, 7, 0)):
            step = torch.zeros_like(x)
            step[place] = h
            ends = [attribution.distance(look(net, at, label), benign) for at in (x + step, x - step)]
            assert float(grad[place]) == pytest.approx(float((ends[0] - ends[1]) / (2 * h)), rel=1e-3, abs=1e-7)
    assert grad.abs().max() > 1e-4


def test_only_softened_relus_give_a_gradient_a_derivative() -> None:
    """A logit of a ReLU net is linear in each region: its gradient stands still, and no attack could steer it."""
    net, x = small(), noise(1, 3, 8, 8)

    def change(leaf: Tensor) -> float:
        (grad,) = torch.autograd.grad(net(leaf)[0, 1], leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), leaf, allow_unused=True)
        return 0.0 if second is None else float(second.abs().max())

    assert change(x.clone().requires_grad_()) == 0
    with attribution.SmoothReLU():
        assert change(x.clone().requires_grad_()) > 1e-4


@pytest.mark.parametrize("name", ["grad", "cam"])
def test_the_term_brings_the_map_nearer(name: str) -> None:
    """Phase 2 with the term, against phase 2 without: the same start, the same target, a nearer map."""
    from robustsuite.attacks.evasion.quscore import _steered

    net, look = small(), attribution.interpreter_named(name)
    x = noise(8, 3, 8, 8)
    y = net(x).argmax(1)
    start, target = (x + 0.1 * (noise(8, 3, 8, 8, seed=7) - 0.5)).clamp(0, 1), (y + 1) % 4
    with attribution.SmoothReLU():
        benign = look(net, x, y)
        ends = []
        for weight in (0.0, 10.0):
            steer = _steered([net], x, y, target, look, weight)
            at = surrogates.momentum(steer, start, x, eps=0.1, size=0.01, steps=20)
            ends.append(attribution.distance(look(net, at, target), benign).mean())
    assert ends[1] < 0.8 * ends[0]


def test_a_certain_answer_has_the_same_map_as_float64_gives() -> None:
    """Logits times 60: softmax is 1 in float32, where the plain cross-entropy's gradient loses its direction."""
    net, x = small(), noise(4, 3, 8, 8)
    with torch.no_grad():
        net[6].weight.mul_(60)  # type: ignore[index]
    y = net(x).argmax(1)
    exact = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(net(exact), y, reduction="sum"), exact)
    expected = attribution.scaled(nn.functional.avg_pool2d(grad.abs().amax(1, keepdim=True), 4)[:, 0])
    got = attribution.gradient_map(net.float(), x.float(), y)
    torch.testing.assert_close(got, expected.float(), atol=1e-3, rtol=1e-3)
    assert got.amax((1, 2)).tolist() == [1.0] * 4


def test_cam_is_the_weighted_sum_of_features() -> None:
    net, x = small(), noise(2, 3, 8, 8)
    features = net[:4](x)  # type: ignore[index]
    weight = net[6].weight[torch.tensor([2, 0])]  # type: ignore[index]
    raw = (weight[:, :, None, None] * features).sum(1)
    expected = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in raw])
    torch.testing.assert_close(attribution.activation_map(net, x, torch.tensor([2, 0])), expected)
    with pytest.raises(Unsupported):
        attribution.activation_map(linear().double(), noise(1, 3, 8, 6), torch.tensor([0]))


def test_overlap_is_intersection_over_union_above_one_half() -> None:
    a = torch.tensor([[[1.0, 0.6], [0.2, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    b = torch.tensor([[[1.0, 0.4], [0.9, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert attribution.overlap(a, b).tolist() == pytest.approx([1 / 3, 0.0, 1.0])
    net = small().float()
    x = noise(3, 3, 8, 8).float()
    assert agreement(net, x, x, attribution.gradient_map).tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mga", {"queries": 0}), ("mga", {"cross": 1.5}), ("mga_transfer", {"surrogates": ""}),
        ("quscore", {"weight": -1.0}), ("genattack", {"population": 1}), ("genattack", {"temperature": 0.0}),
    ],
)  # fmt: skip
def test_bad_values_are_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        run(name, linear(), 1, 0.1, **given)


def test_an_unknown_interpreter_is_refused() -> None:
    with pytest.raises(UnknownName):
        run("quscore", linear(), 1, 0.1, interpreter="map")
