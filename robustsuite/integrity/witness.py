"""Whether a system answers everybody alike: some attacked pictures are asked again, in every way anybody asks.

A system that knows who asks can fool whoever asks in one way only. So what was judged is asked with gradients on, in
float64, among other pictures and a hair away, and its gradient is held against differences where the attack ended:
Athalye et al., 2018, arXiv:1802.00420; Carlini et al., 2019, arXiv:1902.06705, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.config.transforms import Allowed, Transformation
from robustsuite.integrity.checks import SMALL, Flag
from robustsuite.integrity.gradient_probes import STEP, errors
from robustsuite.integrity.modes import MODES
from robustsuite.maths.numerics import float32
from robustsuite.maths.randomness import Rng
from robustsuite.serve.judge import Judge
from robustsuite.serve.models import services
from robustsuite.serve.oracle import Asked, Desk, answer, preserved
from robustsuite.serve.system import System
from robustsuite.serve.task import TASK, finite

EVERY = 8
"""One attacked picture in so many is asked again, drawn by its own stream: about 1.6 forwards an image."""

HAIR = 4e-6
"""Pixel values apart: nobody's answer should change."""

NEAR = 1e-3
"""Relative to the largest logit: leads below may go either way, and numbers that should be equal differ so far."""

WAVES, ASKEW = 2, 0.5
"""Directions that the gradient is held against, and the relative error of one that points elsewhere."""

MISLED = 0.1
"""Share of the pictures of an attack's last question whose gradients may be so far off: kinks there, too."""

T = TypeVar("T")


class Witnessed(NamedTuple):
    """By picture (N,) bool: was it asked again; were the answers of two kinds; did its gradient point elsewhere; was a
    random point of the ball around it rejected.
    """

    witnessed: Tensor
    two_faced: Tensor
    bent: Tensor
    noise_rejected: Tensor


def drawn(rng: Rng) -> Tensor:
    """Which pictures (N,) are asked again: by each one's stream, whatever stands beside it."""
    return rng.fold("witness").uniform() < 1 / EVERY


@float32()
def witnessed(system: System, judge: Judge, x: Tensor, y: Tensor, x_adv: Tensor, rows: Tensor, rng: Rng, *,
              ball: Allowed, gradients: bool) -> Witnessed:  # fmt: skip
    """Ask about x_adv[rows], beside their clean pictures x, in every way; (N,) bool of all pictures.

    gradients: whether the attack went by the served network's own.
    """
    asked, two_faced, bent, rejected = torch.zeros(4, len(x), dtype=torch.bool, device=x.device)
    if len(rows):
        asked[rows] = True
        with preserved(system.net):
            if system.under is not None:
                rejected[rows] = judge(ball.sample(x[rows], rng[rows].fold("noise")), y[rows], rng[rows]).rejected
            two_faced[rows] = _differ(system, judge, x[rows], x_adv[rows], rng[rows], gradients)
            if gradients and not system.stochastic:
                bent[rows] = _bent(system.net, x_adv, rows, judge.width)
    return Witnessed(asked, two_faced, bent, rejected)


def _differ(system: System, judge: Judge, clean: Tensor, x: Tensor, rng: Rng, gradients: bool) -> Tensor:
    """Where (M,) the answers to one picture differ by more than rounding explains."""
    differs, exact = torch.zeros(len(x), dtype=torch.bool, device=x.device), not system.stochastic
    with torch.no_grad():
        first = answer(system.net, x, rng)
        both = Rng(torch.stack([rng.keys, rng.keys], 1).flatten(0, 1))
        among = answer(system.net, torch.stack([x, clean], 1).flatten(0, 1), both)[::2]
        differs |= _apart(first, among, exact)
        step = 1 / 255 if system.grid else HAIR
        differs |= _apart(first, answer(system.net, x + step * torch.where(x < 0.5, 1.0, -1.0), rng), False)
        differs |= _apart(first, _by_nobody(_asked, system.net, x, rng, gradients), exact)
        if exact and Access.GRADIENTS in system.shows and (wide := judge.precisely(x)) is not None:
            differs |= _apart(first, wide.to(first), False)
    return differs


@float32()
@torch.no_grad()
def searched(judge: Judge, x: Tensor, y: Tensor, rows: Tensor, rng: Rng, ball: Allowed, draws: Tensor) -> Tensor:
    """Which pictures (N,) of these standing rows the judge sees broken at any of `draws` (N,) random points."""
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    every = rows.repeat_interleave(draws[rows])
    draw = torch.cat([torch.arange(int(n), device=x.device) for n in draws[rows]]) if len(rows) else rows
    with preserved(judge.net):
        for part in torch.arange(len(every), device=x.device).split(judge.width):
            some, streams = every[part], rng[every[part]].fold("search").fold(draw[part])
            at = _point(ball, x[some], streams, draw[part])
            found[some[judge(at, y[some], streams).wrong & _inside(ball, x[some], at)]] = True
    return found


@float32()
@torch.no_grad()
def searched_anew(judge: Judge, x: Tensor, y: Tensor, rng: Rng, ball: Allowed, draws: int) -> Tensor:
    """The same (N,) of a random system: of each picture's points the one that is wrong most often, judged once more.

    Among many answers some are wrong by luck; those to the point that they lead to are new ones.
    """
    best, most = x, torch.zeros(len(x), device=x.device)
    with preserved(judge.net):
        for draw in range(draws):
            streams = rng.fold("search").fold(draw)
            at = _point(ball, x, streams, torch.full_like(y, draw))
            share = judge(at, y, streams).share * _inside(ball, x, at)
            best = torch.where((share > most).view(-1, 1, 1, 1), at, best)
            most = most.maximum(share)
        return judge(best, y, rng.fold("anew")).wrong & (most > 0)


def _point(ball: Allowed, x: Tensor, streams: Rng, draw: Tensor) -> Tensor:
    """A random point (N, C, H, W) of the ball for each picture; of every other draw (N,) a corner, where it has any."""
    at = ball.sample(x, streams)
    if isinstance(ball, Transformation) or ball.norm != "linf":
        return at
    corner = ball.project(x, x + ball.eps * (streams.fold("corner").uniform(*x.shape[1:]) - 0.5).sign())
    return torch.where((draw % 2 == 1).view(-1, 1, 1, 1), corner, at)


def _inside(ball: Allowed, x: Tensor, at: Tensor) -> Tensor:
    """Which (N,) of these points are in the ball; what was rendered of a theta that was drawn is."""
    if isinstance(ball, Transformation):
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return ball.allows(x, at)


class Recalled(NamedTuple):
    """Of the attack's last question, by row (N,) bool: was it one for gradients; does it bring other numbers now; did
    what was given for a gradient point elsewhere than the loss it was asked for.
    """

    slopes: Tensor
    odd: Tensor
    misled: Tensor


@float32()
def recalled(desk: Desk, served: bool) -> Recalled:
    """Ask the attack's last question again, now that nobody of it is among the callers, and along what was given.

    served: the network is no stand-in, whose slopes may be anything that leads somewhere.
    """
    found = Recalled(*torch.zeros(3, len(desk.rng), dtype=torch.bool, device=desk.rng.keys.device))
    last, desk.last = desk.last, None
    if last is None or services(desk.net) or not len(last.rows):
        return found
    with preserved(desk.net):
        logits, grad = _by_nobody(_again, desk, last)
        apart = _apart(last.logits, logits, True)
        if served and grad is not None and last.grad is not None:
            size = last.grad.flatten(1).abs().amax(1)
            apart |= (grad - last.grad).flatten(1).abs().amax(1) > 0.1 * size + 1e-12
            found.slopes[last.rows] = True
            found.misled[last.rows[_by_nobody(_misled, desk, last)]] = True
    found.odd[last.rows[apart]] = True
    return found


def _misled(desk: Desk, last: Asked) -> Tensor:
    """Where (M,) the loss does not rise along the given gradient's signs as that gradient says."""
    slope, grad = last.slope, last.grad
    assert slope is not None
    assert grad is not None
    with torch.no_grad():
        ahead, behind = (answer(desk.net, last.x + sign * STEP * grad.sign()) for sign in (1, -1))
    answered = (ahead.isfinite() & behind.isfinite()).all(1)  # of what rejects, nothing can be said
    measured = ((finite(ahead) - finite(behind)) * slope).sum(1) / (2 * STEP)
    said, rounding = grad.flatten(1).abs().sum(1), 1e-6 * (finite(ahead).abs() * slope.abs()).amax(1) / STEP
    askew = (said - measured).abs() > ASKEW * (torch.maximum(said, measured.abs()) + rounding)
    return askew & answered & (said > 0)


def _again(desk: Desk, last: Asked) -> tuple[Tensor, Tensor | None]:
    with torch.set_grad_enabled(last.slope is not None):
        leaf = last.x.clone().requires_grad_(last.slope is not None)
        logits = desk.seen(last.rows, answer(desk.net, leaf))
        if last.slope is None:
            return logits, None
        return logits.detach(), torch.autograd.grad((logits * last.slope).sum(), leaf)[0]


def _by_nobody(function: Callable[..., T], *given: Any) -> T:
    """What it returns in a thread of its own: nothing of an attack or a judge stands among its callers.

    Torch's modes belong to a thread; where one is active, it is called here.
    """
    if MODES["the active torch function modes"].get() or MODES["the active torch dispatch modes"].get():
        return function(*given)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *given).result()


def _asked(net: nn.Module, pictures: Tensor, rng: Rng, gradients: bool) -> Tensor:
    with torch.set_grad_enabled(gradients):
        return answer(net, pictures.clone().requires_grad_(gradients), rng).detach()


def _apart(a: Tensor, b: Tensor, exact: bool) -> Tensor:
    """Where (M,) two answers are of different kinds; exact: and where their numbers differ."""
    none = TASK.undefined(a) | TASK.undefined(b)
    scale = NEAR * finite(a).abs().amax(1).clamp_min(1e-12)
    leads = [top[:, 0] - top[:, 1] > scale for top in (finite(z).topk(2, 1).values for z in (a, b))]
    apart = (TASK.predicted(a) != TASK.predicted(b)) & (none | (leads[0] & leads[1]))
    return apart | ((finite(a) - finite(b)).abs().amax(1) > scale) & ~none if exact else apart


def _bent(net: nn.Module, x: Tensor, rows: Tensor, width: int) -> Tensor:
    """Where (M,) of these rows the gradient, asked in a batch as large as an attack's, is not what differences say."""
    others = torch.arange(len(x), device=x.device)
    crowd = x[torch.cat([rows, others[~torch.isin(others, rows)]])[: max(width, len(rows))]]
    with torch.no_grad():
        logits: Tensor = net(crowd)
    top = torch.where(logits.isfinite(), logits, 0.0).topk(2, 1).indices
    askew = errors(net, crowd, top, WAVES, len(rows)) > ASKEW
    return askew & logits[: len(rows)].isfinite().all(1)


def flags(columns: dict[str, Tensor]) -> list[Flag]:
    """What the columns of all pictures say; one that is not there is False everywhere."""

    def count(*names: str) -> int:
        """The pictures that all of these columns say yes to."""
        there = [columns[name] for name in names if name in columns]
        return int(torch.stack(there).all(0).sum()) if len(there) == len(names) else 0

    n, stands, asked, raised = count("witnessed"), count("witnessed", "robust"), count("slopes"), list[Flag]()
    if (k := count("misled")) > max(2, MISLED * asked):
        words = f"what the attack was given for a gradient is over {ASKEW:.0%} off the rise of its own loss on {k} of"
        raised.append(Flag("gradient_mismatch", f"{words} {asked} pictures, at its last question"))
    if k := count("searched"):
        words = f"random points break {k} of {stands} pictures asked again that the attack left standing"
        raised.append(Flag("random_search_wins", words, "fail" if k > 2 else "warn"))
    if (k := count("noise_rejected")) > max(3, n / 2):
        words = f"{k} of {n} random points of the ball are rejected: near enough nothing is answered"
        raised.append(Flag("noise_rejected", words))
    if (k := count("two_faced")) > max(1, SMALL * n):
        words = f"{k} attacked pictures get another answer with gradients on, in float64, among others, nearby or later"
        raised.append(Flag("two_faced", words))
    if (k := count("bent", "robust")) > max(1, stands / 2):
        words = f"where the attack ended, gradients are over {ASKEW:.0%} off finite differences on {k} of {stands}"
        raised.append(Flag("gradient_mismatch", f"{words} pictures that it left standing"))
    return raised
