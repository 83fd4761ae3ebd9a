"""MGA: a microbial genetic algorithm over signs, from fair coins or from what breaks a surrogate (Wang, 2021).

"MGAAttack", the authors' code: github.com/kangyangWHU/MGAAttack. The algorithm is core
(robustsuite/methods/evasion/genetic.py), since QuScore breeds with it as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX, TRANSFER, joined
from robustsuite.config.threats import Access, Ball
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import surrogates as owned
from robustsuite.methods.evasion.genetic import POPULATION, Bred, Evolution, bernoulli, microbial
from robustsuite.scenarios import evasion
from robustsuite.serve.adversary import Aux
from robustsuite.serve.oracle import Oracle

STEP = 0.01
"""MI-FGSM's step in [0, 1], whatever eps is: the authors'."""

PAPER = "Wang, 2021, Black-box adversarial attacks by a microbial genetic algorithm (MGA)"
LEAST = {"queries": 5000}  # as Square's in AutoAttack
DIFFERS = (
    "a changed individual is asked about at once, not when it is next drawn, so a success is noticed queries earlier",
)


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.SCORES, norms=("linf",), goals=("untargeted", "targeted"), paper=PAPER, cost=_cost, differs=DIFFERS,
    family=("score",), least=LEAST, **BLACK_BOX,
)
def mga(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None,
    queries: int = 10000, cross: float = 0.7, mutation: float = 0.001,
) -> evasion.Found:  # fmt: skip
    """Microbial genetic algorithm over x +- eps, the first population drawn by fair coins.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, 1) or None. queries: at most, an image, 5 of them for the first
    population. cross, mutation: chances a gene. Column at_init: the first population broke it. Raises BadValue.
    """
    evolution = Evolution(queries, cross, mutation).checked()
    first = bernoulli(x, rng)
    return found(microbial(model, x, y, budget, first, evolution, rng=rng.fold("breed"), targets=targets))


@evasion.attack(
    needs=Access.SCORES | Access.AUX_DATA, norms=("linf",), goals=("untargeted", "targeted"), paper=PAPER, cost=_cost,
    differs=(*DIFFERS, "surrogates take pixels as their own normalisation wants them; the authors' code skips it"),
    family=("transfer", "score"), least=LEAST, **joined(TRANSFER, BLACK_BOX),
)  # fmt: skip
def mga_transfer(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None, aux: Aux,
    surrogates: str = "", queries: int = 10000, cross: float = 0.7, mutation: float = 0.001,
) -> evasion.Found:  # fmt: skip
    """Microbial genetic algorithm over x +- eps, the first population from MI-FGSM on the adversary's own nets.

    x, y, targets, queries, cross, mutation, at_init: as in mga; what at_init breaks is transfer, not search.
    surrogates: model specs joined by ' + ', the mean of whose losses is ascended. Raises BadValue.
    """
    evolution = Evolution(queries, cross, mutation).checked()
    nets = owned.networks(aux.net, surrogates)

    def one(row: Tensor) -> Tensor:
        example, number = row // POPULATION, row % POPULATION
        clean = x[example]
        start = budget.sample(clean, rng[example].fold("start").fold(number.to(x.device)))
        if targets is None:
            objective = owned.mean_loss(nets, y[example])
        else:
            loss = owned.mean_loss(nets, targets[example, 0])
            objective = lambda at: -loss(at)  # noqa: E731
        return owned.momentum(objective, start, clean, eps=budget.eps, size=STEP) > clean

    first = x.new_zeros(0, POPULATION, *x.shape[1:], dtype=torch.bool)
    if len(x):
        first = owned.in_tiles(len(x) * POPULATION, model.width, one).view(-1, POPULATION, *x.shape[1:])
    return found(microbial(model, x, y, budget, first, evolution, rng=rng.fold("breed"), targets=targets))


def found(bred: Bred) -> evasion.Found:
    """The pictures with their columns."""
    return evasion.Found(bred.x_adv, {"claimed": bred.broken, "at_init": bred.at_init})
