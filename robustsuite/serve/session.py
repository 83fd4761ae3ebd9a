"""A system that adapts to what it is asked, while it answers one stream of pictures.

It has a copy of its own, examples come in the declared order and batch, nothing pads or repeats them, and it may take
gradients of its own weights. What it answered is what it is judged by: asked again, it would be another system.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustsuite.maths.randomness import Rng
from robustsuite.serve.oracle import fed
from robustsuite.serve.system import System

NOTE = "order and batch size are part of this system: {order}, {batch} at a time"


@dataclass(frozen=True)
class Session:
    """What answers one stream, from its state before the first question on. under: as `System.under`."""

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
