"""A defended system as it is served: what scenarios play against, as it stands or in a session of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.serve.asking import fed
from robustsuite.serve.data import InputSpace


@dataclass(frozen=True)
class System:
    """The served network; what it hides from a white-box adversary, and the stand-in to attack through as well.

    eot: gradient draws an attack averages over where the user does not say. adapts: it changes with what it is asked.
    under: the network below the defenses, where one of them may reject by a row of NaN; None where nothing may.
    shows: what the model gives anybody at the most. grid: pictures reach it in 8 bits a value.
    """

    net: nn.Module = field(repr=False)
    space: InputSpace
    stochastic: bool = False
    hides: Access = Access.NONE
    surrogate: nn.Module | None = field(default=None, repr=False)
    device: str = "cpu"
    eot: int = 1
    adapts: bool = False
    shows: Access = Access.WHITE_BOX
    grid: bool = False
    under: nn.Module | None = field(default=None, repr=False)


NOTE = "order and batch size are part of this system: {order}, {batch} at a time"


@dataclass(frozen=True)
class Session:
    """What answers one stream, from its state before the first question on. under: as `System.under`.

    A system that adapts to what it is asked has a copy of its own here, examples come in the declared order and batch,
    nothing pads or repeats them, and it may take gradients of its own weights. What it answered is what it is judged
    by: asked again, it would be another system.
    """

    net: nn.Module
    under: nn.Module | None = None

    @classmethod
    def of(cls, system: System) -> Session:
        """A fresh session of a system; the system itself is left as it was."""
        return cls(copy.deepcopy(system.net), system.under)

    def answer(self, x: Tensor, rng: Rng) -> Tensor:
        """Logits (N, K), detached, of the next pictures (N, C, H, W) of the stream; `rng` feeds what it draws."""
        with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.enable_grad(), fed(self.net, rng):
            torch.manual_seed(int(rng.keys[0]) & ((1 << 63) - 1))  # what its layers draw from the global state
            logits: Tensor = self.net(x)
        return logits.detach()
