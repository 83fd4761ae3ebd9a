"""The adversary's side: networks of its own, trained as the victim is on other halves of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustsuite import __version__
from robustsuite.maths.numerics import as_bytes
from robustsuite.maths.randomness import Rng
from robustsuite.methods.batched import fitted_together
from robustsuite.methods.membership import Shadows
from robustsuite.serve.adversary import Membership
from robustsuite.serve.kept import kept, key_of
from robustsuite.serve.lifecycle import Lifecycle, arithmetic
from robustsuite.serve.models import Training, ready
from robustsuite.serve.oracle import answer
from robustsuite.serve.system import System
from robustsuite.serve.training import FromScratch

if TYPE_CHECKING:
    from robustsuite.scenarios.context import Context

TOGETHER = 16
"""Networks that are trained as one, and kept as one: a killed run trains no more than these again."""

REMEMBERED = 4
"""Sets of pictures whose answers are kept for the next attack."""


@dataclass(frozen=True)
class Owned:
    """An adversary's systems, and what they answered to pictures that were asked about before."""

    systems: tuple[System, ...]
    draw: Membership
    width: int
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def answers(self, x: Tensor) -> Tensor:
        """Logits (M, B, K) of pictures (B, C, H, W); a rejection counts as no opinion."""
        key = sha256(as_bytes(x)).hexdigest()
        if key not in self.known:
            if len(self.known) == REMEMBERED:
                del self.known[next(iter(self.known))]
            self.known[key] = torch.stack([self._one(k, x) for k in range(len(self.systems))])
        return self.known[key]

    def _one(self, k: int, x: Tensor) -> Tensor:
        system = self.systems[k]
        places = torch.arange(len(x), device=x.device)
        streams = Rng.of(self.draw.seed, f"membership/shadow {k}", places) if system.stochastic else None
        with torch.no_grad():
            parts = [answer(system.net, x[i], streams and streams[i]) for i in places.split(self.width)]
        return torch.cat(parts).nan_to_num(nan=0.0)


_OWNED: dict[tuple[object, ...], Owned] = {}
"""The last adversary's systems of a process: cells of one threat and system share them."""


def owned(context: Context, models: int) -> Shadows:
    """What an adversary owns here, trained or read from what is kept; made once for cells that share it."""
    cycles = context.shadows(models)
    first = cycles[0]
    assert first.members is not None
    key = (first.model.identity(), tuple(d.identity() for d in first.defenses), *first.trained_on(), first.seed,
           first.members, first.device, context.width)  # fmt: skip
    if key not in _OWNED:
        _OWNED.clear()
        systems = tuple(c.serving(net) for c, net in zip(cycles, _trained(cycles), strict=True))
        _OWNED[key] = Owned(systems, first.members, context.width)
    found, ids = _OWNED[key], context.subjects.examples.ids
    return Shadows(first.members.each(ids).to(context.device), found.answers, first.data.split("val"))


def _trained(cycles: Sequence[Lifecycle]) -> list[nn.Module]:
    """Their networks before what serves them: as one where the model's own recipe is all that trains them."""
    recipe, changed = cycles[0].model.fit, [d for stage in ("data", "train", "harden") for d in cycles[0].at(stage)]
    if changed or not isinstance(recipe, FromScratch):
        return [cycle.trained() for cycle in cycles]
    return [net for k in range(0, len(cycles), TOGETHER) for net in _batch(cycles[k : k + TOGETHER], recipe)]


def _batch(cycles: Sequence[Lifecycle], recipe: FromScratch) -> list[nn.Module]:
    first = cycles[0]
    train, draw = first.data.split("train"), first.members
    assert draw is not None
    pool = train.at(draw.drawn(train, draw.pool))
    rows = [c.members.inside(pool.ids).nonzero().flatten() for c in cycles if c.members is not None]
    facts = [first.model.identity(), pool.sha256, str([(c.seed, c.members) for c in cycles]),
             __version__, *arithmetic(first.device)]  # fmt: skip

    def fit(nets: nn.Module, training: Training) -> nn.Module:
        assert isinstance(nets, nn.ModuleList)
        fitted_together(list(nets), training, rows, recipe.steps)
        return nets

    fresh = nn.ModuleList([recipe.fresh(c.seed) for c in cycles])
    training = replace(first.own_training(), train=pool, seed=first.seed)
    nets = kept(fit, key_of(facts))(fresh, training)
    return [ready(net, first.device) for net in nets.children()]
