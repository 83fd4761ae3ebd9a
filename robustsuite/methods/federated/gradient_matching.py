"""Gradient inversion: costs between updates, priors on pictures, and searches over all trials and restarts at once.

Every method minimises cost(update(x), observed) + priors over x, or over what a generator makes x from. Variables are
trees of tensors (T, R, ...): T clients, R restarts; one vmapped pass computes the gradients of them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Update
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.updates import Client, Gradients, Statistics, each, value_and_gradient

Variables = dict[str, Tensor]
Row = dict[str, Any]
"""What a trial's objective is handed besides the variables: the observed update, labels, ..."""

Objective = Callable[[Variables, Row], tuple[Tensor, Tensor]]
"""(variables of one trial, its row) -> (what is minimised, the matching cost alone)."""

STEP_DECAY = (3 / 8, 5 / 8, 7 / 8)


@dataclass(frozen=True)
class Observed:
    """T updates as the observer sees them: parameter name -> (T, *shape); `shape` (B, C, H, W) of each client's batch.

    labels (T, B) only where the threat grants them. informed: (dummy update, observed update) -> the dummy as the known
    defense would have left it; the identity where there is none, or none that can be re-applied.
    """

    client: Client
    update: Gradients
    shape: tuple[int, ...]
    labels: Tensor | None = None
    informed: Callable[[Gradients, Gradients], Gradients] = lambda dummy, _: dummy

    def __len__(self) -> int:
        return len(next(iter(self.update.values())))

    @property
    def terms(self) -> Update:
        """Steps, rate and batch-norm mode of the clients."""
        return self.client.terms


class Recovered(NamedTuple):
    """x (T, B, C, H, W) in [0, 1], NaN where the search failed; y (T, B) classes; evaluations: gradients a trial."""

    x: Tensor
    y: Tensor
    evaluations: int = 0


class Best(NamedTuple):
    """The best point seen in each trial and restart, (T, R, ...), its objective and its matching cost (T, R)."""

    variables: Variables
    total: Tensor
    match: Tensor


def shown(u: Tensor) -> Tensor:
    """Pictures in [0, 1] of search variables u, which are about standard normal: x = 1/2 + u / 4."""
    return 0.5 + 0.25 * u


def hidden(x: Tensor) -> Tensor:
    """The inverse of `shown`."""
    return (x - 0.5) * 4


def cosine(g: Gradients, observed: Gradients) -> Tensor:
    """1 - <g, g*> / (|g| |g*|) over all parameters at once (Geiping et al., 2020, arXiv:2003.14053, eq. 4)."""
    product = sum(((g[k] * t).sum() for k, t in observed.items()), torch.zeros(()))
    lengths = squared(g) * squared(observed)
    return 1 - product / lengths.clamp_min(1e-30).sqrt()


def l2(g: Gradients, observed: Gradients) -> Tensor:
    """sum |g - g*|^2 over all parameters (Zhu et al., 2019, arXiv:1906.08935, eq. 4)."""
    return squared({k: g[k] - t for k, t in observed.items()})


def squared(g: Gradients) -> Tensor:
    """The squared length of an update."""
    return sum((t.square().sum() for t in g.values()), torch.zeros(()))


def total_variation(u: Tensor) -> Tensor:
    """mean |u_ij - u_i,j+1| + mean |u_ij - u_i+1,j| of (..., H, W) (Rudin, Osher, Fatemi, 1992, anisotropic)."""
    return u.diff(dim=-1).abs().mean() + u.diff(dim=-2).abs().mean()


def batch_norm_prior(seen: Statistics, client: Client, first: float = 10.0) -> Tensor:
    """sum_l w_l (|mu_l - mean_l| + |var_l - var_l|) to the running statistics, the first layer's weighed `first`.

    (Yin et al., 2021, arXiv:2104.07586, eq. 10.)
    """
    total = torch.zeros(())
    for i, ((mean, var), (running_mean, running_var)) in enumerate(zip(seen, client.running, strict=True)):
        if running_mean is not None and running_var is not None:
            away = (mean - running_mean).square().sum() + 1e-12, (var - running_var).square().sum() + 1e-12
            total = total + (first if i == 0 else 1.0) * (away[0].sqrt() + away[1].sqrt())
    return total


def starts(rng: Rng, restarts: int, *shape: int) -> Tensor:
    """Standard normal (T, R, *shape), one stream a trial; more restarts keep the earlier ones."""
    return torch.stack([rng.fold(r).normal(*shape) for r in range(restarts)], 1)


def evaluator(
    seen: Observed, objective: Objective, rows: Row
) -> Callable[[Variables], tuple[Variables, Tensor, Tensor]]:
    """variables (T, R, ...) -> gradients of the same shapes, objective (T, R), matching cost (T, R), detached."""
    together = seen.client.together(seen.shape[0])
    one = value_and_gradient(objective)
    rows = {"observed": seen.update, **rows}

    def evaluate(variables: Variables) -> tuple[Variables, Tensor, Tensor]:
        restarts = next(iter(variables.values())).shape[1]

        def of_client(own: Variables, row: Row) -> Any:
            return each(lambda v: one(v, row), together, own)

        if restarts == 1:  # one level of vmap is quicker than two
            found = each(one, together, {k: v[:, 0] for k, v in variables.items()}, rows)
            gradients, (total, match) = tree_map(lambda t: t[:, None], found)
        else:
            at_once = max(1, together // restarts) if together else 0
            gradients, (total, match) = each(of_client, at_once, variables, rows)
        return {k: g.detach() for k, g in gradients.items()}, total.detach(), match.detach()

    return evaluate


Rate = Callable[[float], float]
"""The share of the learning rate at the share t in [0, 1) of the steps done."""


def step_decay(t: float) -> float:
    """A tenth at 3/8, 5/8 and 7/8 of the steps (Geiping et al., 2020)."""
    return float(0.1 ** sum(t >= at for at in STEP_DECAY))


def warm_cosine(warmup: float) -> Rate:
    """Linear up over the share `warmup`, then a half cosine down to 0."""
    return lambda t: min(t / warmup, 0.5 * (1 + math.cos(math.pi * (t - warmup) / (1 - warmup)))) if warmup else 1.0


def ramp(t: float) -> float:
    """Linear up over the first 5 %, a cosine down over the last 75 % (Karras et al., 2020, arXiv:1912.04958, B)."""
    return min(1.0, t / 0.05 if t else 0.01) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.75)))


@dataclass(frozen=True)
class Schedule:
    """Adam's steps. signed: on the gradient's sign. noise: deviation of what each step adds, in learning rates."""

    iterations: int
    lr: float
    rate: Rate = step_decay
    signed: bool = False
    noise: float = 0.0


def adam(
    start: Variables,
    evaluate: Callable[[Variables], tuple[Variables, Tensor, Tensor]],
    schedule: Schedule,
    *,
    project: Callable[[Variables], Variables] = lambda v: v,
    rng: Rng | None = None,
) -> Best:
    """The best of all iterates by objective, in each trial and restart; one that is not finite stands still."""
    variables = {k: v.clone() for k, v in start.items()}
    optimiser = torch.optim.Adam(list(variables.values()), lr=schedule.lr)
    best: Best | None = None
    for step in range(schedule.iterations + 1):
        gradients, total, match = evaluate(variables)
        best = better(best, Best({k: v.clone() for k, v in variables.items()}, total, match))
        if step == schedule.iterations:
            break
        lr = schedule.lr * schedule.rate(step / schedule.iterations)
        optimiser.param_groups[0]["lr"] = lr
        alive = torch.isfinite(total)
        for k, v in variables.items():
            g = torch.where(like(alive, v), gradients[k].nan_to_num(0.0, 0.0, 0.0), 0.0)
            v.grad = g.sign() if schedule.signed else g
        optimiser.step()
        with torch.no_grad():
            if schedule.noise and rng is not None:
                for k, v in variables.items():
                    v += schedule.noise * lr * rng.fold(k).fold(step).normal(*v.shape[1:]).to(v)
            for k, v in project(variables).items():
                variables[k].copy_(v)
    if best is None:
        raise ValueError("expected at least one evaluation, got none")
    return best


def better(old: Best | None, new: Best) -> Best:
    """Entry by entry (T, R) the one with the lower finite objective."""
    total = torch.where(torch.isfinite(new.total) & torch.isfinite(new.match), new.total, torch.inf)
    if old is None:
        return new._replace(total=total)
    wins = total < old.total
    variables = {k: torch.where(like(wins, v), v, old.variables[k]) for k, v in new.variables.items()}
    return Best(variables, torch.where(wins, total, old.total), torch.where(wins, new.match, old.match))


def like(mask: Tensor, value: Tensor) -> Tensor:
    """A mask (T, R) with trailing dimensions to broadcast against (T, R, ...)."""
    return mask.view(*mask.shape, *[1] * (value.dim() - mask.dim()))


def chosen(pictures: Tensor, best: Best) -> Tensor:
    """Of pictures (T, R, B, C, H, W) each client's restart of least matching cost; NaN where none is finite."""
    match = torch.where(torch.isfinite(best.total), best.match, torch.inf)
    least = match.min(1)
    picked = pictures[torch.arange(len(pictures), device=pictures.device), least.indices]
    return torch.where(torch.isfinite(least.values).view(-1, *[1] * (picked.dim() - 1)), picked, torch.nan)


def in_box(variables: Variables) -> Variables:
    """`u` cut so that the picture stays in [0, 1]."""
    return {k: v.clamp(-2, 2) if k == "u" else v for k, v in variables.items()}


def cost(*, iterations: int, restarts: int, stages: int = 1, **_: object) -> Cost:
    """A forward, its backward and the twofold backward through both, a step, restart and stage."""
    steps = (iterations + 1) * restarts * stages
    return Cost(2 * steps, 3 * steps)
