"""GIFD: search a generator's codes, then the features after each of its blocks, inside l1 balls.

Fang et al. (2023, arXiv:2308.04699), algorithm 1, for G = G_n o ... o G_0: stage 0 optimises the code z; stage k starts
at h_k = G_{k-1}(best of the stage before), optimises h_k alone, and projects h_k - h_k^0 onto the l1 ball of radius r_k
after each step. The picture returned is that of the stage, and restart, of least matching cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import INVERSION
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.federated.generators import CODE, l1_ball, trained_generator
from robustsuite.methods.federated.gradient_matching import (
    Observed,
    Recovered,
    Row,
    Schedule,
    Variables,
    adam,
    chosen,
    cosine,
    cost,
    evaluator,
    hidden,
    like,
    ramp,
    starts,
    total_variation,
)  # fmt: skip
from robustsuite.methods.federated.label_recovery import recovered
from robustsuite.scenarios import inversion
from robustsuite.serve.adversary import Aux

STAGES = 5
"""The code, and the features after each of our generator's blocks but the last."""


def _cost(*, iterations: int, restarts: int, **_: object) -> Cost:
    return cost(iterations=iterations, restarts=restarts, stages=STAGES)


@inversion.attack(
    needs=Access.WEIGHTS | Access.UPDATE | Access.AUX_DATA,
    paper="Fang et al., 2023, arXiv:2308.04699",
    cost=_cost,
    **INVERSION,
    differs=(
        "the generator is a small one trained on the adversary's own pictures; radii are shares of a feature's length;"
        " its smoothness weighs 1e-3, ten times the paper's",
        "the best restart's picture is returned; the authors' code returns the last restart's",
    ),
)
def gifd(
    seen: Observed, *, rng: Rng, aux: Aux, iterations: int = 300, restarts: int = 2, lr: float = 0.1, tv: float = 1e-3,
    kl: float = 1e-3, radius: float = 0.1, epochs: int = 20,
) -> Recovered:  # fmt: skip
    """Codes, then features block by block, of a generator trained for `epochs` on aux.pictures.

    radius: r_k as a share of the number of the features. Returns pictures (T, B, C, H, W) in [0, 1].
    Source: arXiv:2308.04699.
    """
    device = str(next(iter(seen.update.values())).device)
    blocks = trained_generator(aux.pictures, epochs=epochs, device=device)
    schedule = Schedule(iterations, lr, ramp)
    return search(seen, blocks, schedule, rng=rng, restarts=restarts, tv=tv, kl=kl, radius=radius)


def search(
    seen: Observed, blocks: nn.Sequential, schedule: Schedule, *, rng: Rng, restarts: int, tv: float, kl: float,
    radius: float,
) -> Recovered:  # fmt: skip
    """The same with any blocks from codes (N, 128) to pictures in [0, 1]."""
    y = recovered(seen)
    h = starts(rng, restarts, seen.shape[0], CODE).to(next(iter(seen.update.values())))
    least = torch.full(h.shape[:2], torch.inf).to(h)
    pictures = torch.full((*h.shape[:2], *seen.shape), torch.nan).to(h)
    for k in range(len(blocks)):
        rest = blocks[k:]
        before, room = h, radius * h.shape[2:].numel()

        def objective(v: Variables, row: Row, rest: nn.Sequential = rest, k: int = k) -> tuple[Tensor, Tensor]:
            x = rest(v["h"])
            match = cosine(seen.informed(seen.client.update(x, row["y"]), row["observed"]), row["observed"])
            total = match + tv * total_variation(hidden(x))
            return total + (kl * divergence(v["h"]) if k == 0 else 0.0), match

        def project(v: Variables, before: Tensor = before, room: float = room, k: int = k) -> Variables:
            away = (v["h"] - before).flatten(0, 1).flatten(1)
            return {"h": before + l1_ball(away, room).view_as(before)} if k else v

        best = adam({"h": h}, evaluator(seen, objective, {"y": y}), schedule, project=project)
        h = best.variables["h"]
        made = through(rest, h)
        wins = torch.isfinite(best.total) & (best.match < least)
        least = torch.where(wins, best.match, least)
        pictures = torch.where(like(wins, made), made, pictures)
        h = through(blocks[k : k + 1], h)
    best = best._replace(variables={"x": pictures}, match=least, total=least)
    return Recovered(chosen(pictures, best), y, (schedule.iterations + 1) * restarts * len(blocks))


def through(blocks: nn.Sequential, h: Tensor) -> Tensor:
    """The blocks over (T, R, B, ...)."""
    made: Tensor = blocks(h.flatten(0, 2))
    return made.view(*h.shape[:3], *made.shape[1:])


def divergence(z: Tensor) -> Tensor:
    """-1/2 sum over codes (B, Z) of 1 + log var - mean^2 - var, mean and variance over a code's coordinates."""
    mean, var = z.mean(-1), z.var(-1)
    return -0.5 * (1 + var.clamp_min(1e-12).log() - mean.square() - var).sum()
