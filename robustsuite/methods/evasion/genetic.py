"""The microbial genetic algorithm over sign patterns, scores alone (MGA; Wang, 2021; Harvey, 2009).

A genome is one bit a pixel value and stands for the picture x +- eps. Each generation two individuals of five meet: the
worse takes genes of the better and mutates, the better stays as it is, so a generation costs one query. Core, because
MGA and QuScore differ in nothing but the first population.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

POPULATION = 5
"""Individuals an image, the authors' number."""

REJECTED = -1e9
"""Fitness of a picture the system refuses to answer."""


class Evolution(NamedTuple):
    """queries: the most an image may ask, the first population included; cross, mutation: chances a gene."""

    queries: int = 10000
    cross: float = 0.7
    mutation: float = 0.001

    def checked(self) -> Evolution:
        """Itself; raises BadValue where a number is out of range."""
        if self.queries < 1 or not (0 <= self.cross <= 1 and 0 <= self.mutation <= 1):
            raise BadValue(
                f"expected queries >= 1 and cross, mutation in [0, 1], got {tuple(self)!r}; write for example cross=0.7"
            )
        return self


class Bred(NamedTuple):
    """x_adv (N, C, H, W); broken, at_init (N,) bool: the goal reached at all, and by the first population already."""

    x_adv: Tensor
    broken: Tensor
    at_init: Tensor


def bernoulli(x: Tensor, rng: Rng) -> Tensor:
    """First populations (N, P, C, H, W) bool without knowledge: every gene a fair coin."""
    return rng.fold("bernoulli").uniform(POPULATION, *x.shape[1:]) < 0.5


def decoded(genome: Tensor, x: Tensor, budget: Ball) -> Tensor:
    """The pictures (N, C, H, W) that genomes (N, C, H, W) bool stand for: x +- eps, clipped to the box."""
    return budget.project(x, x + budget.eps * (2.0 * genome - 1.0))


def progress(logits: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fitness and margin (N,), larger is nearer to the goal: the cross-entropy of y, or minus that of the target.

    margin > 0 where the goal is reached. targets: (N, 1), None where any mistake will do.
    """
    label, toward = (y, 1) if targets is None else (targets[:, 0], -1)
    fitness = toward * losses.cross_entropy(logits, label)
    return fitness.nan_to_num(nan=REJECTED), losses.goal_margin(logits, y, targets)


def microbial(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, first: Tensor, evolution: Evolution, *, rng: Rng,
    targets: Tensor | None,
) -> Bred:  # fmt: skip
    """Breed first populations `first` (N, P, C, H, W) bool until one individual reaches the goal.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1) or None. The whole first population is asked before it is judged,
    as the authors do. An unbroken image comes back as its individual of largest margin.
    """
    queries, cross, mutation = evolution.checked()
    able = (model.left() > 0).nonzero().flatten()
    model, rng = model[able], rng[able]
    clean, label, target = x[able], y[able], None if targets is None else targets[able]
    first, population = first[able], first.shape[1]

    def start(example: Tensor, _: Tensor) -> State:
        lowest = torch.full((len(example),), -torch.inf, device=x.device)
        count = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        return {
            "genomes": first[example], "fitness": lowest[:, None].repeat(1, population), "found": clean[example],
            "score": lowest, "i": count, "at_init": count > 0,
        }  # fmt: skip

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example, i, genomes = rows["example"], rows["i"], rows["genomes"]
        each, draw, young = torch.arange(len(i), device=i.device), rng[example].fold(i), i < population
        loser, winner = meeting(rows["fitness"], draw)
        slot = torch.where(young, i, loser)
        child = offspring(genomes[each, loser], genomes[each, winner], draw, cross, mutation)
        genome = torch.where(per_row(young, child), genomes[each, slot], child)
        at, view = decoded(genome, clean[example], budget), model[example]
        fitness, margin = progress(view(at), label[example], None if target is None else target[example])

        genomes[each, slot] = genome  # a copy of its own since `start`: whole populations are too large to copy again
        better, score = margin > rows["score"], torch.maximum(margin.nan_to_num(nan=-torch.inf), rows["score"])
        i = i + 1
        rows = {
            **rows, "fitness": rows["fitness"].scatter(1, slot[:, None], fitness[:, None]), "score": score, "i": i,
            "found": torch.where(per_row(better, at), at, rows["found"]),
            "at_init": torch.where(young, score > losses.CONFIDENCE_MARGIN, rows["at_init"]),
        }  # fmt: skip
        spent = (i >= queries) | (view.left() < 1)
        return rows, (score > model.confidence_margin) & (spent | (i >= population)), spent

    rows, done = search(model, 1, start, step, keep=["at_init"])
    return _everywhere(x, able, rows, done)


def meeting(fitness: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Loser and winner (N,) of a random pair out of each population with this fitness (N, P); a tie costs the first."""
    population, each = fitness.shape[1], torch.arange(len(fitness), device=fitness.device)
    a = rng.fold("one").integers(population, 1)[:, 0]
    b = (a + 1 + rng.fold("other").integers(population - 1, 1)[:, 0]) % population
    worse = fitness[each, a] <= fitness[each, b]
    return torch.where(worse, a, b), torch.where(worse, b, a)


def offspring(loser: Tensor, winner: Tensor, rng: Rng, cross: float, mutation: float) -> Tensor:
    """The loser (N, C, H, W) bool with the winner's genes in place of its own by chance `cross`, flipped by `mutation`.

    The winner's genes are never touched.
    """
    taken = rng.fold("cross").uniform(*loser.shape[1:]) < cross
    flipped = rng.fold("mutation").uniform(*loser.shape[1:]) < mutation
    return torch.where(taken, winner, loser) ^ flipped


def _everywhere(x: Tensor, able: Tensor, rows: State, done: Tensor) -> Bred:
    """Results of the images that could ask at all, among all of them."""
    x_adv, broken, at_init = x.clone(), x.new_zeros(len(x), dtype=torch.bool), x.new_zeros(len(x), dtype=torch.bool)
    if len(able):
        x_adv[able], broken[able], at_init[able] = rows["found"], done, rows["at_init"]
    return Bred(x_adv, broken, at_init)
