"""Clean networks that a suspect is compared with: which kind it is of, and networks of that kind trained for it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from robustsuite import __version__
from robustsuite.errors import Unsupported
from robustsuite.scenarios.scan.suspect import Finding, Suspect
from robustsuite.serve.kept import kept, key_of
from robustsuite.serve.models import Training, ready, weights_sha256
from robustsuite.serve.training import Recipe, fitted, one_cycle, untrained

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

EPOCHS, RATE = 10, 0.01
"""How clean networks of a user's own task are trained, by Adam."""

TRIED = 200
"""Clean pictures that a trigger is tried on."""

SEEDS = 7_000
"""The seed of the first clean network beyond the run's own."""


class Likes(NamedTuple):
    """What a scanner says of n clean networks like the suspect: scalars (n,), scores (n, K); which these are."""

    scalars: tuple[float, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    words: str = ""


def kind_of(net: nn.Module) -> str:
    """16 digits that tell architectures apart: the innermost modules in order, with the shapes of their tensors."""
    parts = [
        [type(m).__name__, [list(t.shape) for t in (*m.parameters(), *m.buffers())]]
        for m in net.modules() if not list(m.children())
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def learnt(net: nn.Module, training: Training) -> nn.Module:
    """A fresh network, taught a user's own task."""
    return fitted(net, training, Recipe(EPOCHS, one_cycle(RATE, EPOCHS), batch=50, optimiser="adamw", flip=True))


def clean_nets(context: Context, count: int) -> tuple[nn.Module, ...]:
    """Networks of the suspect's architecture, each with weights of its own, trained on the data's train split and kept.

    Needs AUX_DATA. Raises Unsupported where they do not learn the task.
    """
    training, suspect = context.own_training(), context.network()
    found = []
    for i in range(count):
        fresh = untrained(suspect, training.seed + SEEDS + i).requires_grad_(True)
        own = Training(training.train, training.val, training.seed + SEEDS + i, training.device)
        key = key_of(["scan", weights_sha256(fresh), training.train.sha256, str(EPOCHS), str(RATE),
                      str(own.seed), training.device, __version__])  # fmt: skip
        training.tell(f"clean network {i + 1} of {count}")
        found.append(ready(kept(learnt, key)(fresh, own), training.device))
    pictures = context.aux().pictures
    x, y = pictures.images(torch.arange(min(TRIED, len(pictures)))), pictures.y[:TRIED]
    with torch.no_grad():
        right = [float((net(x.to(training.device)).argmax(1).cpu() == y).float().mean()) for net in found]
    if max(right) < 2 / context.served().space.classes:
        raise Unsupported(f"expected clean networks that learn the task, got {max(right):.0%} right at best after "
                          f"{EPOCHS} epochs of {type(suspect).__name__}; scan without a zoo")  # fmt: skip
    return tuple(found)


def worked(found: Finding, suspect: Suspect, others: Sequence[nn.Module]) -> tuple[float, float]:
    """How often the recovered trigger leads to its class on others' pictures: on the suspect, on clean networks.

    NaN where there is no trigger, no picture or no clean network.
    """
    if found.stamp is None or suspect.pictures is None or found.target < 0:
        return math.nan, math.nan
    x, y = suspect.clean(TRIED)
    stamped = found.stamp(x[y != found.target]).clamp(0, 1)
    if not len(stamped):
        return math.nan, math.nan
    with torch.no_grad():
        shares = [float((net(stamped).argmax(1) == found.target).float().mean()) for net in (suspect.net, *others)]
    return shares[0], sum(shares[1:]) / len(others) if others else math.nan
