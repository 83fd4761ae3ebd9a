"""Certification: a proof that no allowed perturbation changes the answer, or the largest radius that has one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustsuite.data import Split
from robustsuite.judge import Judge
from robustsuite.probes import Flag
from robustsuite.randomness import Rng
from robustsuite.registry import carded
from robustsuite.scenarios.record import Record
from robustsuite.system import System
from robustsuite.threats import Threat

SAMPLES = 16
"""Points drawn in each proven ball and asked of the served model: a broken proof is caught, not trusted."""


class Certificates(NamedTuple):
    """prediction (N,) int64, -1 where the certifier abstains; radius (N,) float, in the budget's norm, 0 for none."""

    prediction: Tensor
    radius: Tensor


C = TypeVar("C", bound=Callable[..., Certificates])


def certifier(**facts: Any) -> Callable[[C], C]:
    """Register a certifier: a function (net, x, y, budget, *, rng, ...) -> Certificates; `rng` only if it has one.

    needs: Access.WEIGHTS for bounds (refused where a defense hides them), Access.LABELS for sampling.
    """
    return carded("attack", "certification", **facts)


def play(
    system: System, attack: Callable[..., Certificates], split: Split, threat: Threat, rng: Rng, *, width: int
) -> Record:
    """Certify every example; a radius counts only where the prediction is right and no sample contradicts it.

    Columns: clean_ok, robust (radius >= eps), radius, abstained, prediction.
    """
    ball = threat.budget
    if ball is None:
        raise ValueError(f"expected a budget in the certification threat {threat.name!r}, got none")
    predictions, radii = [], []
    for positions, x, y in split.batches(width):
        x, y = x.to(system.device), y.to(system.device)
        extra = {"rng": rng[positions]} if "rng" in inspect.signature(attack).parameters else {}
        found = attack(system.net, x, y, ball, **extra)
        predictions.append(found.prediction.cpu())
        radii.append(found.radius.detach().double().cpu())
    prediction, claimed = torch.cat(predictions), torch.cat(radii)
    clean_ok = prediction == split.y
    radius = torch.where(clean_ok & (claimed > 0), claimed, 0.0)
    flags = []
    if not system.stochastic and bool((contradicted := _contradicted(system, split, ball, radius, rng)).any()):
        radius[contradicted] = 0.0
        flags.append(Flag("proof_contradicted", f"a sampled point breaks {int(contradicted.sum())} proven examples"))
    columns = {
        "clean_ok": clean_ok,
        "robust": clean_ok & (radius >= ball.eps * (1 - 1e-6)),  # a bound may store its radius in float32
        "radius": radius,
        "abstained": prediction < 0,
        "prediction": prediction,
    }
    return Record(columns, flags, forwards=len(split), backwards=0)


def _contradicted(system: System, split: Split, ball: Any, radius: Tensor, rng: Rng) -> Tensor:
    """Which proven examples (N,) the judge sees broken at a random point of their own ball."""
    broken = torch.zeros(len(split), dtype=torch.bool)
    judge = Judge(system.net, stochastic=False)
    proven = (radius > 0).nonzero().flatten()
    for positions in proven.split(256):
        x, y = split.images(positions).to(system.device), split.y[positions].to(system.device)
        streams = rng[positions].fold("soundness")
        for draw in range(SAMPLES):
            noise = ball.sample(x, streams.fold(draw)) - x
            shrink = (radius[positions] / ball.eps).clamp(max=1).to(x) if ball.eps else radius[positions].to(x)
            point = x + noise * shrink.view(-1, 1, 1, 1)
            broken[positions] |= judge(point, y, streams).wrong.cpu()
    return broken
