"""PDPGD: the margin by Adam, the norm by its proximal operator, their weights by dual ascent (Matyasko & Chau, 2021,
arXiv 2106.01538)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.config.taxonomy import WHITE_BOX
from robustsuite.config.threats import Access, Ball
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.methods.evasion import nearest
from robustsuite.methods.evasion.nearest import Seen, Walk, adam
from robustsuite.scenarios import evasion
from robustsuite.serve.active import State
from robustsuite.serve.oracle import Oracle

PRIMAL, DUAL = (0.1, 0.001), (0.1, 0.01)
"""Step sizes, first and last: of the picture, falling by a factor; of the dual variable, falling by a difference."""

RATIO, LEAST, KEPT = 0.01, 1e-6, 0.9
"""The norm's weight over the margin's: at first, and at least; what the average of the weights keeps of the last."""

INNER, CLOSE = 5, 0.01
"""Proximal steps in one step at most, and the relative change below which an image needs no more."""


@evasion.attack(
    needs=Access.GRADIENTS | Access.SCORES,
    norms=("linf", "l2", "l1", "l0"),
    goals=("untargeted", "targeted"),
    paper="Matyasko & Chau, 2021, arXiv:2106.01538",
    cost=nearest.cost,
    family=("minimum norm",),
    **WHITE_BOX,
    least={"steps": 500},  # the reference code's
    minimum_norm=True,
    differs=("l0 by the 2/3 quasi-norm, whose proximal operator is cut where 0 is the lower of its two minima",),
)
def pdpgd(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, targets: Tensor | None = None, steps: int = 500
) -> Tensor:
    """Primal-dual proximal gradient descent from the clean picture, in the budget's norm.

    x (N, C, H, W) in [0, 1], y (N,); targets (N, 1): the class to reach, if one is. Returns the nearest adversarial
    found even beyond budget.eps; where none was found the last iterate, projected onto the budget. l0 counts pixel
    values. Deterministic. Raises BadValue.
    """
    shrunk = PROXIMAL[budget.norm]

    def begin(example: Tensor) -> State:
        none = torch.zeros_like(x[example])
        dual = torch.full((len(example),), -math.log(RATIO), device=x.device)
        return {"mean": none, "square": none, "dual": dual, "weights": _weights(dual)}

    def move(rows: State, seen: Seen) -> State:
        # softplus of the margin left: its slope is the sigmoid
        averages, mean, root = adam(rows, -per_row(torch.sigmoid(-seen.ask.loss), x) * seen.ask.grad, seen.k)
        eta = (PRIMAL[0] * (PRIMAL[1] / PRIMAL[0]) ** seen.part).to(x.dtype)
        to = (rows["at"] - per_row(eta, x) * mean / root).clamp(0, 1) - seen.clean
        widest = root.flatten(1).amax(1)
        mu = rows["weights"][:, 0] / rows["weights"][:, 1] * eta / widest
        change, open_ = to, torch.ones_like(seen.wrong)
        for _ in range(INNER):
            new = shrunk(change - root / per_row(widest, x) * (change - to), mu)
            new = torch.where(per_row(open_, x), (seen.clean + new).clamp(0, 1) - seen.clean, change)
            apart, change = projections.norm((new - change).flatten(1), "l2"), new
            open_ = open_ & (apart > CLOSE * projections.norm(change.flatten(1), "l2"))
        rate = DUAL[0] + (DUAL[1] - DUAL[0]) * seen.part.to(x.dtype)
        dual = (rows["dual"] + torch.where(seen.wrong, -rate, rate)).clamp(math.log(LEAST), -math.log(LEAST))
        weights = torch.lerp(rows["weights"], _weights(dual), 1 - KEPT)
        at = torch.where(change == 0, seen.clean, (seen.clean + change).clamp(0, 1))
        return {**averages, "at": at, "dual": dual, "weights": weights}

    return nearest.nearest(model, x, y, budget, targets, steps, Walk(losses.goal_margin, begin, move))


def _weights(dual: Tensor) -> Tensor:
    """The weights (N, 2) of norm and margin; they add up to 1."""
    return torch.stack([torch.zeros_like(dual), dual], 1).softmax(1)


def shrunk_l1(change: Tensor, mu: Tensor) -> Tensor:
    """argmin_z |z|_1 mu + |z - change|^2 / 2."""
    return change.sign() * (change.abs() - per_row(mu, change)).clamp_min(0)


def shrunk_l2(change: Tensor, mu: Tensor) -> Tensor:
    """argmin_z |z|_2 mu + |z - change|^2 / 2."""
    length = projections.norm(change.flatten(1), "l2").clamp_min(1e-30)
    return change * per_row((1 - mu / length).clamp_min(0), change)


def shrunk_linf(change: Tensor, mu: Tensor) -> Tensor:
    """argmin_z |z|_inf mu + |z - change|^2 / 2: clipped at the level above which there is mu in all."""
    size = change.abs().flatten(1).sort(1, descending=True).values.double()
    count = torch.arange(1, size.shape[1] + 1, device=size.device)
    level = ((size.cumsum(1) - mu[:, None]) / count).amax(1).clamp_min(0).to(change.dtype)
    return change.clamp(-per_row(level, change), per_row(level, change))


def shrunk_two_thirds(change: Tensor, mu: Tensor) -> Tensor:
    """argmin_z sum |z|^(2/3) mu + |z - change|^2 / 2.

    0 up to (2/3) (24 mu^3)^(1/4); beyond, t^3 for the larger root t of t^4 - |change| t + 2 mu / 3.
    """
    size, twice = change.abs().double(), 2 * per_row(mu, change).double()
    angle = torch.acosh((27 / 16 * size.square() * twice**-1.5).clamp_min(1))
    a = 2 / math.sqrt(3) * twice**0.25 * torch.cosh(angle / 3).sqrt()
    z = ((a + (2 * size / a - a.square()).clamp_min(0).sqrt()) / 2) ** 3
    return torch.where(size > 2 / 3 * (3 * twice**3) ** 0.25, z, 0).to(change.dtype) * change.sign()


PROXIMAL = {"linf": shrunk_linf, "l2": shrunk_l2, "l1": shrunk_l1, "l0": shrunk_two_thirds}
