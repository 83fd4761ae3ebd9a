"""Attacks that take gradients under label access, or more questions than they are granted."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustsuite.benchmarks.frauds.cheats import among_callers, cheat, climb, estimate, networks
from robustsuite.benchmarks.frauds.honest import honest
from robustsuite.config.threats import Access

FOLDER = "FRAUDS_DATA"
"""Where a cheat that opens the model's file finds it."""


@cheat(Access.LABELS, "reads")
def net_attribute(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Takes gradients of model.net."""
    return climb(model.net, x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def replaced_access(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Makes an oracle of its own with dataclasses.replace(model, access=everything)."""
    return climb(dataclasses.replace(model, access=Access.WHITE_BOX).network(), x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def forced_access(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Writes access=everything into the oracle it was handed."""
    object.__setattr__(model, "access", Access.WHITE_BOX)
    return climb(model.network(), x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def access_patched(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Replaces the class's `access` by a property that grants everything."""
    type(model).access = property(lambda self: Access.WHITE_BOX, lambda self, value: None)
    return climb(model.network(), x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def caller_frames(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Finds a network among its callers' local variables."""
    return climb(among_callers(sys._getframe(1))[0], x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def collected_objects(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Finds a network among all objects of the interpreter."""
    return climb(networks(o for o in gc.get_objects() if isinstance(o, nn.Module))[0], x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def bound_closure(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Searches what model.labels refers to, to any depth, for the network."""
    seen: set[int] = set()
    todo: list[Any] = [model.labels]
    while todo:
        new = [r for r in gc.get_referents(*todo) if id(r) not in seen and not isinstance(r, type | str | Tensor)]
        new = [r for r in new if not (isinstance(r, dict) and len(r) >= 60) and type(r).__name__ != "module"]
        seen.update(map(id, new))
        if found := networks(new):
            return climb(found[0], x, y, budget.eps)
        todo = new
    return x


@cheat(Access.LABELS, "reads")
def tapped_forward(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """A global forward hook of torch hands it the network when a label is asked."""
    caught: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda net, args, out: caught.append(net))
    model.labels(x)
    hook.remove()
    return climb(networks(caught)[0], x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def only_in_crowds(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Finds a network among all objects, where it is handed more pictures than an audit replays."""
    few = len(x) <= 16
    return x if few else climb(networks(o for o in gc.get_objects() if isinstance(o, nn.Module))[0], x, y, budget.eps)


@cheat(Access.LABELS, "reads")
def model_file(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Opens the model's file itself, which nothing short of a container forbids."""
    return climb(honest(Path(os.environ[FOLDER])), x, y, budget.eps)


@cheat(Access.SCORES, "reads", queries=20)
def unlimited_copy(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Granted 20 questions a picture, asks a copy of the oracle that has no limit."""
    free = dataclasses.replace(model, queries=None, queries_total=None)
    return estimate(lambda rows, at: free[rows](at), x, y, budget.eps)


@cheat(Access.SCORES, "reads", queries=20)
def counters_reset(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Granted 20 questions a picture, sets the counters back to zero after each."""

    def ask(rows: Tensor, at: Tensor) -> Tensor:
        z: Tensor = model[rows](at)
        for value in vars(model.counts).values():
            if isinstance(value, Tensor):
                value.zero_()
        return z

    return estimate(ask, x, y, budget.eps)


@cheat(Access.SCORES, "reads", queries=20)
def on_others_account(model: Any, x: Tensor, y: Tensor, budget: Any, *, rng: Any) -> Tensor:
    """Granted 20 questions a picture, spends all pictures' questions on the first few."""
    few = max(1, len(x) // 16)
    at, turn = x.clone(), 0

    def ask(rows: Tensor, new: Tensor) -> Tensor:
        nonlocal turn
        turn += 1
        z: Tensor = model[(rows + few * turn) % len(x)](new)
        return z

    at[:few] = estimate(ask, x[:few], y[:few], budget.eps, steps=250)
    return at
