"""Defenses that say something of themselves, and lie: serve-stage cards, registered by whoever measures them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.benchmarks.frauds.cheats_reading import FOLDER
from robustsuite.benchmarks.frauds.honest import Kit, kit
from robustsuite.benchmarks.frauds.memory import MatchedFilter
from robustsuite.benchmarks.frauds.tricks import Served, flipped, inverted, looks_like, margin, off_grid, plain, told
from robustsuite.config.threats import Access
from robustsuite.serve import stages

DECLARED: dict[str, Any] = {}
"""Name -> defense."""


@cache
def _kit() -> Kit:
    return kit(Path(os.environ[FOLDER]), Path("none"))


def declared(**facts: Any) -> Callable[[Any], Any]:
    """List a defense that says this of itself."""

    def register(function: Any) -> Any:
        DECLARED[function.__name__] = stages.serve(**facts)(function)
        return DECLARED[function.__name__]

    return register


def _label_alone(net: nn.Module, x: Tensor) -> Tensor:
    return told(net(x).argmax(1), 5 + 0 * x.sum((1, 2, 3)))


@declared(hides=Access.GRADIENTS, surrogate=lambda base, served: _kit().decoy)
def lying_surrogate(net: nn.Module) -> nn.Module:
    """Says that it hides gradients and offers a robust network as its surrogate; the label is the honest one."""
    return Served(net, _label_alone)


@declared(hides=Access.GRADIENTS)
def hides_everything(net: nn.Module) -> nn.Module:
    """Says that it hides gradients and offers none; labels alone are shown as one-hot scores."""
    return Served(net, _label_alone)


@declared(rejects=True)
def off_grid_detector(net: nn.Module) -> nn.Module:
    """Says that it rejects, and rejects all but 8-bit pictures: adversaries on that grid pass."""
    return Served(net, lambda net, x: torch.where(off_grid(x)[:, None], torch.nan, net(x)))


@declared(rejects=True)
def low_confidence_detector(net: nn.Module, *, lead: float = 1.5) -> nn.Module:
    """Says that it rejects, and rejects leads under 1.5: half of the clean pictures, few sure adversaries."""

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        z = plain(net, x)
        return torch.where((margin(z) < lead)[:, None], torch.nan, z)

    return Served(net, answer)


class _Noisy(Served):
    """Draws from the streams it is handed, once a call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, plain)
        self.rng: Any = None

    def forward(self, x: Tensor) -> Tensor:
        noise = self.rng.normal(1)[:, 0].to(x) if self.rng is not None else torch.ones(len(x))
        turn = torch.where(noise > 0.2, 1.0, -1.0).to(x)[:, None, None, None]
        return plain(self.net, looks_like(x * turn, x))


@declared(stochastic=True)
def declared_noise(net: nn.Module) -> nn.Module:
    """Says that it draws noise: the answers are not random at all, the gradient's sign is, biased the wrong way."""
    return _Noisy(net)


@declared(adapts="stream")
def says_it_adapts(net: nn.Module) -> nn.Module:
    """Says that it adapts, so that nobody repeats a question; it reverses gradients off the 8-bit grid."""
    return Served(net, lambda net, x: flipped(net, x, off_grid(x)))


class _FalseVote(Served):
    """Votes by one network, answers for another."""

    def under_noise(self) -> tuple[nn.Module, float]:
        """A robust network that has no vote."""
        return _kit().decoy, 0.25


@declared()
def false_vote(net: nn.Module) -> nn.Module:
    """Says that it answers by the vote of a robust network under noise; its confidence is inverted."""
    return _FalseVote(net, inverted)


@declared()
def stored_pictures(net: nn.Module) -> nn.Module:
    """The test pictures as filters of a convolution."""
    return MatchedFilter(Kit(net, net, _kit().x, _kit().y, Path("none")))
