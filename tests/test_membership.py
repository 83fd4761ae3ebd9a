"""Membership inference: whom coins put where, what each score is by hand, who is told from whom where it is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from robustsuite.attacks.membership.bavaria import Prior, bavaria, log_density, log_tail, prior
from robustsuite.attacks.membership.label_augmentation import label_augmentation
from robustsuite.attacks.membership.label_boundary import label_boundary
from robustsuite.attacks.membership.lira import lira
from robustsuite.attacks.membership.ratio import ratio
from robustsuite.attacks.membership.rmia import rmia
from robustsuite.attacks.membership.threshold import threshold
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access
from robustsuite.engine.plan import decide, plan
from robustsuite.engine.sweep import sweep_of
from robustsuite.errors import BadData, BadValue, UnknownName, UsageError
from robustsuite.integrity.checks import CHECKS
from robustsuite.maths.randomness import Rng
from robustsuite.methods.batched import _at_once, _in_turn, fitted_together
from robustsuite.methods.membership import SIGNALS, Shadows, sides, views
from robustsuite.records.cells import read_cell
from robustsuite.reports.measure.kinds import auc
from robustsuite.scenarios.membership.played import checked, judged
from robustsuite.serve.adversary import Membership
from robustsuite.serve.data import OTHER_SPLIT, InputSpace, Split, load_data
from robustsuite.serve.models import Training
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.training import Recipe, fitted, half_cosine
from tests.toys import lifecycle, linear

SPACE = InputSpace(1, 6, 6, 4)


def split(n: int, seed: int = 0) -> Split:
    """n pictures of noise with labels of noise: nothing can be learnt of them but by heart."""
    g = torch.Generator().manual_seed(seed)
    return Split.of(torch.rand(n, *SPACE.shape, generator=g), torch.randint(4, (n,), generator=g))


def streams(n: int) -> Rng:
    """A stream an example."""
    return Rng.of(0, "membership", torch.arange(n))


def oracle(net: nn.Module, n: int, access: Access = Access.SCORES | Access.LABELS) -> Oracle:
    """What an attack is handed."""
    return Oracle.over(net, access, streams(n), width=16)


# the draw


def test_each_example_is_in_half_of_the_shadows_and_no_count_tells_the_victim_s() -> None:
    draw, ids = Membership(None, 3, models=6), torch.arange(4000)
    inside = draw.each(ids)
    assert (inside.sum(0) == 3).all()
    assert all(abs(int(one.sum()) - 2000) < 4 * 32 for one in inside)
    victim = Membership(None, 3).inside(ids)
    assert abs(int(victim.sum()) - 2000) < 4 * 32
    assert all(abs(float((victim == one).float().mean()) - 0.5) < 4 * 0.5 / 4000**0.5 for one in inside)
    assert not torch.equal(victim, Membership(None, 4).inside(ids))
    assert torch.equal(victim[5:9], Membership(None, 3).inside(ids[5:9] + OTHER_SPLIT))
    assert torch.equal(inside[2], Membership(None, 3, models=6, model=2).inside(ids))


def test_a_pool_is_one_for_all_seeds_and_those_asked_about_are_of_it() -> None:
    train = split(60)
    assert torch.equal(Membership(20, 0).drawn(train, 20), Membership(20, 9).drawn(train, 20))
    few, many = (set(Membership(20, 0).drawn(train, n).tolist()) for n in (7, 20))
    assert few < many
    members = Membership(20, 1)(train)
    assert set(members.ids.tolist()) <= many
    assert 0 < len(members) < 20
    with pytest.raises(BadValue, match="a pool of at most 60"):
        Membership(61, 0).drawn(train, 61)


def test_whoever_sees_pictures_alone_does_no_better_than_guess() -> None:
    """Members and others are of one set: brightness tells nothing, nor does the place in the split."""
    pool = split(4000)
    member = Membership(None, 0).inside(pool.ids).numpy()
    blind = pool.images(torch.arange(4000)).flatten(1).mean(1).numpy()
    for score in (blind, np.arange(4000.0), pool.y.numpy().astype(float)):
        assert abs(auc(score, member) - 0.5) < 4 * math.sqrt(1 / (12 * 1000))


# signals and scores by hand

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [80.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 0])


def test_signals_are_what_their_formulas_say() -> None:
    p = torch.softmax(LOGITS.double(), 1)
    own = p[torch.arange(3), LABELS]
    found = {name: signal(LOGITS, LABELS) for name, signal in SIGNALS.items()}
    assert torch.allclose(found["loss"], own.log())
    assert torch.allclose(found["confidence"], own)
    assert torch.allclose(found["scaled_logit"][:2], (own / (1 - own)).log()[:2])
    assert found["scaled_logit"][2] == pytest.approx(80 - math.log(2)), "1 - p would be 0 here"
    assert torch.allclose(found["entropy"], (p * p.log()).sum(1))
    assert found["margin"].tolist() == pytest.approx([float(p[0, 0] - p[0, 2]), 0, 1])
    assert found["correctness"].tolist() == [1, 0, 1]
    rest = [sum(float(p[i, j]) * math.log(1 - float(p[i, j])) for j in range(3) if j != LABELS[i]) for i in (0, 1)]
    said = [(1 - float(own[i])) * math.log(float(own[i])) + rest[i] for i in (0, 1)]
    assert found["modified_entropy"][:2].tolist() == pytest.approx(said)
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_the_gap_attack_s_balanced_accuracy_is_the_gap() -> None:
    member, right = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).bool(), torch.tensor([1, 1, 1, 0, 1, 0, 0, 0]).double()
    assert auc(right.numpy(), member.numpy()) == 0.5 + (0.75 - 0.25) / 2


def test_views_are_the_picture_its_mirror_image_and_both_moved() -> None:
    x = split(3).images(torch.arange(3))
    found = views(x, 18)
    assert torch.equal(found[0], x)
    assert torch.equal(found[1], x.flip(3))
    assert torch.equal(found[2][:, :, :, :-1], x[:, :, :, 1:])
    assert len({view.numpy().tobytes() for view in found}) == 18
    with pytest.raises(BadValue, match="expected 1 to 18 views"):
        views(x, 19)


class Known(nn.Module):
    """Logits of two classes that differ by phi of each picture, which its first pixel names."""

    def __init__(self, phi: Tensor) -> None:
        super().__init__()
        self.phi = nn.Parameter(phi, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.phi[(x[:, 0, 0, 0] * 255).round().long()]
        return torch.stack([z, torch.zeros_like(z)], 1)


def planted(phi: Tensor, theirs: Tensor, inside: Tensor) -> dict[str, Any]:
    """What an attack is handed where the victim's scaled logits are phi (N,) and the shadows' theirs (M, N)."""
    n = phi.shape[0]
    x = torch.zeros(n, 1, 3, 3)
    x[:] = (torch.arange(n) / 255).view(-1, 1, 1, 1)
    y = torch.zeros(n, dtype=torch.int64)

    def answers(pictures: Tensor) -> Tensor:
        return torch.stack([Known(one)(pictures) for one in theirs])

    shadows = Shadows(inside, answers, Split.of(x, y))
    return {"model": oracle(Known(phi), n), "x": x, "y": y, "rng": streams(n), "shadows": shadows}


PHI = torch.tensor([2.0, -1.0, 0.5])
THEIRS = torch.tensor([[1.0, 0.0, 2.0], [3.0, -2.0, 0.0], [-1.0, 4.0, 1.0], [0.0, 2.0, -1.0]])
INSIDE = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]]).bool()


def normal(x: float, values: list[float], deviation: float) -> float:
    """The density's logarithm without its constant."""
    return -(((x - float(np.mean(values))) / deviation) ** 2) / 2 - math.log(deviation)


def test_lira_is_the_ratio_of_two_normal_densities_or_one_tail() -> None:
    handed = planted(PHI, THEIRS, INSIDE)
    ins, outs = [[1, 3], [4, 2], [2, 1]], [[-1, 0], [0, -2], [0, -1]]
    spread = [(float(np.std(ins[i])), float(np.std(outs[i]))) for i in range(3)]
    each = [normal(float(PHI[i]), ins[i], spread[i][0]) - normal(float(PHI[i]), outs[i], spread[i][1])
            for i in range(3)]  # fmt: skip
    found = lira(**handed, variance="example", query_views=1)
    assert found.tolist() == pytest.approx(each, rel=1e-5)
    one, other = float(np.std(ins)), float(np.std(outs))
    shared = [normal(float(PHI[i]), ins[i], one) - normal(float(PHI[i]), outs[i], other) for i in range(3)]
    assert lira(**handed, query_views=1).tolist() == pytest.approx(shared, rel=1e-5), "few shadows share a deviation"
    tail = [math.log(0.5 * math.erfc(-(float(PHI[i]) - float(np.mean(outs[i]))) / other / 2**0.5)) for i in range(3)]
    assert lira(**handed, online=False, query_views=2).tolist() == pytest.approx(tail, rel=1e-5)


def test_offline_lira_takes_less_sure_answers_for_others() -> None:
    low, high = (planted(torch.tensor([phi]), torch.tensor([[0.0], [0.2]]), torch.tensor([[1], [0]]).bool())
                 for phi in (-5.0, 5.0))  # fmt: skip
    assert lira(**low, online=False) < lira(**high, online=False)


def test_bavaria_is_students_t_and_its_prior_is_found_again() -> None:
    draws = np.random.default_rng(5)
    variance = 6 * 0.5 / draws.chisquare(6, 40_000)
    mean = 1.5 + np.sqrt(variance / 0.25) * draws.standard_normal(40_000)
    values = torch.from_numpy(mean + np.sqrt(variance) * draws.standard_normal((8, 40_000)))
    found = prior(values)
    assert found == pytest.approx(Prior(1.5, 0.25, 6, 0.5), rel=0.25, abs=0.05)
    one = prior(torch.from_numpy(draws.standard_normal((8, 4000))))
    assert one.nu > 100, "one variance for all"
    phi, few = torch.tensor([0.7], dtype=torch.float64), torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    known = Prior(mu=0.0, kappa=1.0, nu=3.0, s2=2.0)  # of two draws: nu' 5, mu' 1, s2' (6 + 0.5 + 1.5) / 5
    other = scipy.stats.t(5, loc=1.0, scale=math.sqrt(1.6 * 4 / 3))
    assert float(log_density(phi, few, known)) == pytest.approx(other.logpdf(0.7))
    assert float(log_tail(phi, few, known)) == pytest.approx(other.logcdf(0.7))
    flat = Prior(mu=0.0, kappa=0.0, nu=1e9, s2=4.0)  # LiRA's shared deviation, but for the mean's own error
    normal_ = scipy.stats.norm(1.5, 2 * math.sqrt(1.5))
    assert float(log_density(phi, few, flat)) == pytest.approx(normal_.logpdf(0.7), rel=1e-4)


def test_bavaria_tells_more_than_either_of_liras_deviations_where_variances_differ_and_shadows_are_few() -> None:
    draws = torch.Generator().manual_seed(2)
    hard = torch.randn(4000, generator=draws)
    own = 0.3 / torch.rand(4000, generator=draws).clamp_min(0.02)
    member = torch.rand(4000, generator=draws) < 0.5
    inside = torch.stack([torch.rand(4000, generator=draws) for _ in range(8)]).argsort(0).argsort(0) < 4
    victim = hard + 1.5 * member + own * torch.randn(4000, generator=draws)
    theirs = hard + 1.5 * inside + own * torch.randn(8, 4000, generator=draws)
    values = sides(theirs.double(), inside)
    scored = log_density(victim.double(), values[0], prior(values[0])) - log_density(victim.double(), values[1],
                                                                                     prior(values[1]))  # fmt: skip

    def ratio_(deviation: tuple[Tensor, Tensor]) -> Tensor:
        z = [(victim - side.median(0).values) / d for side, d in zip(values, deviation, strict=True)]
        return (z[1].square() - z[0].square()) / 2 + deviation[1].log() - deviation[0].log()

    each = ratio_((values[0].std(0, correction=0), values[1].std(0, correction=0)))
    shared = ratio_((values[0].std(), values[1].std()))
    areas = [auc(score.numpy(), member.numpy()) for score in (scored, each, shared)]
    assert areas[0] > max(areas[1:]) + 0.01, areas


def test_base_and_rmia_are_their_formulas_and_rank_alike() -> None:
    handed = planted(PHI, THEIRS, INSIDE)
    p, theirs = torch.sigmoid(PHI.double()), torch.sigmoid(THEIRS.double())
    plain = p / theirs.mean(0)
    assert torch.allclose(ratio(**handed).exp(), plain)
    out = sides(theirs, INSIDE)[1].mean(0)
    assert torch.allclose(ratio(**handed, online=False), p.log() - 0.33 * out.log())
    beaten = (plain[:, None] > plain).double().mean(1)
    assert torch.equal(rmia(**handed), beaten)
    offline = p / ((1.3 * out + 0.7) / 2)
    z = p / ((1.3 * theirs.mean(0) + 0.7) / 2)
    assert torch.equal(rmia(**handed, online=False), (offline[:, None] > z).double().mean(1))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_rmia_ranks_as_the_plain_ratio_whatever_its_gamma(gamma: float) -> None:
    g = torch.Generator().manual_seed(4)
    inside = torch.stack([torch.ones(200), torch.zeros(200)]).bool()
    handed = planted(torch.randn(200, generator=g), torch.randn(2, 200, generator=g), inside)
    one, other = ratio(**handed), rmia(**handed, gamma=gamma)
    order = one.argsort()
    assert (other[order].diff() >= 0).all(), "the same order but for ties"
    assert len(other.unique()) > 20


def test_planted_members_are_told_by_every_attack() -> None:
    """The sign of each score: members are answered more surely by the victim than by who was not trained on them."""
    g = torch.Generator().manual_seed(1)
    member = torch.rand(200, generator=g) < 0.5
    inside = torch.stack([torch.rand(200, generator=g) for _ in range(8)]).argsort(0).argsort(0) < 4
    hard = torch.randn(200, generator=g)
    theirs = hard + 2 * inside + 0.3 * torch.randn(8, 200, generator=g)
    handed = planted(hard + 2 * member + 0.3 * torch.randn(200, generator=g), theirs, inside)
    for attack, given in ((lira, {}), (lira, {"online": False}), (ratio, {}), (ratio, {"online": False}), (rmia, {}),
                          (rmia, {"online": False}), (bavaria, {}), (bavaria, {"online": False})):  # fmt: skip
        assert auc(attack(**handed, **given).numpy(), member.numpy()) > 0.85, attack.__name__
    alone = {key: value for key, value in handed.items() if key != "shadows"}
    found = {name: auc(threshold(**alone, signal=name).numpy(), member.numpy()) for name in SIGNALS}
    assert min(found[name] for name in ("loss", "confidence", "scaled_logit", "margin", "modified_entropy")) > 0.7
    assert found["correctness"] > 0.5
    assert auc(lira(**handed).numpy(), member.numpy()) > found["loss"], "what is hard for all is no evidence"
    shuffled = member[torch.randperm(200, generator=g)].numpy()
    assert abs(auc(lira(**handed).numpy(), shuffled) - 0.5) < 0.15
    with pytest.raises(UnknownName, match="signal"):
        threshold(**alone, signal="los")


def test_by_labels_alone() -> None:
    """Far from the boundary of a linear network is a member; a wrong answer's distance is 0."""
    net = linear()
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    y[0] = (y[0] + 1) % 3
    found = label_boundary(oracle(net, 12, Access.LABELS), x, y, rng=streams(12), queries=300)
    weight = next(m for m in net.modules() if isinstance(m, nn.Linear)).weight.detach()
    gaps = torch.stack([(logits[i, y[i]] - logits[i]) / (weight[y[i]] - weight).norm(dim=1).clamp_min(1e-9)
                        for i in range(12)])  # fmt: skip
    true = gaps.masked_fill(torch.nn.functional.one_hot(y, 3).bool(), torch.inf).amin(1)
    assert found[0] == 0
    assert (found[1:] >= true[1:] - 1e-3).all()
    assert np.corrcoef(found[1:].numpy(), true[1:].numpy())[0, 1] > 0.8
    counts = label_augmentation(oracle(net, 12, Access.LABELS), x, y, rng=streams(12))
    assert counts[0] <= counts[1:].max() <= 20
    with pytest.raises(BadValue, match="expected an evasion attack by labels in l2"):
        label_boundary(oracle(net, 12, Access.LABELS), x, y, rng=streams(12), search="rays")


def test_what_is_no_score_is_refused() -> None:
    card = card_of("attack", "lira")
    for bad in (torch.zeros(3), torch.tensor([0.0, math.nan])):
        with pytest.raises(BadValue, match="expected a score for each of 2 examples and no NaN from lira"):
            checked(bad, 2, card)
    with pytest.raises(BadValue, match="each example in half"):
        sides(torch.zeros(4, 3), torch.ones(4, 3).bool())
    handed = planted(PHI, THEIRS[:2], torch.tensor([[1, 0, 1], [0, 1, 0]]).bool())
    with pytest.raises(BadValue, match="two shadows of a side"):
        lira(**handed, variance="example")
    for attack, given in ((lira, {"variance": "each"}), (rmia, {"gamma": 0.0}), (ratio, {"temperature": 0.0})):
        with pytest.raises(BadValue):
            attack(**handed, **given)


# shadows


def small() -> nn.Module:
    """A network with batch norm."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))


def built(seed: int) -> nn.Module:
    """One from this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return small()


STEPS = Recipe(6, half_cosine(0.1, 6), batch=16, flip=True)


def test_one_network_trained_together_is_one_trained_alone() -> None:
    train = split(40)
    alone = fitted(built(0), Training(train, train, 5), STEPS)
    together = built(0)
    fitted_together([together], Training(train, train, 5), [torch.arange(40)], STEPS)
    x = train.images(torch.arange(40))
    assert torch.allclose(alone(x), together(x), atol=1e-4)
    assert not together.training


def test_networks_asked_at_once_answer_as_in_turn_and_their_statistics_move() -> None:
    nets = [built(k).train() for k in range(3)]
    params, buffers = torch.func.stack_module_state(nets)
    moved = {name: b.clone() for name, b in buffers.items()}
    x = torch.rand(3, 8, *SPACE.shape, generator=torch.Generator().manual_seed(0))
    one, other = _at_once(nets[0])(params, buffers, x), _in_turn(nets[0])(params, moved, x)
    assert torch.allclose(one, other, atol=1e-5)
    assert all(torch.allclose(buffers[name], moved[name], atol=1e-6) for name in buffers)
    assert moved["1.num_batches_tracked"].tolist() == [1, 1, 1]


def test_each_network_learns_its_own_rows_by_heart_and_no_other_s() -> None:
    train = split(64)
    inside = Membership(None, 0, models=4).each(train.ids)
    nets = [built(k) for k in range(4)]
    rows = [one.nonzero().flatten() for one in inside]
    fitted_together(nets, Training(train, train, 0), rows, Recipe(60, half_cosine(0.2, 60), batch=16))
    x = train.images(torch.arange(64))
    for net, mine in zip(nets, inside, strict=True):
        right = net(x).argmax(1) == train.y
        assert right[mine].float().mean() > 0.9
        assert right[~mine].float().mean() < 0.6
    with pytest.raises(BadData, match="expected training pictures for each network"):
        fitted_together(nets, Training(train, train, 0), [rows[0], rows[0][:0]], STEPS)


def test_who_learnt_by_heart_is_told_and_lira_tells_more_than_one_threshold() -> None:
    """Digits, 17 small networks on 150 of 300 each: what is hard for all is told from what was not seen."""
    pool = load_data("digits")[0].split("train").first(300)
    shadows, victim = Membership(None, 0, models=16), Membership(None, 0)
    member = victim.inside(pool.ids)
    nets = [digits(k) for k in range(17)]
    rows = [one.nonzero().flatten() for one in (*shadows.each(pool.ids), member)]
    x, y, untrained = pool.images(torch.arange(300)), pool.y, digits(17).eval()
    fitted_together(nets, Training(pool, pool, 0), rows, Recipe(25, half_cosine(0.1, 25), batch=32))
    owned = Shadows(shadows.each(pool.ids), lambda z: torch.stack([net(z) for net in nets[:16]]), pool)

    def told(net: nn.Module, attack: Any, **given: Any) -> float:
        handed = {} if attack is threshold else {"shadows": owned}
        return auc(attack(oracle(net, 300), x, y, rng=streams(300), **handed, **given).numpy(), member.numpy())

    globally = told(nets[16], threshold)
    online, offline = told(nets[16], lira, variance="fixed"), told(nets[16], lira, variance="fixed", online=False)
    assert online > globally > 0.5
    assert online >= offline > 0.5
    assert abs(told(untrained, threshold) - 0.5) < 4 * math.sqrt(1 / (12 * 75)), "no step was made: nobody was learnt"
    shuffled = member[torch.randperm(300, generator=torch.Generator().manual_seed(0))].numpy()
    score = lira(oracle(nets[16], 300), x, y, rng=streams(300), shadows=owned).numpy()
    assert abs(auc(score, shuffled) - 0.5) < 4 * math.sqrt(1 / (12 * 75))


def digits(seed: int) -> nn.Module:
    """A perceptron for 8 x 8 digits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


# the judge


def test_the_record_says_who_was_right_where_and_when_shadows_are_others() -> None:
    member = torch.tensor([True] * 50 + [False] * 50)
    columns = {"score": torch.arange(100.0), "member": member, "other": ~member, "clean_ok": member.clone()}
    record = judged(dict(columns))
    assert record.note == "50 members, 50 others; right on 100.0% of members and 0.0% of others"
    assert not record.flags
    inside = torch.stack([torch.arange(100) % 2 == k % 2 for k in range(4)])
    alike = judged(dict(columns), (inside.clone(), inside))
    assert not alike.flags
    assert alike.columns["shadow_member"].tolist() == [1.0] * 100
    unlike = judged(dict(columns), (torch.zeros(4, 100).bool(), inside))
    assert [flag.name for flag in unlike.flags] == ["shadows_unlike"]
    none = judged({**columns, "member": torch.ones(100).bool(), "other": torch.zeros(100).bool()})
    assert [flag.name for flag in none.flags] == ["nothing_to_tell"]
    assert {"shadows_unlike", "nothing_to_tell"} <= {name for check in CHECKS for name in check.flags}


# plans and cells


def sweep(**changed: Any) -> dict[str, Any]:
    """A sweep of one victim that is trained for a moment."""
    threat = {"scenario": "membership", "access": ["scores", "aux_data"], "pool": 80, "shadows": 2,
              "attacks": ["threshold", {"lira": {"query_views": 1}}], **changed.pop("threat", {})}  # fmt: skip
    return {"name": "m", "models": ["recipe:cnn_3_relu?epochs=2"], "defenses": ["none"], "threats": {"m": threat},
            "data": [{"digits": {"first": 24}}], **changed}  # fmt: skip


def cells(**changed: Any) -> list[Any]:
    """The planned cells that are played."""
    return [cell for cell, _ in plan(sweep_of(sweep(**changed), "a test")) if cell.threat is not None]


def test_cells_share_a_lifecycle_and_are_told_apart_by_what_is_drawn() -> None:
    one, other = cells()
    assert one.lifecycle is other.lifecycle
    assert one.lifecycle.trainings() == other.lifecycle.trainings()
    assert len(one.split) == 80
    assert int(one.split.ids.min()) >= OTHER_SPLIT
    several = [cells(threat=threat)[0] for threat in ({}, {"pool": 60}, {"subjects": 40}, {"shadows": 4})]
    assert len({cell.run_id for cell in several}) == 4
    keys = [tuple(cell.lifecycle.trainings()) for cell in several]
    assert keys[0] == keys[2] == keys[3] != keys[1], "who is asked about and by whom trains no other victim"
    bare = next(cell for cell, _ in plan(sweep_of(sweep(), "a test")) if cell.threat is None)
    assert bare.lifecycle.trainings() != one.lifecycle.trainings()


def test_a_plan_says_what_cannot_be_played() -> None:
    (first, second) = cells(threat={"access": "scores"})
    assert decide(first).status == "run"
    pretrained = replace(first.lifecycle, model=lifecycle(linear(), split(4)).model)
    assert decide(replace(first, lifecycle=pretrained)).sentence.startswith("toy comes trained, on nobody knows which")
    assert decide(second).sentence.startswith("lira needs aux_data")
    for wrong, said in [({"shadows": 3}, "even number"), ({"pool": 10, "subjects": 20}, "at most 10 subjects"),
                        ({"budget": {"linf": 1}}, "queries"), ({"pool": 10**6}, "a pool of at most")]:  # fmt: skip
        with pytest.raises(UsageError, match=said):
            cells(threat=wrong)


def test_a_sweep_plays_it_from_coins_to_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.engine.execute import Progress, execute, ordered
    from robustsuite.engine.store import Store

    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    smoothed = [{"gaussian_augmentation": {"epochs": 1, "augment": False}}, {"randomized_smoothing": {"n": 4}}]
    asked = sweep_of(sweep(defenses=["none", smoothed]), "a test")  # shadows as one, and one by one behind a defense
    wanted = [(cell, decision) for cell, decision in plan(asked) if cell.threat is not None]
    execute(list(ordered(wanted)), store := Store(tmp_path / "run"), Progress())
    records = [read_cell(file.parent) for file in store.cells.glob("*/run.json")]
    assert {record.status for record in records} == {"done"}, [r.sentence or r.traceback for r in records]
    assert len(records) == 4
    by = {record.attack.name: {c.name for c in record.columns} for record in records if record.attack}
    assert {"score", "member", "other", "clean_ok", "queries"} <= by["threshold"]
    assert {"shadow_member", "shadow_other"} <= by["lira"] - by["threshold"]
    assert all(record.rows == 80 for record in records)
