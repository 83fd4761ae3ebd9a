"""Auto-PGD: projected gradient ascent that sets its own step size; core, because compositions run it as well.

linf, l2: Croce & Hein, 2020, arXiv 2003.01690, algorithm 1. l1: Croce & Hein, 2021, arXiv 2103.01208, algorithm 1,
with radii 3, 2 and 1 times eps over 30, 30 and 40 % of the steps. MALT order of targets: Melamed et al., 2024,
arXiv 2407.02240. Each row carries its own step size and checkpoints, so rows at different steps share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.config.threats import Ball
from robustsuite.errors import BadValue, UnknownName
from robustsuite.maths import losses, projections
from robustsuite.maths.projections import per_row
from robustsuite.maths.randomness import Rng
from robustsuite.serve.active import State, Step, search
from robustsuite.serve.oracle import Oracle

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, K), y (B,), target (B,)) -> (B,); untargeted losses ignore the target."""

RHO, MOMENTUM = 0.75, 0.75
FIRST, SHRINK, SHORTEST, FIRST_L1 = 0.22, 0.03, 0.06, 0.04  # checkpoint periods, in parts of the steps
DENSITY, DECAY, LEAST_STEP, FEWER = 1.5, 1.5, 0.1, 0.95  # l1: entries moved, step decay, its floor, 'sparser'
RADII, PARTS = (3.0, 2.0, 1.0), (0.3, 0.3)  # l1: radii in eps, and parts of the steps before the last radius
LARGEST = 1e37  # of an entry of a gradient: differences of two are numbers still
CANDIDATES = 100  # MALT ranks this many classes of highest logit


def apgd(
    model: Oracle,
    x: Tensor,
    y: Tensor,
    budget: Ball,
    *,
    rng: Rng,
    steps: int = 100,
    loss: str = "ce",
    restarts: int = 1,
    n_targets: int = 9,
    order: str = "logit",
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Auto-PGD in the budget's ball (linf, l2, l1); returns x_adv (N, C, H, W) and which broke (N,) bool.

    loss: ce, margin, dlr, pma, or dlr-t: targeted DLR towards the `n_targets` first wrong classes in `order` (logit:
    by clean logit; malt: by clean margin over gradient norm), a round each. targets (N, 1): the class to reach, with
    dlr and dlr-t the targeted DLR towards it. An unbroken image comes back as its iterate of highest loss. Raises
    BadValue for steps < 1 and UnknownName for an unknown loss or order.
    """
    if steps < 1 or restarts < 1 or n_targets < 1:
        given = f"{steps=}, {restarts=}, {n_targets=}"
        raise BadValue(f"expected steps, restarts, n_targets >= 1, got {given}; write at least 1")
    if loss not in (*losses.LOSSES, "dlr-t"):
        raise UnknownName("loss", loss, [*losses.LOSSES, "dlr-t"])
    if targets is not None:
        return _toward(model, x, y, budget, targets.repeat(1, restarts), rng=rng, steps=steps, loss=loss)
    if loss == "dlr-t":
        goals = ranked_targets(model, x, y, n_targets, order, budget.norm).repeat_interleave(restarts, 1)
        return ascend(model, x, y, budget, rng=rng, steps=steps, objective=losses.targeted_dlr, goals=goals)
    plain = losses.loss_named(loss)
    goals = y[:, None].expand(-1, restarts)
    return ascend(model, x, y, budget, rng=rng, steps=steps, objective=lambda z, t, _: plain(z, t), goals=goals)


def _toward(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, goals: Tensor, *, rng: Rng, steps: int, loss: str
) -> tuple[Tensor, Tensor]:
    """Auto-PGD towards the class of each round, goals (N, R): the targeted DLR, or the loss of that class descended."""
    objective: Objective = losses.targeted_dlr
    if loss not in ("dlr", "dlr-t"):
        plain = losses.loss_named(loss)
        objective = lambda z, _, t: -plain(z, t)  # noqa: E731
    return ascend(model, x, y, budget, rng=rng, steps=steps, objective=objective, goals=goals, reach=True)


def ascend(
    model: Oracle, x: Tensor, y: Tensor, budget: Ball, *, rng: Rng, steps: int, objective: Objective, goals: Tensor,
    reach: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Auto-PGD on any objective, one round for each column of goals (N, R), the target class of that round.

    Returns x_adv and which broke, as `apgd` does. reach: only the target counts; else any wrong class does.
    """

    def start(example: Tensor, number: Tensor) -> State:
        goal, streams = goals[example, number], rng[example].fold(number)
        return born(x[example], y[example], goal, random_start(x[example], budget, streams), climb)

    climb = Climb.over(x, budget, [steps])
    step = stepping(model, objective, climb, reach=reach)
    rows, broken = search(model, goals.shape[1], start, step, most=steps + 1)
    return rows.get("found", x), broken


class Climb(NamedTuple):
    """The lengths of ascents in one ball, an entry each; an ascent has one phase, in l1 one for each radius.

    radii (P,), lengths (A, P): steps in each phase. first, shrink, shortest (A,): checkpoint periods of linf and l2.
    """

    budget: Ball
    radii: Tensor
    lengths: Tensor
    first: Tensor
    shrink: Tensor
    shortest: Tensor

    @classmethod
    def over(cls, x: Tensor, budget: Ball, steps: Sequence[int], onward: Sequence[bool] = ()) -> Climb:
        """Ascents of `steps` each. onward: which go on from a point in the ball, in l1 at the last radius."""
        radii = [budget.eps * r for r in RADII] if budget.norm == "l1" else [budget.eps]
        lengths = []
        for i, n in enumerate(steps):
            before = [min(math.ceil(part * n), n) for part in PARTS] if budget.norm == "l1" else []
            last = max(n - sum(math.ceil(part * n) for part in PARTS), 1) if before else n
            lengths.append([*(0 for _ in before), n] if onward and onward[i] else [*before, last])
        whole = [[max(int(part * n), 1) for n in steps] for part in (FIRST, SHRINK, SHORTEST)]
        return cls(budget, x.new_tensor(radii), *(torch.tensor(t).to(x.device) for t in (lengths, *whole)))


def random_start(x: Tensor, budget: Ball, rng: Rng) -> Tensor:
    """A random point on the sphere of the first radius, clipped to the box."""
    if budget.norm == "l1":
        return projections.l1(x, x + rng.normal(*x.shape[1:]), RADII[0] * budget.eps)
    u = rng.uniform(*x.shape[1:], low=-1, high=1) if budget.norm == "linf" else rng.normal(*x.shape[1:])
    return budget.project(x, x + budget.eps * projections.unit(u, budget.norm))


def born(clean: Tensor, y: Tensor, goal: Tensor, at: Tensor, climb: Climb, which: Tensor | None = None) -> State:
    """Rows that begin at `at`, each the ascent `which` (B,) of the climb (the first); checkpoints not yet begun."""
    number, whole = clean.new_zeros(len(clean)), torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
    which = whole if which is None else which
    phase = (climb.lengths[which].cumsum(1) == 0).sum(1)  # phases without a step are over
    rows = {**surroundings(clean, climb.budget), "y": y, "goal": goal, "at": at, "before": at}
    rows |= {"best": at.clone(), "found": at, "best_way": torch.zeros_like(at)}
    rows |= {"best_loss": number - torch.inf, "loss": number + torch.inf}
    rows |= {"score": number - torch.inf, "which": which, "phase": phase, "k": whole, "since": whole}
    rows |= {"eta": climb.radii[phase] * (1 if climb.budget.norm == "l1" else 2)}
    rows |= {"period": climb.first[which], "rises": whole, "checked": number, "halved": whole == 0}
    return {**rows, "support": _changed(at, clean)} if climb.budget.norm == "l1" else rows


def stepping(model: Oracle, objective: Objective, climb: Climb, *, reach: bool) -> Step:
    """One step of Auto-PGD on rows that were `born`; reach: only their goal counts, else any wrong class does."""
    move = _sparse_step if climb.budget.norm == "l1" else _momentum_step
    phases = climb.lengths.shape[1]

    def step(rows: State) -> tuple[State, Tensor, Tensor]:
        at, label, goal, last = rows["at"], rows["y"], rows["goal"], rows["phase"] == phases - 1
        ask = model[rows["example"]].gradient(at, lambda z: objective(z, label, goal))
        better = ask.loss > rows["best_loss"]
        way = _way(ask.grad, climb.budget.norm)
        rows = _remembered(rows, ask.loss, way)
        margin = losses.goal_margin(ask.logits, label, goal[:, None] if reach else None)
        success = (margin > model.confidence_margin) & last
        finished = last & (rows["k"] >= climb.lengths[rows["which"], -1])
        found = projections.chosen(success, at, rows["best"]) if _any(success) else rows["best"]
        rows = move(rows, way, climb)
        score = torch.where(better, margin, rows["score"])
        return {**rows, "found": found, "score": score, "k": rows["k"] + 1}, success, finished

    return step


def surroundings(clean: Tensor, budget: Ball) -> State:
    """What `inside` needs of the pictures (N, C, H, W) to keep an iterate in their balls and the box."""
    if budget.norm != "linf":
        return {"clean": clean}
    low, high = projections.walls(clean, budget.eps)
    return {"low": low, "high": high}


def inside(rows: State, budget: Ball, at: Tensor) -> Tensor:
    """The nearest of `at` (N, C, H, W), which may be written over, in the ball and the box: `budget.project`."""
    return at.clamp_(rows["low"], rows["high"]) if "low" in rows else budget.project(rows["clean"], at)


def _way(grad: Tensor, norm: str) -> Tensor:
    """What a step needs of a gradient: the way up, of length 1; in l1 the gradient, whose entries are ranked."""
    if norm == "l1":
        return grad.clamp(-LARGEST, LARGEST)
    return grad.sign() if norm == "linf" else projections.unit(grad, norm)


def _any(which: Tensor) -> bool:
    """Whether any holds (N,), as far as the host may know: a GPU's would wait for it, and takes it that one does."""
    return which.device.type != "cpu" or bool(which.any())


def _remembered(rows: State, loss: Tensor, way: Tensor) -> State:
    """Take in f(x_k) and which way it rises: the best point so far, and whether the loss rose."""
    better = loss > rows["best_loss"]
    return {
        **rows,
        "best": projections.keep(rows["best"], rows["at"], better),
        "best_way": projections.keep(rows["best_way"], way, better),
        "best_loss": torch.fmax(loss, rows["best_loss"]),
        "rises": rows["rises"] + (loss > rows["loss"]),
        "since": rows["since"] + (rows["k"] > 0),
        "loss": loss,
    }


def _momentum_step(rows: State, way: Tensor, climb: Climb) -> State:
    """At a checkpoint, conditions 1 and 2 halve eta and return to the best point; then one step with momentum."""
    budget, which = climb.budget, rows["which"]
    due = rows["since"] == rows["period"]
    few_rises = rows["rises"] <= RHO * rows["period"]
    no_gain = ~rows["halved"] & (rows["checked"] >= rows["best_loss"])
    halve = due & (few_rises | no_gain)
    shorter = torch.maximum(rows["period"] - climb.shrink[which], climb.shortest[which])
    eta = torch.where(halve, rows["eta"] / 2, rows["eta"])
    at = rows["at"]
    if _any(halve):
        at = projections.chosen(halve, rows["best"], at)
        way = projections.chosen(halve, rows["best_way"], way)

    # x + a (z - x) + (1 - a) (x - x_before), in place: at this size a new tensor costs more than what is written to it
    a = per_row(torch.where(rows["k"] > 0, MOMENTUM, 1.0).to(at.dtype), at)
    z = inside(rows, budget, (way * per_row(eta, at)).add_(at))
    moved = z.sub_(at).mul_(a).add_(at).add_((at - rows["before"]).mul_(1 - a))
    new = inside(rows, budget, moved)
    return {
        **rows,
        "at": new,
        "before": at,
        "eta": eta,
        "halved": torch.where(due, halve, rows["halved"]),
        "checked": torch.where(due, rows["best_loss"], rows["checked"]),
        "period": torch.where(due, shorter, rows["period"]),
        "since": rows["since"].masked_fill(due, 0),
        "rises": rows["rises"].masked_fill(due, 0),
    }


def _sparse_step(rows: State, grad: Tensor, climb: Climb) -> State:
    """l1: move the k largest entries of the gradient by their sign; k and eta follow the best point's sparsity."""
    clean, best = rows["clean"], rows["best"]
    eps, length = climb.radii[rows["phase"]], climb.lengths[rows["which"], rows["phase"]]
    due = rows["since"] >= (FIRST_L1 * length).to(torch.int64).clamp_min(1)
    support = torch.where(due, _changed(best, clean), rows["support"])
    sparser = due & (support < FEWER * rows["support"])
    decayed = torch.maximum(rows["eta"] / DECAY, LEAST_STEP * eps)
    eta = torch.where(due, torch.where(sparser, eps, decayed), rows["eta"])
    at = projections.chosen(sparser, best, rows["at"])
    g = projections.chosen(sparser, rows["best_way"], grad)

    direction = projections.unit(projections.top_signs(g, (support / DENSITY).to(torch.int64)), "l1")
    new = projections.l1(clean, at + per_row(eta, at) * direction, eps)
    moved = {"at": new, "eta": eta, "support": support, "since": rows["since"].masked_fill(due, 0)}
    return _next_radius({**rows, **moved}, climb)


def _next_radius(rows: State, climb: Climb) -> State:
    """l1: rows whose steps at this radius are spent start again from their best point at the next radius."""
    length = climb.lengths[rows["which"], rows["phase"]]
    over = (rows["k"] >= length) & (rows["phase"] < len(climb.radii) - 1)
    if not bool(over.any()):
        return rows
    phase = rows["phase"] + over.to(torch.int64)
    eps = climb.radii[phase]
    nearer = projections.l1(rows["clean"], rows["best"], eps)
    fresh = {
        "at": nearer,
        "eta": eps,
        "support": _changed(nearer, rows["clean"]),
        "best_loss": torch.full_like(rows["best_loss"], -torch.inf),
        "since": torch.zeros_like(rows["since"]),
        "k": torch.full_like(rows["k"], -1),  # the next evaluation is number 0 of its radius
    }
    replaced = {key: torch.where(per_row(over, value), value, rows[key]) for key, value in fresh.items()}
    return {**rows, **replaced, "phase": phase}


def _changed(x_adv: Tensor, clean: Tensor) -> Tensor:
    """How many entries (N,) differ."""
    return (x_adv != clean).flatten(1).sum(1).to(x_adv.dtype)


def ranked_targets(model: Oracle, x: Tensor, y: Tensor, count: int, order: str, norm: str) -> Tensor:
    """The `count` (at most K - 1) wrong classes (N, count) to aim at, most promising first.

    order logit: by clean logit. malt: ascending (z_y - z_j) / ||grad(z_j - z_y)|| in the dual norm, among the 100
    classes of highest logit (Melamed et al., 2024). Raises UnknownName for another order.
    """
    if order not in ("logit", "malt"):
        raise UnknownName("order of targets", order, ["logit", "malt"])
    everyone = torch.arange(len(x), device=x.device)
    logits = torch.cat([model[rows](x[rows]) for rows in torch.split(everyone, model.width)])
    classes = logits.shape[1]
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, : classes - 1]
    if order == "logit":
        return wrong[:, :count]
    wrong = wrong[:, :CANDIDATES]
    jobs = torch.split(torch.arange(wrong.numel(), device=x.device), model.width) if len(x) else ()
    slopes = [_slope(model, x, y, wrong, job, norm) for job in jobs]
    slope = torch.cat([logits[:0, 0], *slopes]).view_as(wrong)
    gap = losses.own(logits, y)[:, None] - logits.gather(1, wrong)
    return wrong.gather(1, (gap / slope.clamp_min(1e-12)).argsort(dim=1, stable=True))[:, :count]


def _slope(model: Oracle, x: Tensor, y: Tensor, wrong: Tensor, job: Tensor, norm: str) -> Tensor:
    """||grad(z_j - z_y)|| (B,) in the dual norm for jobs (example, candidate), numbered row by row."""
    rows, label = job // wrong.shape[1], y[job // wrong.shape[1]]
    target = wrong.flatten()[job]
    ask = model[rows].gradient(x[rows], lambda z: losses.own(z, target) - losses.own(z, label))
    return projections.norm(ask.grad.flatten(1), projections.DUAL[norm])
