"""A short attack of our own before any other: does it fail on these very pictures, or by this very way in, alone?

Two comparisons, picture by picture, with the same few steps. On pictures that are mirrored or moved, which nobody has
stored: a system that remembers the test set stands on the set alone. And through any network that is found inside: a
wrapper whose own gradients lead nowhere falls to its own part (Athalye et al., 2018, arXiv:1802.00420; Tramer et al.,
2020, arXiv:2002.08347). Only contrasts count, so that neither a weak net nor a strong one is noticed.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.integrity.checks import Flag
from robustsuite.integrity.state import kept
from robustsuite.maths.losses import margin
from robustsuite.maths.numerics import float32
from robustsuite.maths.stats import one_sided
from robustsuite.serve.oracle import preserved
from robustsuite.serve.task import TASK

PICTURES, STEPS, EPS = 24, 3, 8 / 255
"""Of the test pictures that are right; of the attack, each step half its linf radius."""

SURPRISING = 0.005
"""Of the one-sided exact McNemar test: eight pictures against none."""

DEEP, MANY, INSIDE = 6, 20_000, 3
"""How far, and at how many objects, networks are looked for; how many, the largest first, are attacked through."""


@float32()
def shortcuts(net: nn.Module, stand_in: nn.Module | None, x: Tensor, y: Tensor) -> list[Flag]:
    """Flags of a deterministic served network on pictures x (N, C, H, W) with labels y (N,); right ones are taken.

    stand_in: the surrogate it is attacked through as well. About 20 forwards and 9 backwards of each picture taken,
    6 and 3 more for each network that is found inside.
    """
    with preserved(net), kept(net):
        with torch.no_grad():
            right = (TASK.predicted(net(x)) == y).nonzero().flatten()[:PICTURES]
        x, y = x[right], y[right]
        if not len(x):
            return []
        ways = [way for way in (net, stand_in) if way is not None]
        direct = _standing(net, ways, x, y)
        return [flag for flag in (_remembered(net, ways, x, y, direct), _inside(net, ways, x, y, direct)) if flag]


def _remembered(net: nn.Module, ways: list[nn.Module], x: Tensor, y: Tensor, direct: Tensor) -> Flag | None:
    shift = x.shape[2] // 8, -(x.shape[3] // 8)
    views = {"mirrored": x.flip(3), "moved": x.roll(shift, (2, 3))}
    for how, view in views.items():
        with torch.no_grad():
            both = TASK.predicted(net(view)) == y
        stands = _standing(net, ways, view[both], y[both])
        more, fewer = int((direct[both] & ~stands).sum()), int((~direct[both] & stands).sum())
        if one_sided(more, fewer) < SURPRISING:
            words = f"a short attack leaves {more} of {int(both.sum())} pictures standing that fall once they are {how}"
            return Flag("remembers", f"{words}: the system knows these very pictures?")
    return None


def _inside(net: nn.Module, ways: list[nn.Module], x: Tensor, y: Tensor, direct: Tensor) -> Flag | None:
    for part in _networks(net, x[:2], ways):
        stands = _standing(net, [part], x, y)
        more, fewer = int((direct & ~stands).sum()), int((~direct & stands).sum())
        if one_sided(more, fewer) < SURPRISING:
            words = f"points found on the {type(part).__name__} inside break {more} of {len(x)} pictures that"
            return Flag("inner_wins", f"{words} its own gradients leave standing")
    return None


def _standing(net: nn.Module, ways: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """Which pictures (N,) bool `net` still has right after steps through each of the ways."""
    stands = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for way in ways:
        at = x
        for _ in range(STEPS if len(x) else 0):
            grad = _uphill(way, at, y)
            if grad is None:
                break
            at = (x + (at + EPS / 2 * grad.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
            with torch.no_grad():
                stands &= TASK.predicted(net(at)) == y
    return stands


def _uphill(way: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """The gradient (N, C, H, W) of the lead over the label; None where there is none."""
    leaf = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            lead = margin(way(leaf).nan_to_num(nan=0.0), y)
            (grad,) = torch.autograd.grad(lead.sum(), leaf, allow_unused=True)
    except RuntimeError:
        return None
    return None if grad is None else grad.nan_to_num(nan=0.0)


def _networks(net: nn.Module, x: Tensor, known: list[nn.Module]) -> Iterator[nn.Module]:
    """Networks that `net` is made of and that answer such pictures with as many logits, the largest first."""
    with torch.no_grad():
        classes = net(x).shape[1]
    found = sorted(_reached(net), key=lambda part: -sum(p.numel() for p in part.parameters()))
    taken = 0
    for part in found:
        if any(part is way for way in known) or not list(part.parameters()):
            continue
        try:
            with torch.no_grad():
                answers = part(x)
        except Exception:
            continue
        if isinstance(answers, Tensor) and answers.shape == (len(x), classes) and bool(answers.isfinite().all()):
            yield part
            taken += 1
        if taken == INSIDE:
            return


def _reached(net: nn.Module) -> list[nn.Module]:
    """Every module that hangs on this one, as a layer, an attribute, in a list, or behind a function."""
    seen, found = {id(net)}, list[nn.Module]()
    level: list[Any] = [net]
    for _ in range(DEEP):
        after: list[Any] = []
        for thing in level:
            for other in _hanging(thing):
                if id(other) in seen or len(seen) > MANY:
                    continue
                seen.add(id(other))
                after.append(other)
                if isinstance(other, nn.Module):
                    found.append(other)
        level = after
    return found


def _hanging(thing: Any) -> list[Any]:
    """What an object holds; of a function, what it closes over and the names of its module that it uses."""
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if not _empty(cell)]
        used = [thing.__globals__[name] for name in thing.__code__.co_names if name in thing.__globals__]
        return [*cells, *used, *(thing.__defaults__ or ())]
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, nn.Module):
        own = [vars(type(thing)).get("forward")] if not type(thing).__module__.startswith("torch.") else []
        return [*own, *vars(thing).values()]
    if isinstance(thing, dict | list | tuple | set | frozenset):
        return list(thing.values()) if isinstance(thing, dict) else list(thing)
    if isinstance(thing, Tensor | str | bytes | int | float | type | types.ModuleType) or thing is None:
        return []
    return gc.get_referents(thing) if hasattr(thing, "__dict__") else []


def _empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
