"""Three routes into a defended system: the row is the least of them, whatever the attack knows of it."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.errors import Unsupported
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.scenarios.conclusions import flags_of
from robustsuite.scenarios.record import Record
from robustsuite.serve.system import System
from tests.toys import SPACE, labelled, linear, ready


class Backwards(nn.Module):
    """The right answers, and gradients that point the wrong way."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x.detach() - x)  # same value, gradient times -1


class Votes(Backwards):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.net(x).argmax(1), 3).float()


class Noisy(Backwards):
    """The net under Gaussian noise from its streams."""

    rng: Rng | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.rng is None else self.net(x + 0.01 * self.rng.normal(*x.shape[1:]))


def played(net: nn.Module, surrogate: nn.Module | None = None, eps: float = 0.1, **facts: object) -> Record:
    split = labelled(linear(), wrong=0)
    card = card_of("attack", "pgd")
    attack = partial(card.function, steps=10)
    served = System(ready(net), SPACE, surrogate=surrogate, **facts)  # type: ignore[arg-type]
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(eps))
    return evasion.judged(served, attack, split, threat, Rng.of(0, "t", split.ids), width=8, card=card)


def test_a_plain_system_is_attacked_once() -> None:
    columns = played(linear()).columns
    assert not [name for name in columns if name.startswith("robust_")]


def test_the_row_is_the_least_of_the_routes_and_says_when_transfer_was_better() -> None:
    plain = played(linear()).columns["robust"]
    record = played(Backwards(linear()), surrogate=linear(), hides=Access.GRADIENTS)
    routes = {k: v for k, v in record.columns.items() if k.startswith("robust_")}
    assert set(routes) == {"robust_direct", "robust_surrogate", "robust_continued"}
    assert torch.equal(record.columns["robust"], torch.stack(list(routes.values())).all(0))
    assert torch.equal(record.columns["robust"], plain)
    assert int(routes["robust_direct"].sum()) > int(routes["robust_surrogate"].sum())
    assert "transfer_beats_direct" in [flag.name for flag in record.flags]
    assert "minimum" in record.note


def test_the_third_way_goes_on_from_the_surrogates_point() -> None:
    """A surrogate that errs leads nowhere alone; what it broke stays broken, and from its points more is found."""
    record = played(Noisy(linear()), surrogate=Backwards(linear()), stochastic=True)
    direct, through = record.columns["robust_direct"], record.columns["robust_surrogate"]
    assert int(direct.sum()) < int(through.sum())
    onward = record.columns["robust_continued"]
    assert not bool((onward & ~through).any())
    assert int(onward.sum()) < int(through.sum())
    assert "transfer_beats_direct" not in [flag.name for flag in record.flags]
    assert "right in" in record.note


def test_every_picture_of_every_way_is_in_the_ball() -> None:
    record = played(Backwards(linear()), surrogate=linear(), hides=Access.GRADIENTS, eps=0.05)
    assert bool(record.columns["in_budget"].all())


def test_votes_have_no_gradient_and_are_attacked_through_the_surrogate_alone() -> None:
    record = played(Votes(linear()), surrogate=linear(), hides=Access.GRADIENTS)
    assert torch.equal(record.columns["robust"], played(linear()).columns["robust"])
    assert "surrogate alone" in record.note
    with pytest.raises(Unsupported, match="hides its gradients"):
        played(Votes(linear()), hides=Access.GRADIENTS)


def test_queries_add_up_over_the_ways() -> None:
    once = played(linear())
    thrice = played(Backwards(linear()), surrogate=linear(), hides=Access.GRADIENTS)
    assert thrice.forwards >= 2 * once.forwards
    assert int(thrice.columns["queries"].sum()) == thrice.forwards


@pytest.mark.parametrize(("more", "fewer", "stochastic", "told"), [
    (3, 0, False, True), (3, 0, True, False), (9, 6, True, False), (12, 2, True, True),
])  # fmt: skip
def test_a_random_system_falls_to_either_of_two_equal_attacks(
    more: int, fewer: int, stochastic: bool, told: bool
) -> None:
    direct, through = torch.arange(20) < more, (torch.arange(20) >= more) & (torch.arange(20) < more + fewer)
    fine, never = torch.ones(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    columns = {"robust": direct & through, "clean_ok": fine, "in_budget": fine, "fooled": fine, "robust_direct": direct,
               "robust_surrogate": through, "undefined": never}  # fmt: skip
    system = System(ready(linear()), SPACE, stochastic=stochastic)
    flags = flags_of(columns, system, card_of("attack", "pgd"), drawn=20, own="")
    assert [flag.name for flag in flags] == ["transfer_beats_direct"] * told
