"""Methods of test-time adaptation against what their papers' formulas give by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.errors import BadValue, Unsupported
from robustsuite.methods.adaptation.heads import contrasted, with_features
from robustsuite.methods.adaptation.memory import Item, Memory
from robustsuite.methods.adaptation.norms import Moving, affine, batch_normed
from robustsuite.methods.adaptation.steps import diverse, entropy, moved, sureness, symmetric_cross_entropy
from robustsuite.methods.adaptation.views import viewed
from robustsuite.serve.models import ready
from robustsuite.serve.system import Session, System
from tests.streams import SPACE, net, pictures, training

NAMES = ("bn_adapt", "tent", "eata", "cotta", "sar", "rotta", "rmt")
GIVEN: dict[str, dict[str, Any]] = {
    "eata": {"samples": 40, "batch": 20}, "cotta": {"views": 2}, "rotta": {"size": 8, "every": 8},
    "rmt": {"samples": 40, "batch": 20},
}  # fmt: skip


def served(name: str, base: nn.Module | None = None, **given: Any) -> Session:
    """A session of the small net under this method."""
    card, base = card_of("defense", name), base or net()
    handed = (base, training()) if card.learns else (base,)
    made = ready(card.function(*handed, **{**GIVEN.get(name, {}), **given}))
    return Session.of(System(made, SPACE, adapts=True))


def asked(session: Session, x: Tensor) -> Tensor:
    """What it answers to a batch."""
    from robustsuite.maths.randomness import Rng

    return session.answer(x, Rng.of(0, "asked", torch.arange(len(x))))


def test_batch_statistics_are_the_batchs_and_a_prior_mixes_training_in() -> None:
    x, base = pictures(8), net()
    features = base[0](x)
    mean, var = features.mean((0, 2, 3)), features.var((0, 2, 3), correction=0)
    for prior in (0.0, 16.0):
        share = 8 / (8 + prior)
        by_hand = copy.deepcopy(base)
        by_hand[1].running_mean.lerp_(mean, share)
        by_hand[1].running_var.lerp_(var, share)
        assert torch.allclose(asked(served("bn_adapt", prior=prior), x), by_hand(x), atol=1e-5)
    far = asked(served("bn_adapt", prior=1e9), x)
    assert torch.allclose(far, base(x), atol=1e-4)
    with pytest.raises(BadValue, match="expected prior >= 0"):
        batch_normed(base, -1)


@pytest.mark.parametrize("name", ["tent", "eata", "sar"])
def test_without_a_step_a_batch_is_answered_as_by_batch_statistics_alone(name: str) -> None:
    session, plain = served(name, lr=0.0), served("bn_adapt")
    for seed in (0, 1, 2):
        assert torch.equal(asked(session, pictures(8, seed)), asked(plain, pictures(8, seed)))


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_is_what_is_answered_next_and_asking_it_changes_nothing(name: str) -> None:
    session = served(name, **({"confident": 0.0} if name == "cotta" else {}))
    asked(session, pictures(8, 3))
    before = copy.deepcopy(session.net.state_dict())
    x = pictures(8).requires_grad_()
    stands = session.net.standing(x)  # type: ignore[operator]
    (grad,) = torch.autograd.grad(stands[:4].sum(), x)
    assert bool((grad[4:] != 0).any()) == (name != "rotta"), "others reach an answer through the batch"
    assert all(torch.equal(before[k], v) for k, v in session.net.state_dict().items())
    assert torch.allclose(asked(session, pictures(8)), stands.detach(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_adapts_in_its_session_and_nowhere_else(name: str) -> None:
    eager = {"eata": {"limit": 1.0, "different": 2.0}, "sar": {"limit": 1.0}}.get(name, {})
    session, base = served(name, **eager), net()
    weights = copy.deepcopy(base.state_dict())
    other = Session.of(System(copy.deepcopy(session.net), SPACE))
    first = [asked(session, pictures(8, seed)) for seed in (0, 1, 0)]
    assert torch.equal(first[0], asked(other, pictures(8, 0))), "a new session begins where the other began"
    assert torch.equal(first[0], first[2]) == (name == "bn_adapt")
    assert all(torch.equal(weights[k], v) for k, v in base.state_dict().items())
    assert not any(p.requires_grad for p in session.net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_has_nothing_to_adapt_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(Unsupported, match=r"expected a network with (batch norm|norm) layers"):
        served(name, ready(nn.Sequential(nn.Flatten(), nn.Linear(768, 4))))


def test_layer_norms_adapt_and_have_no_statistics() -> None:
    base = ready(nn.Sequential(nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 4)))
    session = served("tent", base, lr=0.1)
    assert torch.equal(asked(session, pictures(8)), base(pictures(8)))
    assert not torch.allclose(asked(session, pictures(8)), base(pictures(8)))
    with pytest.raises(Unsupported, match="expected a network with batch norm layers"):
        served("bn_adapt", base)


def test_tent_takes_the_step_of_the_entropys_gradient_by_hand() -> None:
    """One norm layer and nothing else: z = w u + b, dH/dz = -p (log p + H); Adam's first step is lr times the sign."""
    base = ready(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)))
    x = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    u = (x.flatten(1) - x.flatten(1).mean(0)) / (x.flatten(1).var(0, correction=0) + 1e-5).sqrt()
    p = u.softmax(1)
    h = -(p * p.log()).sum(1, keepdim=True)
    slope = -p * (p.log() + h) / len(x)
    session = served("tent", base, lr=0.01)
    assert torch.allclose(asked(session, x), u, atol=1e-5)
    layer = session.net.net[1]  # type: ignore[union-attr, index]
    assert torch.allclose(layer.weight, 1 - 0.01 * (slope * u).sum(0).sign(), atol=1e-5)
    assert torch.allclose(layer.bias, -0.01 * slope.sum(0).sign(), atol=1e-5)


def test_eata_selects_what_is_sure_and_different_and_weighs_it() -> None:
    logits = torch.tensor([[4.0, 0, 0, 0], [0.1, 0, 0, 0], [0, 4.0, 0, 0]])
    session = served("eata", limit=0.4, different=0.4)
    eata = session.net
    chosen = eata.selected(logits)  # type: ignore[operator]
    assert entropy(logits)[1] > 0.4 * math.log(4) > entropy(logits)[0]
    assert chosen.tolist() == [True, False, True], "nothing was seen before: the sure ones"
    mean = logits.softmax(1)[[0, 2]].mean(0)
    assert torch.allclose(eata.mean, mean)  # type: ignore[arg-type]
    again = torch.tensor([[4.0, 0, 0, 0], [0, 0, 9.0, 0]])
    assert eata.selected(again).tolist() == [False, True]  # type: ignore[operator]
    assert torch.allclose(eata.mean, 0.9 * mean + 0.1 * again.softmax(1)[1])  # type: ignore[arg-type]
    assert diverse(again.softmax(1), mean, 0.4).tolist() == [False, True]
    assert torch.equal(moved(mean, again[:0]), mean)  # type: ignore[arg-type]
    assert torch.allclose(sureness(torch.tensor([0.2]), 0.5), torch.tensor([0.3]).exp())


def test_eatas_penalty_is_the_fisher_information_of_its_own_answers() -> None:
    eata = served("eata", samples=20, batch=20).net
    split = training().train
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:20]
    plain = batch_normed(net())
    params = [p.requires_grad_() for p in affine(plain)]
    logits = plain(split.images(order))
    grads = torch.autograd.grad(nn.functional.cross_entropy(logits, logits.argmax(1)), params)
    assert torch.allclose(eata.fisher, torch.cat([g.flatten() ** 2 for g in grads]), rtol=1e-4)  # type: ignore[arg-type]
    assert bool((eata.fisher > 0).any())  # type: ignore[operator]


def test_cottas_teacher_follows_by_its_momentum_and_restoring_all_returns_the_source() -> None:
    session = served("cotta", momentum=0.9, restored=0.0, lr=0.05, confident=0.0)
    cotta = session.net
    before = [p.clone() for p in cotta.teacher.parameters()]  # type: ignore[union-attr]
    answer = asked(session, pictures(8))
    assert torch.allclose(answer, asked(served("bn_adapt"), pictures(8)), atol=1e-6)
    for was, student, teacher in zip(before, cotta.student.parameters(), cotta.teacher.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.allclose(teacher, 0.9 * was + 0.1 * student, atol=1e-6)
    now = list(cotta.student.parameters())  # type: ignore[union-attr]
    assert not any(torch.equal(was, student) for was, student in zip(before[2:], now[2:], strict=True))
    all_back = served("cotta", restored=1.0, lr=0.05)
    asked(all_back, pictures(8))
    for student, source in zip(all_back.net.student.parameters(), all_back.net.source.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(student, source)


def test_sar_goes_uphill_first_and_starts_again_after_a_collapse() -> None:
    x, base = pictures(8), net()
    session = served("sar", lr=0.1, limit=1.0, radius=0.05, collapsed=0.0)
    plain = batch_normed(base)
    params = [p.requires_grad_() for p in affine(plain)]
    grads = torch.autograd.grad(entropy(plain(x)).mean(), params)
    length = torch.cat([g.flatten() for g in grads]).norm()
    start = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            p.add_(0.05 * g / length)
    uphill = torch.autograd.grad(entropy(plain(x)).mean(), params)
    asked(session, x)
    for p, was, g in zip(affine(session.net.net), start, uphill, strict=True):  # type: ignore[arg-type]
        assert torch.allclose(p, was - 0.1 * g, atol=1e-5)
    collapsed = served("sar", lr=0.1, limit=1.0, collapsed=10.0)
    source = {k: v.clone() for k, v in collapsed.net.net.state_dict().items()}  # type: ignore[union-attr]
    asked(collapsed, x)
    assert all(torch.equal(source[k], v) for k, v in collapsed.net.net.state_dict().items()), "to the last byte"  # type: ignore[union-attr]
    assert collapsed.net.mean is None


def test_rottas_memory_stays_balanced_and_keeps_the_young_and_the_sure() -> None:
    memory = Memory(8, 4)
    generator = torch.Generator().manual_seed(0)
    for i in range(200):  # most are of class 0
        label = 0 if i % 3 else int(torch.randint(4, (), generator=generator))
        memory.add(Item(torch.full((1,), float(i)), label, float(torch.rand((), generator=generator))))
        assert len(memory.items) <= 8
        assert max(memory.counts()) <= 2
    assert memory.counts() == [2, 2, 2, 2]
    x, ages = memory.pictures()
    assert x.shape == (8, 1)
    assert torch.equal(ages * 8, (ages * 8).round())
    full = Memory(2, 2)
    for entropy_, label in ((0.1, 0), (0.6, 1)):
        full.add(Item(torch.zeros(1), label, entropy_))
    full.add(Item(torch.ones(1), 1, 0.7))  # unsurer than what stands there, which is hardly older
    assert [item.entropy for item in full.items] == [0.1, 0.6]
    full.add(Item(torch.ones(1), 1, 0.1))
    assert [item.entropy for item in full.items] == [0.1, 0.1]


def test_rottas_statistics_move_by_their_share_while_it_learns_alone() -> None:
    layer = Moving(net()[1], 0.25)
    x = 2 + pictures(6).repeat(1, 2, 1, 1)
    mean, var = layer.mean.clone(), layer.var.clone()
    layer(x)
    assert torch.equal(layer.mean, mean)
    layer.learning = True
    layer(x)
    assert torch.allclose(layer.mean, 0.75 * mean + 0.25 * x.mean((0, 2, 3)))
    assert torch.allclose(layer.var, 0.75 * var + 0.25 * x.var((0, 2, 3), correction=0))


def test_rmt_compares_with_prototypes_and_answers_with_its_teacher() -> None:
    session = served("rmt", samples=0)
    rmt, split = session.net, training().train
    _, features = with_features(rmt.student, split.images(torch.arange(80)))  # type: ignore[arg-type]
    assert features.shape == (80, 24)
    logits = asked(session, pictures(8))
    assert torch.allclose(logits, 2 * asked(served("bn_adapt"), pictures(8)), atol=1e-5), "both are the source at first"
    z = torch.tensor([[1.0, 2, 0, 0]])
    assert torch.allclose(symmetric_cross_entropy(z, z), entropy(z), atol=1e-6)


def test_the_contrastive_loss_is_the_one_by_hand() -> None:
    parts = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    rows = nn.functional.normalize(torch.cat([parts[:, 0], parts[:, 1]]), dim=1)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        likeness = torch.stack([rows[i] @ rows[j] / 0.1 for j in others]).logsumexp(0)
        total -= float(rows[i] @ rows[(i + 3) % 6] / 0.1 - likeness)
    assert float(contrasted(parts, 0.1)) == pytest.approx(total / 6, rel=1e-5)


def test_another_view_is_a_picture_of_the_same_shape_and_differs() -> None:
    x = pictures(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = viewed(x), viewed(x)
    assert first.shape == x.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert not torch.allclose(first, second)
    grey = viewed(x[:, :1])
    assert grey.shape == (4, 1, 16, 16)


def test_cemas_uploads_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustsuite.defenses.serve.adaptation import cema as home

    cema = ready(home.Cema(net(), net(1), low=0.3, high=0.9, different=2.0, batch=4, kept=100))
    session = Session.of(System(cema, SPACE, adapts=True))
    plain, sent, steps = batch_normed(net()), 0, []
    taught = home.Cema.taught
    monkeypatch.setattr(home.Cema, "taught", lambda self, x, limit: (steps.append(len(x)), taught(self, x, limit)))
    for seed in range(3):
        x = pictures(10, seed)
        with torch.no_grad():
            h = entropy(session.net.edge(x)) / math.log(4)  # type: ignore[operator]
        asked(session, x)
        told = session.net.of_last()["uploaded"]  # type: ignore[operator]
        assert torch.equal(told, (h > 0.3) & (h < 0.9))
        sent += int(told.sum())
    assert 0 < sent < 30
    assert len(session.net.waiting) == sent % 4  # type: ignore[arg-type]
    assert steps == [4] * (sent // 4)
    assert not torch.equal(affine(session.net.edge)[0], affine(plain)[0])  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="expected the model that teaches in the cloud, got none"):
        served("cema")
