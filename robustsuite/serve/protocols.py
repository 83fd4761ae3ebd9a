"""What a served network may be besides a function of pictures: each a protocol that the core asks for by isinstance.

Everything but `rng` is a method: Python looks for a protocol's members without calling a module's __getattr__, and so
does not find submodules and buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from robustsuite.maths.randomness import Rng


@runtime_checkable
class Stochastic(Protocol):
    """A module that draws noise: from these streams, one an example, which are set before each call."""

    rng: Rng | None


@runtime_checkable
class Detecting(Protocol):
    """A network that rejects inputs, by a score: a row of NaN is its answer where it does."""

    def score(self, x: Tensor) -> Tensor:
        """How suspicious each picture is (N,); larger is worse."""
        ...


@runtime_checkable
class Billed(Protocol):
    """What a `Box` asks, where each question costs: nothing is asked but what a cell needs, every answer is kept."""

    def begin(self, folder: Path | None) -> None:
        """Keep answers under this folder, and go on from those there; in memory for None."""
        ...

    def seconds(self) -> float:
        """How long a picture takes at the least."""
        ...

    def allowed(self) -> int | None:
        """How many pictures it may be asked about in total, None for any number."""
        ...

    def bill(self) -> str:
        """What was asked so far, in a sentence."""
        ...

    def noticed(self) -> list[str]:
        """What its answers betray, in words: others to the same picture, another model behind the same address."""
        ...


@runtime_checkable
class Smoothed(Protocol):
    """A network that answers by the vote of another one under Gaussian noise."""

    def under_noise(self) -> tuple[nn.Module, float]:
        """The network that votes, and the noise's standard deviation in [0, 1] pixels."""
        ...


@runtime_checkable
class Ensemble(Protocol):
    """A network whose predictors can be asked one by one; called, it returns the mean of their logits."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def predictors(self, x: Tensor) -> Tensor:
        """Logits of every predictor, (B, N, K)."""
        ...


@runtime_checkable
class Separable(Protocol):
    """A network made of several that can be asked by themselves, each as often as it takes."""

    def members(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Each as a function: pictures (N, C, H, W) -> logits (N, K)."""
        ...


@runtime_checkable
class Adapting(Protocol):
    """A network that changes with what it is asked, and can say what it would answer without changing."""

    def standing(self, x: Tensor) -> Tensor:
        """Logits (N, K) of this batch as it stands now, differentiable in the pictures."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A network that tells of each picture it was last asked about what no answer shows."""

    def of_last(self) -> dict[str, Tensor]:
        """Facts (N,) by name, in the order in which the pictures stood."""
        ...
