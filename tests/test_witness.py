"""What is asked again after an attack, and what counts as a right answer: known answers on tiny networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.registry import AttackCard
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.integrity.class_order import over_rejecting
from robustsuite.integrity.tampering import put_back
from robustsuite.maths.losses import cross_entropy
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.evasion import Found
from robustsuite.scenarios.record import Record
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import ready
from robustsuite.serve.oracle import Oracle, answer
from tests.toys import labelled, linear, pictures, system

N, RIGHT = 96, 92
CARD = AttackCard("attack", "toy", lambda: None, "evasion", needs=Access.GRADIENTS)


def streams(n: int = N) -> Rng:
    return Rng.of(0, "witness", torch.arange(n))


def played(net: nn.Module, attack: Any, eps: float = 0.02, **facts: Any) -> Record:
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(eps))
    split = labelled(linear(), N)
    return evasion.judged(system(ready(net), **facts), attack, split, threat, streams(), width=64, card=CARD)


def names(record: Record) -> set[str]:
    return {flag.name for flag in record.flags}


def still(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
    """An attack that does nothing."""
    return x


def ascended(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
    """One question about gradients and one step along what came."""
    ask = model.gradient(x, lambda z: cross_entropy(z, y))
    return budget.project(x, x + budget.eps * ask.grad.sign())


class Around(nn.Module):
    """The linear network with something done to its logits, given the pictures."""

    def __init__(self, after: Any) -> None:
        super().__init__()
        self.net, self.after = linear(), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(x), x)  # type: ignore[no-any-return]


def moved(x: Tensor) -> Tensor:
    """Which of these are none of the clean pictures (N,)."""
    clean = pictures(N)
    return (x.detach()[:, None] - clean[None].to(x)).flatten(2).abs().amax(2).amin(1) > 1e-6


class Rejecting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return linear()(x).masked_fill(moved(x)[:, None], torch.nan)


def test_a_rejected_picture_is_not_right_and_the_row_says_what_would_stand_otherwise() -> None:
    record = played(Rejecting(), ascended, under=linear())
    c = record.columns
    assert int(c["clean_ok"].sum()) == RIGHT
    assert not bool(c["robust"].any())
    assert torch.equal(c["unanswered"], c["clean_ok"])
    assert not bool((c["fooled"] & c["clean_ok"]).any())
    assert "95.8% have no answer when attacked and count as broken; as a defense, 95.8% stand" in record.note
    assert "noise_rejected" in names(record)


def test_ties_are_neither_breaks_nor_right_answers_and_fail_where_clean_pictures_have_none() -> None:
    record = played(Around(lambda z, x: z.masked_fill(moved(x)[:, None], 0.5)), ascended)
    c = record.columns
    assert int(c["unsettled"].sum()) == int(c["unanswered"].sum()) == RIGHT
    assert not bool(c["robust"].any())
    assert "no_answer" in names(record)


def test_readings_that_disagree_settle_nothing() -> None:
    """By 1e-7 the label leads in float32 and the other class in float64."""

    class TwoFaced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.zeros(len(x), 2, dtype=x.dtype) + x.new_tensor([1.0, 1.0])
            z[:, 0] += 2e-7 if x.dtype == torch.float32 else -2e-7
            return z

    found = Judge(TwoFaced(), stochastic=False)(pictures(5), torch.zeros(5, dtype=torch.int64), streams(5))
    assert found.unsettled.tolist() == [True] * 5
    assert not bool((found.wrong | found.held).any())


@pytest.mark.parametrize("n", [1, 3, 15, 16, 17])
def test_no_question_holds_a_picture_twice(n: int) -> None:
    seen: list[Tensor] = []

    class Seen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)[:, :3]

    asked = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(answer(Seen(), asked), asked.flatten(1)[:, :3])
    assert len(seen[0]) % 16 == 0
    apart = (seen[0][:, None] - seen[0][None]).flatten(2).abs().amax(2)
    assert bool((apart + torch.eye(len(apart)) > 0).all())


def test_random_points_break_what_a_lazy_attack_left() -> None:
    """Between the clean picture and the corner of a large ball a linear network is wrong on much of the volume."""

    def lazy(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Tensor:
        for _ in range(40):
            model.gradient(x, lambda z: cross_entropy(z, y))
        return x

    record = played(linear(), lazy, eps=0.8)
    assert "random_search_wins" in names(record)
    assert bool((record.columns["searched"] <= record.columns["robust"]).all())
    assert "searched" not in played(linear(), still, eps=0.8).columns  # what cost nothing pays for no point


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return -grad


def test_what_an_attack_was_given_is_held_against_the_rise_of_its_own_loss() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(Turned.apply(x))  # type: ignore[no-any-return]

    record = played(Wrong(), ascended)
    assert int(record.columns["misled"].sum()) == int(record.columns["slopes"].sum()) == RIGHT
    assert "gradient_mismatch" in names(record)
    assert names(played(linear(), ascended)) == set()


def test_an_answer_that_changes_by_the_hour_is_two_faced() -> None:
    class Tired(Around):
        """Other scores after the third question, counted where no module's state is."""

    calls: list[int] = []

    def after(z: Tensor, x: Tensor) -> Tensor:
        calls.append(len(x))
        return z if len(calls) < 6 else z.flip(1)

    def patient(model: Oracle, x: Tensor, y: Tensor, budget: Linf, *, rng: Rng) -> Found:
        return Found(ascended(model, x, y, budget, rng=rng), {})

    assert "two_faced" in names(played(Tired(after), patient))


def test_more_clean_pictures_rejected_than_was_said() -> None:
    """Of 100 pictures where 10 % are said, 20 are expected at the most: 30 come once in 90, 38 once in 30,000 times."""
    assert over_rejecting(30, 100, [0.1]) == []
    assert [flag.name for flag in over_rejecting(38, 100, [0.1])] == ["over_rejecting"]
    assert over_rejecting(100, 100, []) == []


def test_what_a_network_patches_while_it_is_loaded_is_put_back() -> None:
    project, mode = Linf.project, torch.get_default_dtype()
    with put_back():
        Linf.project = lambda self, x, x_adv: x  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float64)
    assert Linf.project is project
    assert torch.get_default_dtype() == mode
