"""Attacks towards a class, on a linear net where a linear programme says what can be reached."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from robustsuite.config.goals import Targeted, ToClass, parse_goal
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Linf, Threat
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.oracle import Oracle
from tests.toys import SPACE, labelled, linear, system

NET, EPS = linear(), 0.06
SPLIT = labelled(NET, wrong=0)
X, Y = SPLIT.images(torch.arange(len(SPLIT))), SPLIT.y
TARGETS = Targeted().targets(Y, SPACE.classes, Rng.of(0, "aims", torch.arange(len(Y))))
ATTACKS: dict[str, dict[str, Any]] = {
    "fgsm": {"loss": "margin"}, "pgd": {"steps": 60, "loss": "margin", "rel_step": 0.1},
    "apgd": {"steps": 60, "loss": "margin"}, "fmn": {"steps": 60}, "square": {"steps": 400},
    "ensemble": {"steps": 30, "n_targets": 2, "queries": 50},
}  # fmt: skip
EXACT = ("pgd", "apgd", "fmn", "ensemble")
"""Those that find every picture that can be brought there by a margin."""


def furthest(x: Tensor, target: int) -> float:
    """The largest margin of the target over both others in the ball and the box, by linear programming."""
    weight, bias = NET[1].weight.double().numpy(), NET[1].bias.double().numpy()
    flat, others = x.double().flatten().numpy(), [k for k in range(3) if k != target]
    # variables (x', s): maximise s with (w_t - w_j) x' + b_t - b_j >= s
    rows = np.array([[*(weight[j] - weight[target]), 1.0] for j in others])
    right = np.array([bias[target] - bias[j] for j in others])
    bounds = [(max(0, v - EPS), min(1, v + EPS)) for v in flat] + [(None, None)]
    found = linprog([0.0] * len(flat) + [-1.0], A_ub=rows, b_ub=right, bounds=bounds)
    return float(-found.fun)


BEST = torch.tensor([furthest(x, int(t)) for x, t in zip(X, TARGETS[:, 0], strict=True)])


def play(name: str, goal: Targeted | ToClass, **given: Any) -> dict[str, Tensor]:
    """The judged columns of the attack with this goal."""
    card, rng = card_of("attack", name), Rng.of(0, "aims", torch.arange(len(Y)))
    threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(EPS), goal=goal)

    def attack(*args: Any, **handed: Any) -> Any:
        return card.function(*args, **{**handed, **ATTACKS[name], **given})

    class Fixed(Targeted):
        def targets(self, y: Tensor, classes: int, rng: Rng) -> Tensor:
            return TARGETS

    if type(goal) is Targeted:
        threat = Threat("t", "evasion", Access.WHITE_BOX, Linf(EPS), goal=Fixed())
    return evasion.judged(system(NET), attack, SPLIT, threat, rng, width=7, card=card).columns


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_reaches_what_cannot_be_reached_and_the_strong_ones_reach_the_rest(name: str) -> None:
    robust = play(name, Targeted())["robust"]
    assert 4 < int((BEST > 1e-3).sum()) < len(BEST) - 4
    assert bool(robust[BEST < -1e-5].all())
    if name in EXACT:
        assert not bool(robust[BEST > 0.02].any()), BEST[robust & (BEST > 0.02)]
    else:
        assert not bool(robust[BEST > 0.5].any())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_named_class_is_reached_and_its_own_pictures_are_left_alone(name: str) -> None:
    columns = play(name, ToClass(1))
    own = Y == 1
    assert bool(columns["robust"][own].all())
    assert int(columns["queries"][own].sum()) == 0
    assert not bool(columns["robust"][~own].all())


def test_every_loss_can_be_turned_towards_a_class() -> None:
    for loss in ("ce", "margin", "pma"):
        assert not bool(play("pgd", Targeted(), loss=loss)["robust"][BEST > 0.1].any()), loss
        assert not bool(play("apgd", Targeted(), loss=loss)["robust"][BEST > 0.1].any()), loss


def test_ranked_targets_and_a_goals_class_exclude_each_other() -> None:
    rng = Rng.of(0, "m", torch.arange(len(Y)))
    model = Oracle.over(NET, Access.WHITE_BOX, rng)
    with pytest.raises(BadValue, match="n_targets=0 where the goal names the class"):
        card_of("attack", "pgd").function(model, X, Y, Linf(EPS), rng=rng, targets=TARGETS, n_targets=2)


def test_a_class_is_named_in_yaml() -> None:
    assert parse_goal({"target": 3}) == ToClass(3)
    for wrong in (-1, "cat", True, 1.5):
        with pytest.raises(BadValue, match="expected a class as a target"):
            parse_goal({"target": wrong})
