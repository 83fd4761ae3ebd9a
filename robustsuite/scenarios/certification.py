"""Certification: a proof that no allowed perturbation changes the answer, or the largest radius that has one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustsuite.config.decision import Decision
from robustsuite.config.keys import BallSpec
from robustsuite.config.registry import carded
from robustsuite.config.threats import BALLS, Access
from robustsuite.integrity.probes import Flag
from robustsuite.integrity.tampering import untampered
from robustsuite.maths.randomness import Rng
from robustsuite.records.schema import Column, Scoring
from robustsuite.scenarios import Scenario
from robustsuite.scenarios.record import UNDEFINED, Record, undefined_answers
from robustsuite.scenarios.refusals import unfit
from robustsuite.serve.data import Split
from robustsuite.serve.judge import Judge
from robustsuite.serve.oracle import answer
from robustsuite.serve.system import System
from robustsuite.serve.task import TASK

if TYPE_CHECKING:
    from robustsuite.scenarios.cell import Cell
    from robustsuite.scenarios.context import Context

SAMPLES = 16
"""Points drawn in each proven ball and asked of the served model: a broken proof is caught, not trusted."""


class Certificates(NamedTuple):
    """prediction (N,) int64, -1 where the certifier abstains; radius (N,) float, in the budget's norm, 0 for none.

    Of a certifier that counts votes under noise: p_low (N,) float, in [0, 1], how likely the predicted class is at the
    least, and votes (N,) int64, how many were counted. breaking (N, C, H, W): of one that also looks for the contrary,
    pictures of the ball that are answered wrong, NaN where it found none; they are judged as an attack's are.
    """

    prediction: Tensor
    radius: Tensor
    p_low: Tensor | None = None
    votes: Tensor | None = None
    breaking: Tensor | None = None


C = TypeVar("C", bound=Callable[..., Certificates])


def certifier(**facts: Any) -> Callable[[C], C]:
    """Register a certifier: a function (net, x, y, budget, *, rng, ...) -> Certificates; `rng` only if it has one.

    needs: Access.WEIGHTS for bounds (refused where a defense hides them), Access.LABELS for sampling.
    """
    return carded("attack", "certification", **facts)


def play(context: Context) -> Record:
    """Certify every example of the part; a radius counts where the prediction is right and no sample contradicts it.

    Columns: clean_ok, robust (radius >= eps), radius, abstained, prediction, contradicted where the system draws no
    noise: a point sampled in the proven ball breaks the example. Where votes are counted: p_correct, how likely the
    label is under noise at the least (0 where another class is predicted, or none), and votes. Of a certifier that
    hands over breaking pictures also broken (one is in the ball, and the judge sees it answered wrong) and undecided:
    neither proven nor broken.
    """
    system, split, threat, rng = context.served(), context.split, context.threat, context.rng
    ball = threat.budget
    if ball is None:
        raise ValueError(f"expected a budget in the certification threat {threat.name!r}, got none")
    parts, undefined, breaking = [], [], []
    for positions, x, y in split.batches(context.width):
        x, y = x.to(system.device), y.to(system.device)
        parts.append(_claimed(context, x, y, rng[positions]))
        undefined.append(_undefined(system, x, rng[positions]).cpu())
        if (shown := parts[-1].breaking) is not None:
            breaking.append(_broken(system, x, y, shown, ball, rng[positions]).cpu())
    prediction = torch.cat([part.prediction.cpu() for part in parts])
    claimed = torch.cat([part.radius.detach().cpu() for part in parts]).double()
    p_low, votes = _series(parts, "p_low"), _series(parts, "votes")
    none = torch.cat(undefined)
    clean_ok = (prediction == split.y) & ~none
    radius = torch.where(clean_ok & (claimed > 0), claimed, 0.0)
    contradicted = None if system.stochastic else _contradicted(system, split, ball, radius, rng)
    if contradicted is not None:
        radius[contradicted] = 0.0
    columns = {
        "clean_ok": clean_ok,
        "robust": clean_ok & (radius >= ball.eps * (1 - 1e-6)),  # a bound may store its radius in float32
        "radius": radius,
        "abstained": (prediction < 0) & ~none,
        "prediction": prediction,
    }
    columns |= {} if contradicted is None else {"contradicted": contradicted}
    columns |= {} if p_low is None else {"p_correct": torch.where(clean_ok, p_low, 0.0)}
    columns |= {} if votes is None else {"votes": votes}
    if breaking:
        broken = torch.cat(breaking) & clean_ok
        columns |= {"broken": broken, "undecided": clean_ok & ~columns["robust"] & ~broken}
    columns |= {"undefined": none} if bool(none.any()) else {}
    return Record(columns, [], forwards=len(split) if votes is None else int(votes.sum()), backwards=0)


def _series(parts: list[Certificates], name: str) -> Tensor | None:
    """One field of all batches on the CPU, None where a certifier has none."""
    found = [value.detach().cpu() for part in parts if (value := getattr(part, name)) is not None]
    return torch.cat(found) if len(found) == len(parts) else None


def _claimed(context: Context, x: Tensor, y: Tensor, rng: Rng) -> Certificates:
    """What the certifier says of a batch; raises Tampered where it touched what it is judged by."""
    net, certify = context.served().net, context.attack
    extra = {"rng": rng} if "rng" in inspect.signature(certify).parameters else {}
    who = f"the certifier {context.card.name}"
    with untampered([net], who, lambda: answer(net, x[:1], rng[:1]), pictures=x, labels=y):
        found: Certificates = certify(net, x.clone(), y.clone(), copy.copy(context.threat.budget), **extra)
    return found


def conclude(context: Context, record: Record) -> Record:
    """A broken proof is a flag, and so is an answer that is no number."""
    broken = int(record.columns["contradicted"].sum()) if "contradicted" in record.columns else 0
    flag = Flag("proof_contradicted", f"a sampled point breaks {broken} proven examples")
    return record._replace(flags=undefined_answers(record.columns) + ([flag] if broken else []))


def _undefined(system: System, x: Tensor, rng: Rng) -> Tensor:
    """Where (N,) the network has no number for a picture; below what may reject, as an abstention is no fault."""
    with torch.no_grad():
        return TASK.undefined(answer(system.under or system.net, x, rng))


def _broken(system: System, x: Tensor, y: Tensor, found: Tensor, ball: Any, rng: Rng) -> Tensor:
    """Which of these pictures (N,) lie in the ball of x and are answered wrong; a certifier's word is not enough."""
    handed = found.flatten(1).isfinite().all(1)
    points = torch.where(handed.view(-1, 1, 1, 1), found, x)
    judge = Judge(system.net, stochastic=False, under=system.under)
    inside: Tensor = ball.allows(x, points)
    return handed & inside & judge(points, y, rng.fold("broken")).wrong


def _contradicted(system: System, split: Split, ball: Any, radius: Tensor, rng: Rng) -> Tensor:
    """Which proven examples (N,) the judge sees broken at a random point of their own ball."""
    broken = torch.zeros(len(split), dtype=torch.bool)
    judge = Judge(system.net, stochastic=False, under=system.under)
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


def decide(cell: Cell) -> Decision | None:
    """What cannot be proven: another norm, any change at all, a network that answers by something else."""
    card, threat = cell.attack, cell.threat
    if card is None or threat is None or threat.budget is None:
        return None
    if found := unfit(card, threat.budget):
        return found
    if threat.budget.norm not in BALLS:
        return Decision("refused", "budget", f"certificates are of a norm's ball; nothing is proven in {threat.budget}")
    others = [d.card.name for d in cell.lifecycle.defenses if d.card.hides & card.needs or d.card.stochastic]
    if others and Access.WEIGHTS in card.needs:
        names = "+".join(others)
        return Decision("refused", "hidden", f"{card.name} bounds a network; {names} answers by something else")
    return None


scenario = Scenario(
    "certification", "A proof that no allowed change moves the answer, or the largest radius that has one.", play,
    columns=(
        Column(name="radius", dtype="float", unit="norm of the budget", better="more", scores=(
            Scoring(name="certified_accuracy", kind="beyond", by="clean_ok", compared=True),
            Scoring(name="mean_certified_radius", kind="mean"),
        )),
        Column(name="p_correct", dtype="float", better="more", scores=tuple(
            Scoring(name=f"p_correct_{name}", kind="quantile", at=at)
            for name, at in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75))
        )),
        Column(name="votes", dtype="int", unit="forward passes", better="less", scores=(
            Scoring(name="mean_votes", kind="mean"),
        )),
        Column(name="abstained", scores=(Scoring(name="abstained_rate"),)),
        Column(name="clean_ok", better="more", scores=(Scoring(name="clean_accuracy"),)),
        Column(name="robust", better="more"),
        Column(name="broken", better="less", scores=(Scoring(name="falsified_rate"),)),
        Column(name="undecided", scores=(Scoring(name="undecided_rate"),)),
        UNDEFINED,
        Column(name="prediction", dtype="int", unit="class"),
        Column(name="contradicted", better="less"),
    ),
    headline="certified_accuracy", paper="Wong and Kolter, 2018, arXiv:1711.00851",
    spec=BallSpec, decide=decide, together=lambda cell: 1, conclude=conclude, joins="any",
    sections="robustsuite.reports.sections.certified:part", bare=True,
)  # fmt: skip
