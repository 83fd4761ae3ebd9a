"""QuScore: MGA against a classifier with an interpreter at its side, whose map shall stay as it was.

Abdukhamidov et al., 2025, IEEE Transactions on Reliability, 10.1109/TR.2025.3551717. The map is steered on a surrogate
alone, before the first query: MI-FGSM until the surrogate errs (answer y'), then MI-FGSM towards y' that ascends
-CE(y') - weight ||map_adv - map_benign||^2, the ReLUs softened so that the map has a derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX, TRANSFER, joined
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.randomness import Rng
from robustsuite.methods import attribution
from robustsuite.methods.evasion import surrogates as owned
from robustsuite.methods.evasion.genetic import POPULATION, Evolution, microbial
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

STEP = 0.01
"""MI-FGSM's step in [0, 1], whatever eps is: the authors'."""

RESTARTS = 3
"""Starts of the first phase after which a copy that never fooled the surrogate goes on as it is."""


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.SCORES | Access.AUX_DATA,
    norms=("linf",),
    paper="Abdukhamidov et al., 2025, doi:10.1109/TR.2025.3551717",
    cost=_cost,
    family=("transfer", "score"),
    **joined(TRANSFER, BLACK_BOX),
    least={"queries": 5000},  # as Square's in AutoAttack
    differs=(
        "the interpretation term has a gradient (second order, ReLU as softplus); in the authors' code it has none",
        "it enters with the sign that keeps the maps together; the authors' would drive them apart",
        "a copy that fools no surrogate in three starts aims at the runner-up; the authors' code would not end",
        "the column iou compares maps on the first surrogate, each of the class it answers: the served one is hidden",
    ),
)
def quscore(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, aux: Aux, surrogates: str = "",
    interpreter: str = "grad", weight: float = 0.001, queries: int = 10000, cross: float = 0.7, mutation: float = 0.001,
) -> evasion.Found:  # fmt: skip
    """MGA whose first population fools a surrogate while the surrogate's attribution map stays.

    x (N, C, H, W) in [0, 1], y (N,). surrogates: model specs joined by ' + '. interpreter: grad or cam. weight: of the
    interpretation term, 0 leaves it out. Columns: at_init (the first population broke it), iou (of the benign and the
    adversarial map, each above half its maximum). Raises BadValue, UnknownName, Unsupported.
    """
    evolution = Evolution(queries, cross, mutation).checked()
    if weight < 0:
        raise BadValue(f"expected weight >= 0, got {weight!r}; a negative one would drive the maps apart, write 0.001")
    look = attribution.interpreter_named(interpreter)
    nets = owned.networks(aux.net, surrogates)

    def one(row: Tensor) -> Tensor:
        example, number = row // POPULATION, (row % POPULATION).to(x.device)
        clean, label = x[example], y[example]
        at, target = _fooled(nets, clean, label, budget, rng[example].fold("start").fold(number))
        steer = _steered(nets, clean, label, target, look, weight)
        return owned.momentum(steer, at, at, eps=budget.eps, size=STEP) > clean

    first = x.new_zeros(0, POPULATION, *x.shape[1:], dtype=torch.bool)
    if len(x):
        first = owned.in_tiles(len(x) * POPULATION, model.width, one).view(-1, POPULATION, *x.shape[1:])
    bred = microbial(model, x, y, budget, first, evolution, rng=rng.fold("breed"), targets=None)
    iou = x.new_zeros(0)
    if len(x):
        iou = owned.in_tiles(len(x), model.width, lambda row: agreement(nets[0], x[row], bred.x_adv[row], look))
    return evasion.Found(bred.x_adv, {"claimed": bred.broken, "at_init": bred.at_init, "iou": iou})


@torch.no_grad()
def agreement(net: nn.Module, x: Tensor, x_adv: Tensor, look: attribution.Interpreter) -> Tensor:
    """IoU (N,) of the two pictures' maps, each of the class that the net answers."""
    maps = [look(net, at, net(at).argmax(1)) for at in (x, x_adv)]
    return attribution.overlap(*maps)


def _fooled(nets: list[nn.Module], x: Tensor, y: Tensor, budget: Ball, rng: Rng) -> tuple[Tensor, Tensor]:
    """Phase 1: pictures (N, C, H, W) the surrogates get wrong, and their wrong answer (N,)."""
    at = x
    fooled = torch.zeros_like(y, dtype=torch.bool)
    for restart in range(RESTARTS):
        start = budget.sample(x, rng.fold(restart))
        tried = owned.momentum(owned.mean_loss(nets, y), start, x, eps=budget.eps, size=STEP)
        at = torch.where(fooled[:, None, None, None], at, tried)
        with torch.no_grad():
            logits = owned.mean_logits(nets, at)
        fooled = losses.margin(logits, y) > 0
        if bool(fooled.all()):
            break
    return at, logits.scatter(1, y[:, None], -torch.inf).argmax(1)


def _steered(
    nets: list[nn.Module], x: Tensor, y: Tensor, target: Tensor, look: attribution.Interpreter, weight: float
) -> owned.Objective:
    """What phase 2 ascends: minus the target's loss, minus the change of the map; means over the surrogates."""
    loss = owned.mean_loss(nets, target)
    if not weight:
        return lambda at: -loss(at)
    with attribution.SmoothReLU():
        benign = [look(net, x, y).detach() for net in nets]

    def objective(at: Tensor) -> Tensor:
        with attribution.SmoothReLU():
            changed = [attribution.distance(look(net, at, target), b) for net, b in zip(nets, benign, strict=True)]
        return -loss(at) - weight * torch.stack(changed).mean(0)

    return objective
