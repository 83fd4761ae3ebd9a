"""GenAttack: a genetic algorithm over noise, scores alone (Alzantot et al., 2019, arXiv 1805.11090).

Algorithm 1 with the parameters' adaptation (section 4.2) and the genome at a lower resolution (section 4.1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import BLACK_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.errors import BadValue
from robustsuite.maths import losses
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State, search
from robustsuite.serve.oracle import Oracle

REJECTED = -1e9
"""Fitness of a picture the system refuses to answer."""

WARM = 10
"""Adaptive: in so many first generations every gene mutates."""

PATIENCE, NEAR = (300, 100), -0.4
"""Adaptive: generations without a better margin in probability that make a plateau, fewer beyond NEAR."""


class Rates(NamedTuple):
    """Chance and size of a mutation, (N,) each."""

    rho: Tensor
    alpha: Tensor


def _cost(*, queries: int, **_: object) -> Cost:
    return Cost(forwards=queries)


@evasion.attack(
    needs=Access.SCORES,
    norms=("linf",),
    goals=("targeted", "untargeted"),
    paper="Alzantot et al., 2019, arXiv:1805.11090",
    cost=_cost,
    family=("score",),
    **BLACK_BOX,
    least={"queries": 5000},  # as Square's in AutoAttack
    differs=("the last generation asks about as many children as queries are left",),
)
def genattack(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None, queries: int = 10000,
    population: int = 6, alpha: float = 0.15, rho: float = 0.1, temperature: float = 0.1, adaptive: bool = True,
    side: int = 0,
) -> evasion.Found:  # fmt: skip
    """Genetic algorithm with an elite of one, parents by softmax of fitness, children crossed and mutated.

    x (N, C, H, W) in [0, 1], y (N,), targets (N, 1) or None. alpha (in eps), rho: size and chance of a mutation, the
    least of them where `adaptive`. side: of the genome, upsampled bilinearly; 0 is the picture's own. queries: at
    most, an image. Column at_init: the first population broke it. Raises BadValue.
    """
    if queries < 1 or population < 2 or temperature <= 0 or side < 0 or alpha < 0 or not 0 <= rho <= 1:
        given = f"{queries=}, {population=}, {alpha=}, {rho=}, {temperature=}, {side=}"
        raise BadValue(f"expected positive numbers, population >= 2 and rho in [0, 1], got {given}; write rho=0.1")
    able = (model.left() > 0).nonzero().flatten()
    model, rng = model[able], rng[able]
    clean, label, target = x[able], y[able], None if targets is None else targets[able]
    shape = (x.shape[1], side or x.shape[2], side or x.shape[3])

    def rates(rows: State) -> Rates:
        zero = torch.zeros_like(rows["best"])
        return adapted(rows["i"], rows["plateaus"], rho, alpha) if adaptive else Rates(zero + rho, zero + alpha)

    def start(example: Tensor, _: Tensor) -> State:
        draw, eps = rng[example].fold("first"), budget.eps
        low = torch.full((len(example),), -torch.inf, device=x.device)
        zero = torch.zeros(len(example), dtype=torch.int64, device=x.device)
        rows = {"fitness": low[:, None].repeat(1, population), "score": low, "best": low, "found": clean[example],
                "i": zero, "asked": zero, "plateaus": zero, "since": zero, "at_init": zero > 0}  # fmt: skip
        noise = draw.fold("size").uniform(population, *shape, low=-eps, high=eps)
        still = draw.fold("where").uniform(population, *shape) >= per_row(rates(rows).rho, noise)
        return {**rows, "genomes": noise.masked_fill(still, 0.0)}

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        example = rows["example"]
        room = torch.minimum(queries - rows["asked"], model[example].left())
        asking = rows["fitness"].isinf()  # the elite's is known
        asking = asking & (asking.cumsum(1) <= room[:, None])
        row, place = asking.nonzero(as_tuple=True)
        whose = example[row]
        at = budget.project(clean[whose], clean[whose] + upsampled(rows["genomes"][row, place], x))
        logits = model[whose](at)
        values = progress(logits, label[whose], None if target is None else target[whose])
        rows = judged(rows, asking, at, values)
        genomes, fitness = bred(
            rows["genomes"], rows["fitness"], rates(rows), temperature, budget.eps, rng[example].fold(rows["i"])
        )
        at_init = torch.where(rows["i"] == 0, rows["score"] > losses.CONFIDENCE_MARGIN, rows["at_init"])
        rows = {**rows, "genomes": genomes, "fitness": fitness, "at_init": at_init, "i": rows["i"] + 1}
        return rows, rows["score"] > model.confidence_margin, room <= asking.sum(1)

    rows, done = search(model, 1, start, step, width=max(model.width // population, 1), keep=["at_init"])
    x_adv, broken, at_init = x.clone(), torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
    if len(able):
        x_adv[able], broken[able], at_init[able] = rows["found"], done, rows["at_init"]
    return evasion.Found(x_adv, {"claimed": broken, "at_init": at_init})


def progress(logits: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Fitness log p_t - log sum_{j != t} p_j, margin in logits and margin in probabilities (N,), all to be made large.

    targets: (N, 1); None takes y for t and turns the signs. margin > 0 where the goal is reached.
    """
    t, toward = (y, -1) if targets is None else (targets[:, 0], 1)
    others = logits.scatter(1, t[:, None], -torch.inf).logsumexp(1)
    fitness = toward * (losses.own(logits, t) - others)
    margin, probable = -toward * losses.margin(logits, t), -toward * losses.probability_margin(logits, t)
    return fitness.nan_to_num(nan=REJECTED), margin.nan_to_num(nan=REJECTED), probable.nan_to_num(nan=-1.0)


def judged(rows: State, asking: Tensor, at: Tensor, values: tuple[Tensor, Tensor, Tensor]) -> State:
    """Rows with the answers about `asking` (N, P) written down: fitness, best picture, plateaus."""
    fitness, margin, probable = (
        old.masked_scatter(asking, new)
        for old, new in zip((rows["fitness"], *2 * [torch.full_like(rows["fitness"], -torch.inf)]), values, strict=True)
    )
    highest, which = margin.max(1)
    better = highest > rows["score"]
    index = (asking.flatten().cumsum(0) - 1).view_as(asking).gather(1, which[:, None])[:, 0]
    found = torch.where(per_row(better, at), at[index.clamp_min(0)], rows["found"])
    best, margin = rows["best"], probable.amax(1)
    since = torch.where(margin > best, 0, rows["since"] + 1)
    best = torch.maximum(margin, best)
    stuck = since >= torch.where(best > NEAR, PATIENCE[1], PATIENCE[0])
    return {
        **rows, "fitness": fitness, "found": found, "score": torch.maximum(highest, rows["score"]), "best": best,
        "since": torch.where(stuck, 0, since), "plateaus": rows["plateaus"] + stuck,
        "asked": rows["asked"] + asking.sum(1),
    }  # fmt: skip


def adapted(i: Tensor, plateaus: Tensor, rho: float, alpha: float) -> Rates:
    """rho = max(rho_min, 0.5 0.9^plateaus), 1 in the first generations; alpha = max(alpha_min, 0.4 0.9^plateaus)."""
    fading = 0.9 ** plateaus.to(torch.float32)
    return Rates(torch.where(i < WARM, 1.0, (0.5 * fading).clamp_min(rho)), (0.4 * fading).clamp_min(alpha))


def bred(
    genomes: Tensor, fitness: Tensor, rates: Rates, temperature: float, eps: float, rng: Rng
) -> tuple[Tensor, Tensor]:
    """The next genomes (N, P, C, h, w), the elite first and as it is, and their fitness (N, P), -inf where not known.

    Parents are drawn with p = softmax(fitness / temperature); a gene is the first one's with chance p1 / (p1 + p2).
    """
    children, each = fitness.shape[1] - 1, torch.arange(len(fitness), device=fitness.device)
    p = (fitness / temperature).softmax(1)
    above = rng.fold("parents").uniform(2, children, 1) > p.cumsum(1)[:, None, None]
    parents = above.sum(3).clamp_max(children)
    first, second = (genomes[each[:, None], parents[:, k]] for k in (0, 1))
    p1, p2 = (p.gather(1, parents[:, k]) for k in (0, 1))
    shape, chance = first.shape[1:], (p1 / (p1 + p2).clamp_min(1e-30))[..., None, None, None]
    child = torch.where(rng.fold("cross").uniform(*shape) < chance, first, second)
    size = per_row(rates.alpha * eps, child) * rng.fold("size").uniform(*shape, low=-1, high=1)
    mutant = rng.fold("where").uniform(*shape) < per_row(rates.rho, child)
    child = torch.where(mutant, child + size, child).clamp(-eps, eps)
    best, elite = fitness.max(1)
    unknown = torch.full_like(fitness[:, 1:], -torch.inf)
    return torch.cat([genomes[each, elite][:, None], child], 1), torch.cat([best[:, None], unknown], 1)


def upsampled(genome: Tensor, like: Tensor) -> Tensor:
    """Noise (N, C, h, w) at the pictures' size, bilinearly."""
    if genome.shape[2:] == like.shape[2:]:
        return genome
    return functional.interpolate(genome, like.shape[2:], mode="bilinear", align_corners=False)
